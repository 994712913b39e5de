// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type decryptFlags struct {
	yes bool
	rotateFlags
}

func (a *app) decryptCommand() *cobra.Command {
	var f decryptFlags
	c := &cobra.Command{
		Use:   "decrypt NAME",
		Short: "turn a volume back into a filesystem in plain text, in place",
		Long: `Decrypt reverses encrypt: the data of a volume becomes a filesystem in plain text on
the device itself. It asks for the volume's name, because nothing protects the data
afterwards.

The volume may be locked or in use. Decrypt may be interrupted at any moment: the volume
still opens, or (decryption-unfinished, at the very end) only decrypt continues; the same
command finishes both. Once all data is in plain text and the volume
is locked, the header is removed, and with it the key. Until then, do not mount the device
itself.

A header on the device takes the place of the filesystem's first bytes, which are kept
behind the data meanwhile. If there is no room for them, decrypt says so, and whether a
rotation makes it.

With decrypt, a volume that was made on an open chip survives closing: decrypt, close the
chip, encrypt.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt decrypt data\n  imxcrypt decrypt --yes --json data",
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.decrypt(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm without being asked for the name")
	f.inPlace(c, "decrypt")
	return c
}

func (a *app) decrypt(ctx context.Context, name string, f decryptFlags) error {
	move := moveInPlace{does: (*volume.Manager).Decrypt, what: "in plain text", ask: func(s spec.Volume) error {
		return a.confirm("decrypt", name, "nothing will protect the data on "+s.Device+" any more", f.yes)
	}}
	return a.moveInPlace(ctx, name, f.rotateFlags, move, func(s spec.Volume, r volume.RotateResult) string { return decrypted(r.Result, s.Device) })
}

// decrypted describes how far a decryption got. configured is the volume's configured
// device, which for an image is the file.
func decrypted(r volume.Result, configured string) string {
	switch {
	case r.Already:
		return r.Volume + ": in plain text (already)"
	case r.Mapping != "":
		return r.Volume + ": all data is in plain text, the header is still there"
	}
	device := r.Device
	if strings.HasPrefix(configured, "/") {
		device = configured
	}
	return r.Volume + ": decrypted; mount " + device + " itself from now on"
}
