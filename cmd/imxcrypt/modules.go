// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"

	"imxcrypt/internal/program"
)

// mapperControl is there as soon as device-mapper is.
const mapperControl = "/dev/mapper/control"

// loadModules loads device-mapper and dm-crypt where they are modules and
// nothing else has: in an initramfs without udev. Where that does not succeed,
// opening a volume fails with the reason, so this is only logged.
func (a *app) loadModules(ctx context.Context, control string, programs program.Runner) {
	if _, err := os.Stat(control); err == nil {
		return // the kernel loads the target by itself when a table names it
	}
	if _, err := programs.Run(ctx, "modprobe", "-q", "-a", "dm-mod", "dm-crypt"); err != nil {
		a.log.Info("device-mapper is not there, and could not be loaded", "error", err)
	}
}
