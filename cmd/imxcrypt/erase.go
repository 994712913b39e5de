// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

type eraseFlags struct{ yes, dryRun bool }

func (a *app) eraseCommand() *cobra.Command {
	var f eraseFlags
	c := &cobra.Command{
		Use:   "erase NAME",
		Short: "destroy a volume's key, and with it the data",
		Long: `Erase locks a volume and destroys its key: the sealed key, both copies of the
header and the check are overwritten, and discarded if the storage supports that. It
proves that nothing is left to open, and says what remains. Run again, it
finishes what was interrupted. If the volume has key: ephemeral, it removes the mark,
without which the device is no longer formatted.

Afterwards "imxcrypt provision NAME" makes a new volume in one step: a factory
reset. (On such a volume cryptsetup luksErase returns 0 and destroys nothing.)

` + exitCodes(fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt erase data\n  imxcrypt erase --yes data && imxcrypt provision data",
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.erase(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm without being asked for the name")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done, change nothing")
	return c
}

// eraseJSON is what `erase --json` prints.
type eraseJSON struct {
	volume.EraseResult
	OK    bool     `json:"ok"`
	Error *problem `json:"error"`
}

func (a *app) erase(ctx context.Context, name string, f eraseFlags) error {
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	if !f.dryRun {
		if err := a.confirm("erase", name, "all data on "+s.Device+" will be lost forever", f.yes); err != nil {
			return err
		}
	}
	r, err := m.Erase(ctx, s, volume.EraseOptions{DryRun: f.dryRun})
	if a.json {
		if !f.dryRun {
			a.audit(r.Result, err)
		}
		a.printed = a.printed || err != nil
		return joinPrint(a.printJSON(eraseJSON{r, err == nil, a.problemOf(r.Volume, err)}), err)
	}
	if f.dryRun {
		if err := joinPrint(a.printPlan(r.Result, err), err); err != nil {
			return err
		}
	} else if err := joinPrint(a.printResult(r.Result, err, erasedSentence), err); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "what remains:\n%s\n", bullets(r.Remains))
	return nil
}

func erasedSentence(r volume.Result) string {
	if r.Already {
		return r.Volume + ": erased (already)"
	}
	return r.Volume + ": erased, nothing opens it any more; imxcrypt provision " + r.Volume + " makes a new one"
}
