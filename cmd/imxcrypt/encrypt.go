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
		Short: "turn a filesystem in plain text into a volume, in place",
		Long: `Encrypt turns a device that holds a filesystem in plain text into a volume. The data is
encrypted in place; files and the filesystem's UUID stay. With the header in a file
("header:" in the configuration) nothing has to move or shrink. "header: device" needs
room at the end of the device. An ext4 filesystem that leaves none is checked and made
smaller first, with a copy of its metadata and a log in state_dir or --workspace; other
filesystems are refused. A dry run shows the old and the new size.

At the start the device must be unmounted and the filesystem clean. Once the key is
proved, after a few seconds, the volume is unlocked and mounted, and the rest is encrypted
while it is in use. Encrypt may be interrupted at any moment: the device is still in plain
text, or the volume opens, or (shrink-unfinished) only encrypt can continue. In each case
the same command finishes it. SIGTERM and SIGINT stop it at the next zone.

With on_plaintext: encrypt in the configuration, unlock and boot begin the encryption,
once, and imxcrypt-encrypt@NAME.service continues it. This is for updates in the field.

If a volume of this name was made before (a record in state_dir says so), the filesystem
may have been made over it, and a backup of its header may still open what is left.
Encrypt then refuses without --force.

First remove every other way to mount the device (its line in /etc/fstab). The former
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
	c.Flags().BoolVar(&f.initOnly, "init-only", false, "make and prove the key and the header, encrypt no data yet")
	c.Flags().BoolVar(&f.resumeOnly, "resume-only", false, "continue what is under way, start nothing")
	c.Flags().BoolVar(&f.force, "force", false, "encrypt even if the volume was made before, and overwrite what is left of it")
	c.Flags().StringVar(&f.workspace, "workspace", "", "folder for the files needed to make a filesystem smaller (default state_dir)")
	f.inPlace(c, "encrypt")
	c.MarkFlagsMutuallyExclusive("init-only", "resume-only")
	return c
}

func (a *app) encrypt(ctx context.Context, name string, f encryptFlags) (err error) {
	if f.workspace != "" { // a later run, from another directory, must find it
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

// moveInPlace holds what differs between encrypt and decrypt.
type moveInPlace struct {
	does func(*volume.Manager, context.Context, spec.Volume, volume.RotateOptions) (volume.RotateResult, error)
	// what is what the data becomes.
	what string
	// ask asks for confirmation; nil if none is needed.
	ask       func(spec.Volume) error
	mount     bool
	force     bool
	workspace string
}

// inPlace adds the options that encrypt and decrypt share.
func (f *rotateFlags) inPlace(c *cobra.Command, verb string) {
	c.Flags().StringVar(&f.rateLimit, "rate-limit", "", "maximum bytes to "+verb+" per second, such as 512KiB or 8MiB")
	c.Flags().DurationVar(&f.maxHold, "max-hold", 0, "target for how long a zone in use is held while its reads and writes wait (default 100ms, 40ms without dm-delay); a busy system exceeds it")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "check everything, print what would be done and how long it takes, change nothing")
}

// moveInPlace encrypts or decrypts a volume and prints the result with outcome.
func (a *app) moveInPlace(ctx context.Context, name string, f rotateFlags, move moveInPlace, outcome func(spec.Volume, volume.RotateResult) string) error {
	rate, err := f.rate()
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
	if err == nil && r.Rotating { // another operation's, found under way
		a.resumeInBackground(ctx, name)
	}
	return a.printRotation(r, err, func(volume.Result) string { return outcome(s, r) })
}
