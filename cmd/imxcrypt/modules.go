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

// driverNodes are the devices that are there as soon as their drivers are.
type driverNodes struct{ mapper, loop string }

func systemNodes() driverNodes {
	return driverNodes{mapper: "/dev/mapper/control", loop: "/dev/loop-control"}
}

// loadModules loads what the plan needs where it is a module and nothing else has loaded
// it: in an initramfs without udev. Where that does not succeed, opening a volume fails
// with the reason, so this is only logged.
func (a *app) loadModules(ctx context.Context, plan boot.Plan, c driverNodes, programs program.Runner) {
	var missing []string
	if _, err := os.Stat(c.mapper); err != nil { // where it is, the kernel loads a target when a table names it
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

// inFiles reports whether a volume or its header lies in a file.
func inFiles(s boot.Step) bool {
	return s.Spec.Detached() || strings.HasPrefix(s.Spec.Device, "/") && !strings.HasPrefix(s.Spec.Device, "/dev/")
}
