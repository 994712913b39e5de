// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"imxcrypt/boot"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/program"
	"imxcrypt/internal/suspend"
)

// realNight is the running system.
type realNight struct{}

func (realNight) Bed() (bed, error) {
	b, err := suspend.Open(suspend.Options{})
	if err != nil {
		return nil, err
	}
	if err := holdInMemory(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	// Half-way, there is nobody to take over: a terminal that goes away, or a
	// reader, ends nothing.
	signal.Ignore(unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTTOU, unix.SIGTSTP)
	return b, nil
}

func (realNight) Pause(ctx context.Context, volume string) (bool, error) {
	return pauseRotation(ctx, volume)
}

// GoOn has systemd do it; elsewhere nobody would look after the process.
func (realNight) GoOn(ctx context.Context, volume string) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return fault.New(fault.Failed, "there is no systemd to run it", err)
	}
	_, err := program.Runner{}.Run(ctx, "systemctl", "start", "--no-block", boot.RotateServiceName(volume))
	return err
}
