// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type resizeFlags struct {
	size   string
	dryRun bool
}

func (a *app) resizeCommand() *cobra.Command {
	var f resizeFlags
	c := &cobra.Command{
		Use:   "resize NAME",
		Short: "grow a volume and its filesystem to the space that the device has",
		Long: `Resize makes a volume as large as its device has become: first the header, then the
mapping if it is unlocked, then the filesystem if it is mounted (ext4, xfs, btrfs). The
volume may be in use. Grow the partition first, and make the kernel see it (partx -u).
Run again, resize finishes what was interrupted, or finds nothing to do. To grow a
filesystem that was not mounted, mount it and run resize again.

A volume never shrinks, and in the middle of a rotation it does not grow. The space
that a rotation needs stays free. "grow: true" in the configuration does the same
whenever the volume is opened. Afterwards back up the header again.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt resize data
  imxcrypt resize --size 4GiB data`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.resize(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.size, "size", "", "size of the data, such as 512MiB or 4GiB (default all there is room for)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	return c
}

// resizeJSON is the line that `resize --json` prints.
type resizeJSON struct {
	volume.ResizeResult
	OK    bool     `json:"ok"`
	Error *problem `json:"error"`
}

func (a *app) resize(ctx context.Context, name string, f resizeFlags) error {
	bytes, err := parseBytes("--size", f.size)
	if err != nil {
		return err
	}
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	o := volume.ResizeOptions{Size: bytes, DryRun: f.dryRun}
	if f.dryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, func(ctx context.Context, s spec.Volume) (volume.Result, error) {
			r, err := m.Resize(ctx, s, o)
			return r.Result, err
		})
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	r, err := m.Resize(ctx, s, o)
	if a.json {
		a.audit(r.Result, err)
		a.printed = err != nil
		return joinPrint(a.printJSON(resizeJSON{r, err == nil, a.problemOf(r.Volume, err)}), err)
	}
	return joinPrint(a.printResult(r.Result, err, func(res volume.Result) string {
		if res.Already {
			return fmt.Sprintf("%s: has all the space there is, %s (already)", res.Volume, size(r.To))
		}
		if r.From == r.To {
			return fmt.Sprintf("%s: what was interrupted is finished, %s", res.Volume, size(r.To))
		}
		return fmt.Sprintf("%s: grown from %s to %s", res.Volume, size(r.From), size(r.To))
	}), err)
}
