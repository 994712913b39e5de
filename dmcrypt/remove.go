// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"
)

// Remove takes a mapping away, its tables and its node in /dev/mapper with it.
// The mapping must not be mounted or in other use: then ErrBusy, at once if
// that can be seen, otherwise after Options.RemoveWait, since udev opens
// mappings for a moment. ErrNotFound if there is none of that name.
//
// The event that udev gets carries the flag of a primary source and no cookie;
// nobody waits for it.
func (m *Mapper) Remove(ctx context.Context, name string) error {
	const op = "remove the device"
	i, err := m.Info(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.options.RemoveWait)
	defer cancel()
	// Each pause is twice the one before: a blkid takes some milliseconds,
	// and a long wait costs few wakeups.
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := devmapper.Remove(name)
		if err == nil {
			m.nodes.disappear(name, i.Number, false)
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return m.failure(op, name, err)
		}
		user := m.longUser(i.Number)
		if user == "" && sleep(ctx, pause) {
			continue
		}
		e := &Error{Op: op, Name: name, Kind: ErrBusy, Err: unix.EBUSY, Detail: user}
		if now, err := m.info(name); err == nil {
			e.Opens = now.Opens
		}
		if e.Detail == "" {
			e.Detail = fmt.Sprintf("open %d times", e.Opens)
		}
		return e
	}
}

// RemoveLater tells the kernel to take a mapping away when nobody has it open
// any more, which may be now.
func (m *Mapper) RemoveLater(name string) error {
	i, err := m.Info(name)
	if err != nil {
		return err
	}
	r := newRequest(name, 0)
	r.header().Flags = unix.DM_DEFERRED_REMOVE
	r.header().Event_nr = uint32(Public)
	if err := m.do(unix.DM_DEV_REMOVE, r); err != nil {
		return m.failure("remove the device later", name, err)
	}
	if _, err := m.info(name); errors.Is(err, unix.ENXIO) {
		m.nodes.disappear(name, i.Number, false)
	}
	return nil
}

// sleep waits; false if the context was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// longUser names a user that will not go away by itself: a mapping above, or a
// mount. Empty if none is seen; udev's probes are not.
func (m *Mapper) longUser(n Number) string {
	holders, err := os.ReadDir(filepath.Join(m.options.Sys, "dev/block", n.String(), "holders"))
	if err == nil && len(holders) > 0 {
		return "held by " + holders[0].Name()
	}
	f, err := os.Open(filepath.Join(m.options.Proc, "self/mountinfo"))
	if err != nil {
		return ""
	}
	defer f.Close()
	want := []byte(n.String())
	for s := bufio.NewScanner(f); s.Scan(); {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		fields := bytes.Fields(s.Bytes())
		if len(fields) > 4 && bytes.Equal(fields[2], want) {
			return fmt.Sprintf("mounted on %q", fields[4])
		}
	}
	return ""
}
