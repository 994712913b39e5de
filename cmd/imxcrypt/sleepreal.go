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

// realSleepSystem is the running system.
type realSleepSystem struct{}

func (realSleepSystem) OpenMachine() (sleepMachine, error) {
	b, err := suspend.Open(suspend.Options{})
	if err != nil {
		return nil, err
	}
	if err := holdInMemory(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	// Nothing could take over half-way: a closed terminal or pipe must not end the
	// process.
	signal.Ignore(unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTTOU, unix.SIGTSTP)
	return b, nil
}

func (realSleepSystem) PauseRotation(ctx context.Context, volume string) (bool, error) {
	return pauseRotation(ctx, volume)
}

// ResumeRotation leaves it to systemd: otherwise the process would have no supervisor.
func (realSleepSystem) ResumeRotation(ctx context.Context, volume string) error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return fault.New(fault.Failed, "there is no systemd to run it", err)
	}
	_, err := program.Runner{}.Run(ctx, "systemctl", "start", "--no-block", boot.RotateServiceName(volume))
	return err
}
