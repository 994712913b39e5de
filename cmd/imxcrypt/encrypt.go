// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type encryptFlags struct {
	noMount   bool
	force     bool
	workspace string
	rotateFlags
}

func (a *app) encryptCommand() *cobra.Command {
	var f encryptFlags
	c := &cobra.Command{
		Use:   "encrypt NAME",
		Short: "make a volume of a filesystem in plain text, in place",
		Long: `Encrypt makes a volume of a device that holds a filesystem in plain text. The data is
encrypted where it is; files and the filesystem's UUID stay. With the header in a file
("header:" in the configuration) nothing has to move or shrink. "header: device" needs
room at the end of the device. An ext4 filesystem that leaves none is checked and made
smaller first, by a copy of its metadata and a log in state_dir or --workspace; others
are refused. A dry run says how much.

The device must be unmounted when it begins, and the filesystem clean. Once the key is
proved, after some seconds, the volume is unlocked and mounted, and the rest is encrypted
while it is in use. It may be interrupted at any moment: the device is in plain text as
it was, or the volume opens, or (shrink-unfinished) only encrypt continues; the same
command ends all of these. SIGTERM and SIGINT stop it at the next zone.

With on_plaintext: encrypt in the configuration, unlock and boot begin it, once, and
imxcrypt-encrypt@NAME.service continues it: for updates in the field.

Where a volume of this name was made before (a record in state_dir says so), somebody may
have made the filesystem over it, and a backup of its header may still open what is left:
that is refused without --force.

Remove every other way to mount the device (its line in /etc/fstab) before. What was in
plain text may survive in spare blocks of the flash.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt encrypt --dry-run data
  imxcrypt encrypt data
  imxcrypt encrypt --no-mount --json data
  imxcrypt encrypt --workspace /mnt/usb data
  imxcrypt encrypt --resume-only --rate-limit 8MiB data`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.encrypt(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.noMount, "no-mount", false, "leave the volume locked while it is encrypted, which is faster")
	c.Flags().BoolVar(&f.initOnly, "init-only", false, "make and prove key and header, encrypt no data yet")
	c.Flags().BoolVar(&f.resumeOnly, "resume-only", false, "continue what is under way, start nothing")
	c.Flags().BoolVar(&f.force, "force", false, "encrypt also where the volume was made before, and overwrite what is left of that")
	c.Flags().StringVar(&f.workspace, "workspace", "", "folder for what it takes to make a filesystem smaller (default state_dir)")
	f.inPlace(c, "encrypt")
	c.MarkFlagsMutuallyExclusive("init-only", "resume-only")
	return c
}

func (a *app) encrypt(ctx context.Context, name string, f encryptFlags) (err error) {
	if f.workspace != "" { // another run, in another folder, must find it
		if f.workspace, err = filepath.Abs(f.workspace); err != nil {
			return err
		}
	}
	move := moveInPlace{does: (*volume.Manager).Encrypt, what: "encrypted", mount: !f.noMount, force: f.force, workspace: f.workspace}
	return a.moveInPlace(ctx, name, f.rotateFlags, move, func(s spec.Volume, r volume.RotateResult) string {
		res := r.Result
		switch {
		case res.Already && f.resumeOnly:
			return res.Volume + ": nothing is under way"
		case r.Rotation == nil && f.resumeOnly:
			return res.Volume + ": the filesystem is smaller; nothing is encrypted"
		case res.Already:
			return res.Volume + ": encrypted (already)"
		case r.Rotation == nil && res.Mounted != "":
			return res.Volume + ": encrypted before, mounted on " + res.Mounted
		case r.Rotation == nil:
			return res.Volume + ": encrypted before, unlocked"
		case r.Rotation != nil && r.Rotation.Done < r.Rotation.Total:
			return res.Volume + ": key ready; no data encrypted yet"
		}
		header := s.Header
		if !s.Detached() {
			header = "its header"
		}
		return fmt.Sprintf("%s: encrypted; without %s nothing opens it: back it up (imxcrypt header backup)", res.Volume, header)
	})
}

// moveInPlace is what encrypt and decrypt do differently.
type moveInPlace struct {
	does func(*volume.Manager, context.Context, spec.Volume, volume.RotateOptions) (volume.RotateResult, error)
	// what the data becomes
	what string
	// ask has a person confirm it; nil where nobody need.
	ask       func(spec.Volume) error
	mount     bool
	force     bool
	workspace string
}

// inPlace adds the options that encrypt and decrypt share.
func (f *rotateFlags) inPlace(c *cobra.Command, verb string) {
	c.Flags().StringVar(&f.rateLimit, "rate-limit", "", "most bytes to "+verb+" per second, as 512KiB or 8MiB")
	c.Flags().DurationVar(&f.maxHold, "max-hold", 0, "target for how long a zone in use is held (default 100ms, 40ms without dm-delay), exceeded on a busy system; reads and writes in it wait")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done and how long it takes, change nothing")
}

// moveInPlace encrypts or decrypts a volume and prints what outcome says of the result.
func (a *app) moveInPlace(ctx context.Context, name string, f rotateFlags, move moveInPlace, outcome func(spec.Volume, volume.RotateResult) string) error {
	rate, err := parseRate(f.rateLimit)
	if err != nil {
		return err
	}
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	o := volume.RotateOptions{
		InitOnly: f.initOnly, ResumeOnly: f.resumeOnly, RateLimit: rate, MaxHold: f.maxHold, Mount: move.mount, Force: move.force, Workspace: move.workspace, DryRun: f.dryRun,
	}
	if f.dryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, func(ctx context.Context, s spec.Volume) (volume.Result, error) {
			r, err := move.does(m, ctx, s, o)
			return r.Result, err
		})
	}
	if move.ask != nil {
		if err := move.ask(s); err != nil {
			return err
		}
	}
	r, err := a.showMoving(name, move.what, o, func(o volume.RotateOptions) (volume.RotateResult, error) { return move.does(m, ctx, s, o) })
	return a.printRotation(r, err, func(volume.Result) string { return outcome(s, r) })
}
