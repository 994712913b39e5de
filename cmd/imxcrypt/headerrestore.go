// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type headerRestoreFlags struct {
	yes, force, dryRun bool
	keep               string
}

const keepUsage = "file for what is replaced (default: one under headers in state_dir)"

func (a *app) headerRestoreCommand() *cobra.Command {
	var f headerRestoreFlags
	c := &cobra.Command{
		Use:   "restore NAME FILE",
		Short: "restore a volume's header from a backup",
		Long: `Restore writes a header from a backup that "header backup" made. Before it writes:

- the device is checked, even behind a damaged or absent header. If it shows a newer
  key, or a rotation that has moved data, the backup is refused: try "imxcrypt
  header repair" first
- the key in the backup must open on this chip, and the data must prove it: the
  volume's filesystem is visible through it, or it opens the check on the device
- the old header is kept in a file. Once the volume is unlocked and its files are
  right, "imxcrypt header repair" removes it from state_dir

An existing header is replaced only after the volume's name is typed. --force permits
a backup with an older key if the filesystem proves that the data is under it. If no
filesystem is visible, it looks for a block of data that is not noise when decrypted with
the key, which also proves the key. A key that nothing proves is never restored, nor one
from before a rotation that has moved data.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt header restore data /media/usb/data.header",
		Args:              exactly(2, "a volume and a file"),
		ValidArgsFunction: a.completeOneVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.headerRestore(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm without being asked for the name")
	c.Flags().BoolVar(&f.force, "force", false, "accept an older key or one that only data proves, and replace a filesystem or a foreign header")
	c.Flags().StringVar(&f.keep, "keep", "", keepUsage)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done, change nothing")
	return c
}

func (a *app) headerRestore(ctx context.Context, name, file string, f headerRestoreFlags) error {
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	o := volume.RestoreOptions{Force: f.force, Keep: f.keep, DryRun: f.dryRun, Confirm: func(what string) error {
		return a.confirm("restore", name, what, f.yes || f.dryRun)
	}}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		return m.RestoreHeader(ctx, s, file, o)
	}
	if f.dryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, do)
	}
	return a.each(ctx, []spec.Volume{s}, do, func(r volume.Result) string {
		if r.Already {
			return fmt.Sprintf("%s: the header is that of the backup (already)", r.Volume)
		}
		return fmt.Sprintf("%s: header of generation %d restored", r.Volume, r.Generation)
	})
}

type headerRepairFlags struct {
	dryRun bool
	keep   string
}

func (a *app) headerRepairCommand() *cobra.Command {
	var f headerRepairFlags
	c := &cobra.Command{
		Use:   "repair NAME",
		Short: "repair a volume's damaged header from its two copies",
		Long: `Repair rewrites a damaged header from what is left:

- from the good copy, as unlock and provision also do
- from both copies if each has what the other lost: a binary header in one and its
  text in the other, or texts damaged in different places. A checksum confirms that
  the result is what was written; the old header is kept in a file

Either way the keys in the header (two of them half-way through a rotation) must open
on this chip, and are proved before anything is written. The volume may be in use. If
nothing can be repaired, nothing is changed; "imxcrypt header restore" takes a backup.

If nothing is damaged and the volume is unlocked, repair removes from state_dir what
repair or restore kept there: the filesystem must prove the key in the header, and a
file that shows a newer key, a rotation or another volume stays.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt header repair data",
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.headerRepair(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.keep, "keep", "", keepUsage)
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done, change nothing")
	return c
}

func (a *app) headerRepair(ctx context.Context, name string, f headerRepairFlags) error {
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		return m.RepairHeader(ctx, s, volume.RepairOptions{Keep: f.keep, DryRun: f.dryRun})
	}
	if f.dryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, do)
	}
	return a.each(ctx, []spec.Volume{s}, do, func(r volume.Result) string {
		if r.Already {
			return fmt.Sprintf("%s: both copies of the header are good (already)", r.Volume)
		}
		return fmt.Sprintf("%s: header of generation %d repaired, its key is proved", r.Volume, r.Generation)
	})
}
