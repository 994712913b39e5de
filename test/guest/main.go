// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command guest is /init of the virtual machines that the tests boot. It mounts what
// every program expects, loads modules, opens the virtio-serial port to the host and
// then does what the host requests (package wire).
//
// In a system with its own init it is a service that only handles the host's requests.
//
// It is one static program instead of a shell script because starting a Go program is
// quicker than a shell's dozen forks on an emulated processor, and because the host
// needs exact exit codes, signals and both output streams.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	if os.Getpid() != 1 {
		// udev loads the port's driver in its own time.
		if err := serve(time.Minute); err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		// There is only the console to report to. The host sees the port close when the
		// machine goes down.
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	powerOff()
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	settings, err := readSettings()
	if err != nil {
		return err
	}
	if err := loadModules(settings); err != nil {
		return err
	}
	if settings.Root != "" {
		return switchRoot(settings.Root)
	}
	return serve(2 * time.Minute)
}

func serve(limit time.Duration) error {
	port, err := openPort(limit)
	if err != nil {
		return err
	}
	return newServer(port).serve()
}

func powerOff() {
	syscall.Sync()
	if err := syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guest: power off:", err)
	}
	select {} // PID 1 must not end: the kernel would panic
}
