// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

type provisionFlags struct {
	recipients []string

	all, wipe, yes, requireClosed, noMount, dryRun bool
}

func (a *app) provisionCommand() *cobra.Command {
	var f provisionFlags
	c := &cobra.Command{
		Use:   "provision NAME…",
		Short: "create key, header and filesystem of a volume, and mount it",
		Long: `Provision creates a volume's key, writes its header, makes its filesystem and
mounts it. It takes only an empty device: the first and last MiB and blocks
sampled over the whole must be all 0x00 or all 0xFF.

Run again, it finishes what was interrupted, or finds that nothing is left to
do. A volume that is ready is never formatted again.

With --recipient the key is drawn in memory instead of in the chip, and a copy
of it, sealed to an age recipient, is kept in the header: whoever has the
recipient's identity reads the volume without the board ("imxcrypt recover").
That rescues data from a dead board, and is the only way over closing a chip or
to another one; it cannot be added later.

` + exitCodesHelp,
		Example: `  imxcrypt provision data
  imxcrypt provision --all --json
  imxcrypt provision --dry-run data`,
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.provision(cmd.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.all, "all", false, "all volumes of the configuration")
	c.Flags().BoolVar(&f.wipe, "wipe", false, "overwrite what is on the device, if it is no volume of ours")
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm --wipe without being asked for the name")
	c.Flags().BoolVar(&f.requireClosed, "require-closed", false, "refuse unless the chip is known to be closed")
	c.Flags().BoolVar(&f.noMount, "no-mount", false, "leave the volume locked")
	c.Flags().StringArrayVar(&f.recipients, "recipient", nil, "seal a recovery copy of the key to this age recipient (age1…); may be repeated")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "look at everything, print what would be done, change nothing")
	return c
}

func (a *app) provision(ctx context.Context, names []string, f provisionFlags) error {
	m, list, err := a.volumes(names, f.all)
	if err != nil {
		return err
	}
	if f.wipe && !f.dryRun {
		for _, s := range list {
			if err := a.confirm(s.Name, "all data on "+s.Device+" will be lost: provision", f.yes); err != nil {
				return err
			}
		}
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, func(ctx context.Context, s volume.Spec) (volume.Result, error) {
			return m.Provision(ctx, s, volume.ProvisionOptions{Wipe: f.wipe, RequireClosed: f.requireClosed, NoMount: f.noMount, Recipients: f.recipients, DryRun: true})
		})
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	return a.each(ctx, list, func(ctx context.Context, s volume.Spec) (volume.Result, error) {
		return m.Provision(ctx, s, volume.ProvisionOptions{Wipe: f.wipe, RequireClosed: f.requireClosed, NoMount: f.noMount, Recipients: f.recipients})
	}, sentence)
}
