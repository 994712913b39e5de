// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

func (a *app) verifyCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "verify NAME…",
		Short: "check that this chip opens the volume now; changes nothing",
		Long: `Verify opens the volume's key on this chip and proves that it is the right one.
Nothing is written, and a volume in use stays in use. The zone that a killed rotation
holds is finished first.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt verify data",
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.verify(cmd.Context(), args, all)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all volumes of the configuration")
	return c
}

func (a *app) verify(ctx context.Context, names []string, all bool) error {
	m, list, err := a.volumes(names, all)
	if err != nil {
		return err
	}
	return a.each(ctx, list, m.Verify, func(r volume.Result) string {
		return fmt.Sprintf("%s: this chip opens it (uuid %s, generation %d)", r.Volume, r.UUID, r.Generation)
	})
}
