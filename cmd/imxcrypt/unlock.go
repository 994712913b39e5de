// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type unlockFlags struct {
	all, mount, forRepair, noWait, dryRun bool
}

func (a *app) unlockCommand() *cobra.Command {
	var f unlockFlags
	c := &cobra.Command{
		Use:   "unlock NAME…",
		Short: "open a volume: prove its key, then make /dev/mapper/NAME",
		Long: `Unlock opens the key on this chip, proves that it is the volume's, and makes
/dev/mapper/NAME. With --mount it also mounts the volume. A volume that is already
unlocked is compared with the configuration and left as it is. A device that
holds a filesystem in plain text is refused; with on_plaintext: encrypt in the
configuration it becomes the volume, see imxcrypt-encrypt(1). A volume with key:
ephemeral gets a new key and is formatted; with --mount, swap is also enabled.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt unlock --mount data
  imxcrypt unlock --all
  imxcrypt unlock --for-repair data && e2fsck /dev/mapper/data`,
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.unlock(cmd.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.all, "all", false, "all volumes of the configuration")
	c.Flags().BoolVar(&f.mount, "mount", false, "also mount the volume")
	c.Flags().BoolVar(&f.forRepair, "for-repair", false, "accept a damaged filesystem; never mounts, and is read-only if the data does not prove the key")
	c.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait for a device that is not there yet")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	c.MarkFlagsMutuallyExclusive("mount", "for-repair")
	return c
}

func (a *app) unlock(ctx context.Context, names []string, f unlockFlags) error {
	m, list, err := a.volumes(names, f.all)
	if err != nil {
		return err
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		r, err := m.Unlock(ctx, s, volume.UnlockOptions{
			// With --all, a volume without a mount point is only unlocked.
			Mount: f.mount && (!f.all || s.Mountable()), ForRepair: f.forRepair, NoWait: f.noWait, DryRun: f.dryRun,
		})
		if err == nil && r.Rotating {
			a.resumeInBackground(ctx, s.Name)
		}
		return r, err
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, do)
	}
	return a.each(ctx, list, do, func(r volume.Result) string {
		i := slices.IndexFunc(list, func(s spec.Volume) bool { return s.Name == r.Volume })
		if r.Already || r.Mounted != "" || f.forRepair || i < 0 || list[i].Mount.Path == "" {
			return sentence(r)
		}
		return fmt.Sprintf("%s; imxcrypt unlock --mount %s mounts it on %s", sentence(r), r.Volume, list[i].Mount.Path)
	})
}
