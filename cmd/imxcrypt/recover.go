// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type recoverFlags struct {
	identity, passphraseFile, name, header, reseal, fingerprint string

	passphrase, dryRun bool
}

func (a *app) recoverCommand() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "recover {--identity FILE | --passphrase | --passphrase-file FILE} {DEVICE | IMAGE | --reseal VOLUME}",
		Short: "open a volume without its board, or give it to another chip",
		Long: `On any Linux machine, recover opens a volume whose key has a recovery copy, read-only
and with plain AES: it needs no CAAM and no configuration. The recovery identity (age,
AGE-SECRET-KEY-1…) or the recovery passphrase opens the copy in the header. Mount
the volume with "mount -o ro,noload" (ext4), and close it with "cryptsetup close" or
"dmsetup remove".

With --reseal NAME, on a board, this chip seals the same key into a new blob; the data
is untouched. This moves the storage to a replacement board, and saves a volume that was
made on an open chip when the chip is closed. The old blob stays until the new one is
proved.

Anyone can seal such a copy. So --reseal takes only the copy whose fingerprint you noted
when the volume was made ("recovery_fingerprint" in the output of provision, or of the
last rotate): give it with --fingerprint, or type it when asked. Otherwise an attacker
with the storage could make this board use a key of their own.

While recover runs, the plain key is in memory: use a machine that you trust.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt recover --identity key.txt /dev/sdb3 --name rescued
  imxcrypt recover --passphrase disk.img
  imxcrypt recover --identity key.txt --reseal data \
      --fingerprint 0123-4567-89ab-cdef-0123-4567-89ab-cdef`,
		Args: func(_ *cobra.Command, args []string) error {
			if (f.reseal == "") != (len(args) == 1) || len(args) > 1 {
				return fault.New(fault.Usage, "name a device or an image, or a volume with --reseal", nil)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.reseal != "" {
				return a.reseal(cmd.Context(), f)
			}
			return a.recover(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.identity, "identity", "", "file with the recovery identity; - is standard input")
	c.Flags().BoolVar(&f.passphrase, "passphrase", false, "ask for the recovery passphrase on the terminal")
	c.Flags().StringVar(&f.passphraseFile, "passphrase-file", "", "file with the recovery passphrase; - is standard input")
	c.MarkFlagsMutuallyExclusive("identity", "passphrase", "passphrase-file")
	c.Flags().StringVar(&f.name, "name", "", "name of the mapping (default recovered-NAME)")
	c.Flags().StringVar(&f.header, "header", "", "file of a detached header (default on the device)")
	c.Flags().StringVar(&f.reseal, "reseal", "", "seal the key of this configured volume for this chip")
	c.Flags().StringVar(&f.fingerprint, "fingerprint", "", "with --reseal: fingerprint of the recovery copy, as you noted it (default: asks for it)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "with --reseal: check everything, change nothing")
	_ = c.RegisterFlagCompletionFunc("reseal", a.completeVolumes)
	return c
}

func (a *app) recover(ctx context.Context, path string, f recoverFlags) (err error) {
	if f.dryRun {
		return fault.New(fault.Usage, "--dry-run is for --reseal: recover itself opens read-only", nil)
	}
	if f.fingerprint != "" {
		return fault.New(fault.Usage, "--fingerprint is for --reseal: recover itself gives no board a key", nil)
	}
	opener, done, err := a.opener(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	m, err := a.bareManager()
	if err != nil {
		return err
	}
	r, err := m.Recover(ctx, volume.RecoverOptions{Path: path, Header: f.header, Name: f.name, Opener: opener})
	if fault.Is(err, fault.DeviceMissing) {
		err = named("recover", err)
	}
	return joinPrint(a.printResult(r, err, func(r volume.Result) string {
		return fmt.Sprintf("%s: open read-only as %s", r.Volume, r.Mapping)
	}), err)
}

func (a *app) reseal(ctx context.Context, f recoverFlags) (err error) {
	if f.name != "" || f.header != "" {
		return fault.New(fault.Usage, "--name and --header have no meaning with --reseal: the configuration names the volume", nil)
	}
	m, s, err := a.oneVolume(f.reseal)
	if err != nil {
		return err
	}
	opener, done, err := a.opener(f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	o := volume.ResealOptions{Opener: opener, DryRun: f.dryRun}
	switch {
	case f.fingerprint != "":
		o.Fingerprint = func() (string, error) { return f.fingerprint, nil }
	case !f.dryRun:
		o.Fingerprint = func() (string, error) { return a.askFingerprint(s.Name) }
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		return m.Reseal(ctx, s, o)
	}
	if f.dryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, do)
	}
	return a.each(ctx, []spec.Volume{s}, do, func(r volume.Result) string {
		if r.Already {
			return r.Volume + ": this chip opens it (already)"
		}
		return r.Volume + ": sealed by this chip (" + r.SecurityState + "), the data was not touched"
	})
}

// askFingerprint asks for the fingerprint to be typed. It does not show the fingerprint
// of the copy in the header, which would only be copied.
func (a *app) askFingerprint(name string) (string, error) {
	typed, ok := a.ask("fingerprint of the recovery copy of " + name + ", as it was noted: ")
	if !ok {
		return "", fault.New(fault.Usage, "--fingerprint is missing: that of the recovery copy, as provision or rotate printed it", nil)
	}
	return typed, nil
}

// maxIdentity bounds an identity file, in bytes.
const maxIdentity = 64 << 10

// opener prepares the process for a plain key, and opens the identity or passphrase that
// opens the recovery copy.
func (a *app) opener(f recoverFlags) (o volume.Opener, done func() error, err error) {
	if err := secret.Harden(); err != nil {
		return o, nil, err
	}
	if f.passphrase {
		o.Passphrase = func() (string, error) {
			typed, ok := a.ask("recovery passphrase, eight words (shown while you type): ")
			if !ok {
				return "", fault.New(fault.Usage, "there is no terminal to type the recovery passphrase on; --passphrase-file reads it", nil)
			}
			return typed, nil
		}
		return o, func() error { return nil }, nil
	}
	option, path := "--identity", f.identity
	if f.passphraseFile != "" {
		option, path = "--passphrase-file", f.passphraseFile
	}
	file, err := a.openSecret(option, path)
	if err != nil {
		return o, nil, err
	}
	if f.passphraseFile != "" {
		o.Passphrase = func() (string, error) {
			text, err := io.ReadAll(file)
			defer clear(text)
			return string(text), err
		}
	} else {
		o.Identities = file
	}
	return o, file.Close, nil
}

// openSecret opens the file that an option names.
func (a *app) openSecret(option, path string) (io.ReadCloser, error) {
	if path == "" {
		return nil, fault.New(fault.Usage, "--identity is missing: the file with the recovery identity (or --passphrase)", nil)
	}
	if path == "-" {
		return io.NopCloser(io.LimitReader(a.stdin, maxIdentity)), nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, named(option, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxIdentity), f}, nil
}

// statusRecovery is the recovery copy in the output of `status --json`.
type statusRecovery struct {
	Recipients  []string `json:"recipients"`
	Passphrase  bool     `json:"passphrase"`
	Fingerprint string   `json:"fingerprint"`
}

// recoveryOf returns nil for a volume without a recovery copy.
func recoveryOf(st volume.Status) *statusRecovery {
	if st.RecoveryFingerprint == "" {
		return nil
	}
	return &statusRecovery{Recipients: append([]string{}, st.Recipients...), Passphrase: st.RecoveryPassphrase, Fingerprint: st.RecoveryFingerprint}
}

// printRecovery warns about recovery copies, which open a volume without its board.
func (a *app) printRecovery(st volume.Status) {
	for _, recipient := range st.Recipients {
		fmt.Fprintf(a.stderr, "%simxcrypt: %s: RECOVERY COPY of the key: the identity of %s opens this volume without the board\n",
			a.priority(priorityWarning), st.Name, recipient)
	}
	if st.RecoveryPassphrase {
		fmt.Fprintf(a.stderr, "%simxcrypt: %s: RECOVERY COPY of the key: a passphrase opens this volume without the board\n",
			a.priority(priorityWarning), st.Name)
	}
}
