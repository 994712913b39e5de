// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"slices"
	"strings"

	"imxcrypt/boot"
	"imxcrypt/internal/program"
)

// driverNodes are device nodes that exist once their drivers are loaded.
type driverNodes struct{ mapper, loop string }

func systemNodes() driverNodes {
	return driverNodes{mapper: "/dev/mapper/control", loop: "/dev/loop-control"}
}

// loadModules loads the modules that the plan needs if nothing else has loaded them, as
// in an initramfs without udev. If that fails, opening a volume fails with the reason, so
// the failure is only logged.
func (a *app) loadModules(ctx context.Context, plan boot.Plan, c driverNodes, programs program.Runner) {
	var missing []string
	if _, err := os.Stat(c.mapper); err != nil { // with dm-mod, the kernel loads a target when a table names it
		missing = append(missing, "dm-mod", "dm-crypt")
	}
	if _, err := os.Stat(c.loop); err != nil && slices.ContainsFunc(plan.Steps, inFiles) {
		missing = append(missing, "loop")
	}
	if len(missing) == 0 {
		return
	}
	if _, err := programs.Run(ctx, "modprobe", append([]string{"-q", "-a"}, missing...)...); err != nil {
		a.log.Info("modules of the kernel are not there, and could not be loaded", "modules", missing, "error", err)
	}
}

// inFiles reports whether a volume or its header is in a file.
func inFiles(s boot.Step) bool {
	return s.Spec.Detached() || strings.HasPrefix(s.Spec.Device, "/") && !strings.HasPrefix(s.Spec.Device, "/dev/")
}
