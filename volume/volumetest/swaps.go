// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
)

// swaps swaps on what has a swap header, and keeps it busy.
type swaps struct{ *Board }

func (s swaps) SwapOn(device string, _ bool) error {
	if err := s.step("swapon " + device); err != nil {
		return err
	}
	f, err := s.DM.Open(device, true)
	if err != nil {
		return err
	}
	page := make([]byte, os.Getpagesize())
	if _, err := f.ReadAt(page, 0); err != nil || string(page[len(page)-10:]) != "SWAPSPACE2" {
		return errors.Join(unix.EINVAL, err, f.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.swaps == nil {
		s.swaps = map[dmcrypt.Number]*dmtest.File{}
	}
	s.swaps[f.Number()] = f
	return nil
}

func (s swaps) SwapOff(device string) error {
	if err := s.step("swapoff " + device); err != nil {
		return err
	}
	f, err := s.DM.Open(device, false)
	if err != nil {
		return err
	}
	n := f.Number()
	if err := f.Close(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	on := s.swaps[n]
	if on == nil {
		return unix.EINVAL
	}
	delete(s.swaps, n)
	return on.Close()
}
