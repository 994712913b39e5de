// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

func (a *app) renameCommand() *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "rename OLD NEW",
		Short: "give a volume another name",
		Long: `Rename gives the volume OLD the name NEW: in its header, and in the check of its key,
which is bound to the name. The key, its recovery copies, the data and the filesystem
with its UUID stay as they are.

Lock the volume first, and change its name in the configuration: rename takes the
volume that is there as NEW, and refuses if OLD is still there. Until it has run,
the volume does not open under either name. Run again, it finishes what was
interrupted. In the middle of a rotation it refuses. Afterwards back up the header
again, and change whatever else has the old name: units, /etc/fstab, the configuration
in the initramfs.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt lock data
  sed -i 's/name: data/name: records/' /etc/imxcrypt/imxcrypt.yaml
  imxcrypt rename data records`,
		Args: exactly(2, "the old and the new name"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) != 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp // the old name is not in the configuration
			}
			return a.completeVolumes(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.rename(cmd.Context(), args[0], args[1], dryRun)
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, change nothing")
	return c
}

func (a *app) rename(ctx context.Context, old, name string, dryRun bool) error {
	if old == name {
		return fault.Newf(fault.Usage, "both names are %q", name)
	}
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	v, err := renamedVolume(c, old, name)
	if err != nil {
		return err
	}
	a.volume = name
	list := []spec.Volume{boot.Spec(c, v)}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		return m.Rename(ctx, s, old, volume.RenameOptions{DryRun: dryRun})
	}
	if dryRun {
		return a.eachPlan(ctx, list, do)
	}
	return a.each(ctx, list, do, func(r volume.Result) string {
		if r.Already {
			return fmt.Sprintf("%s: has this name (already)", r.Volume)
		}
		return fmt.Sprintf("%s: renamed from %s", r.Volume, old)
	})
}

// renamedVolume returns the configuration's volume with the new name. The old name must
// not be there: the order of the arguments must not decide which of two volumes a device
// is.
func renamedVolume(c *configs.Config, old, name string) (configs.Volume, error) {
	v, err := c.Volume(name)
	_, errOld := c.Volume(old)
	switch {
	case errOld != nil:
		return v, err
	case err != nil:
		return v, fault.Newf(fault.RenameRefused, "the configuration still has the volume %q, and no volume %q", old, name)
	}
	return v, fault.Newf(fault.RenameRefused, "the configuration still has the volume %q in addition to the volume %q", old, name)
}
