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

type provisionFlags struct {
	recipients []string

	all, wipe, yes, requireClosed, noMount, dryRun, passphrase bool
}

func (a *app) provisionCommand() *cobra.Command {
	var f provisionFlags
	c := &cobra.Command{
		Use:   "provision NAME…",
		Short: "create a volume's key, header and filesystem, and mount it",
		Long: `Provision creates a volume's key, writes its header, makes its filesystem and
mounts it. It accepts only an empty device: the first and last MiB, and blocks
sampled over the whole device, must be all 0x00 or all 0xFF. With "size:" it makes the
file of a volume's image if there is none. It marks the device of a volume with
key: ephemeral: from then on that device is formatted whenever the volume is unlocked.

Run again, provision finishes what was interrupted, or reports that nothing is left to
do. It never formats a volume that is ready. Afterwards back up the header
("imxcrypt header backup"): without it nothing opens the volume.

With --recipient the key is generated in memory instead of in the chip, and the
header keeps a copy of it, sealed to an age recipient. The recipient's identity
then opens the volume without the board ("imxcrypt recover"). With
--recovery-passphrase it keeps a copy that opens with eight words, which are shown once
and stored nowhere. Only such a copy saves the data if the board dies, the chip is closed,
or the storage moves to another chip. "imxcrypt rotate" adds one later, with a new key.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt provision data
  imxcrypt provision --all --json
  imxcrypt provision --dry-run data`,
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.provision(cmd.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.all, "all", false, "all volumes of the configuration")
	c.Flags().BoolVar(&f.wipe, "wipe", false, "overwrite what is on the device, unless it is an imxcrypt volume")
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm --wipe without being asked for the name")
	c.Flags().BoolVar(&f.requireClosed, "require-closed", false, "refuse unless the chip is known to be closed")
	c.Flags().BoolVar(&f.noMount, "no-mount", false, "leave the volume locked")
	c.Flags().StringArrayVar(&f.recipients, "recipient", nil, "seal a recovery copy of the key to this age recipient (age1…); may be repeated")
	c.Flags().BoolVar(&f.passphrase, "recovery-passphrase", false, "make a recovery copy of the key that opens with a passphrase, and show the passphrase once")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done, change nothing")
	return c
}

func (a *app) provision(ctx context.Context, names []string, f provisionFlags) error {
	m, list, err := a.volumes(names, f.all)
	if err != nil {
		return err
	}
	if f.wipe && !f.dryRun {
		for _, s := range list {
			lost := "all data on " + s.Device + " will be lost"
			if st := m.Status(ctx, s); st.State == volume.HeaderMissing {
				lost += ", also what a backup of the header would still open (" + oneLine(st.Err.Error()) + ")"
			}
			if err := a.confirm("provision", s.Name, lost, f.yes); err != nil {
				return err
			}
		}
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		show, err := a.passphraseShown(f.passphrase, s.Name)
		if err != nil {
			return volume.Result{Volume: s.Name}, err
		}
		return m.Provision(ctx, s, volume.ProvisionOptions{
			Wipe: f.wipe, RequireClosed: f.requireClosed, NoMount: f.noMount, DryRun: f.dryRun,
			Recipients: f.recipients, Passphrase: show,
		})
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, do)
	}
	return a.each(ctx, list, do, a.provisioned)
}

// provisioned is sentence, with a reminder if there is a new header to back up.
func (a *app) provisioned(r volume.Result) string {
	if !r.Already && r.Generation > 0 { // a throw-away key has no header
		fmt.Fprintf(a.stderr, "%simxcrypt: %s: back up the header, without it nothing opens the volume: imxcrypt header backup %s FILE\n",
			a.priority(priorityInfo), r.Volume, r.Volume)
	}
	return sentence(r)
}
