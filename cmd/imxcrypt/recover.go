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
)

type recoverFlags struct {
	identity, name, header, reseal string
	dryRun                         bool
}

func (a *app) recoverCommand() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "recover --identity FILE DEVICE|IMAGE",
		Short: "open a volume without its board, or give it to another chip",
		Long: `Recover opens a volume that was provisioned with --recipient on any Linux
machine, read-only and with plain AES: no CAAM, no configuration. The recovery
identity (age, AGE-SECRET-KEY-1…) opens the copy of the key in the header. Mount
it with "mount -o ro,noload" (ext4), and close it with "cryptsetup close" or
"dmsetup remove".

With --reseal NAME, on a board, the key is given to this chip instead: a new
blob for the same key, the data untouched. It is the way to a replacement board,
and the only one over closing a chip whose volume was made while it was open.
Until the new blob is proved the old one stays.

The plain key is in memory meanwhile: use a machine that you trust.

` + exitCodesHelp,
		Example: `  imxcrypt recover --identity key.txt /dev/sdb3 --name rescued
  imxcrypt recover --identity key.txt disk.img
  imxcrypt recover --identity key.txt --reseal data`,
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
	c.Flags().StringVar(&f.name, "name", "", "name of the mapping (default recovered-NAME)")
	c.Flags().StringVar(&f.header, "header", "", "file of a detached header (default on the device)")
	c.Flags().StringVar(&f.reseal, "reseal", "", "give the key of this volume of the configuration to this chip")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "with --reseal: look at everything, change nothing")
	_ = c.RegisterFlagCompletionFunc("reseal", a.completeVolumes)
	return c
}

func (a *app) recover(ctx context.Context, path string, f recoverFlags) (err error) {
	if f.dryRun {
		return fault.New(fault.Usage, "--dry-run is for --reseal: recover itself opens read-only", nil)
	}
	identities, err := a.openIdentity(f.identity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, identities.Close()) }()
	m, err := a.bareManager()
	if err != nil {
		return err
	}
	r, err := m.Recover(ctx, volume.RecoverOptions{Path: path, Header: f.header, Name: f.name, Identities: identities})
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
	identities, err := a.openIdentity(f.identity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, identities.Close()) }()
	do := func(ctx context.Context, s volume.Spec) (volume.Result, error) {
		return m.Reseal(ctx, s, volume.ResealOptions{Identities: identities, DryRun: f.dryRun})
	}
	if f.dryRun {
		return a.eachPlan(ctx, []volume.Spec{s}, do)
	}
	return a.each(ctx, []volume.Spec{s}, do, func(r volume.Result) string {
		if r.Already {
			return r.Volume + ": this chip opens it (already)"
		}
		return r.Volume + ": sealed by this chip (" + r.SecurityState + "), the data was not touched"
	})
}

// maxIdentity bounds an identity file, in bytes.
const maxIdentity = 64 << 10

// openIdentity prepares the process for a plain key, and opens the file.
func (a *app) openIdentity(path string) (io.ReadCloser, error) {
	if path == "" {
		return nil, fault.New(fault.Usage, "--identity is missing: the file with the recovery identity", nil)
	}
	if err := secret.Harden(); err != nil {
		return nil, err
	}
	if path == "-" {
		return io.NopCloser(io.LimitReader(a.stdin, maxIdentity)), nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.New(fault.Usage, "--identity", err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxIdentity), f}, nil
}

// statusRecovery is the recovery copy as `status --json` prints it.
type statusRecovery struct {
	Recipients []string `json:"recipients"`
}

// recoveryOf is nil for a volume without a recovery copy.
func recoveryOf(st volume.Status) *statusRecovery {
	if len(st.Recipients) == 0 {
		return nil
	}
	return &statusRecovery{Recipients: st.Recipients}
}

// printRecovery says loudly who can read a volume without its board.
func (a *app) printRecovery(st volume.Status) {
	for _, recipient := range st.Recipients {
		fmt.Fprintf(a.stderr, "%simxcrypt: %s: RECOVERY COPY of the key: whoever has the identity of %s reads this volume without the board\n",
			a.priority(priorityWarning), st.Name, recipient)
	}
}
