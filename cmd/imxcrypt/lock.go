// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type lockFlags struct {
	all, dryRun bool
}

func (a *app) lockCommand() *cobra.Command {
	var f lockFlags
	c := &cobra.Command{
		Use:   "lock NAME…",
		Short: "unmount a volume and remove its key from the kernel",
		Long: `Lock unmounts a volume, or disables its swap, and removes /dev/mapper/NAME and with it
the kernel's copy of the key. A volume that is already locked stays locked. With
--all, volumes inside other volumes are locked first.

Lock first looks for what would keep the volume open: programs, mounts in other mount
namespaces (of containers and services), mappings, loop devices, swap. If it finds
any, it names them and unmounts nothing. It refuses a volume of another configuration
that has the same name.

` + exitCodes(fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt lock data\n  imxcrypt lock --all",
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.lock(cmd.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.all, "all", false, "all volumes of the configuration")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	return c
}

func (a *app) lock(ctx context.Context, names []string, f lockFlags) error {
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	list, err := a.specs(c, names, f.all)
	if err != nil {
		return err
	}
	if f.all {
		plan, err := boot.NewPlan(c)
		if err != nil {
			return err
		}
		list = list[:0]
		for _, step := range plan.Reverse().Steps {
			list = append(list, step.Spec)
		}
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		return m.Lock(ctx, s, volume.LockOptions{DryRun: f.dryRun})
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, do)
	}
	return a.each(ctx, list, do, lockedSentence)
}

func lockedSentence(r volume.Result) string {
	if r.Already {
		return r.Volume + ": locked (already)"
	}
	return r.Volume + ": locked"
}
