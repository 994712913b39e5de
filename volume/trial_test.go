// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// refusedUnchanged fails unless a command is refused with the code and leaves device,
// files, kernel and keyrings as they were.
func refusedUnchanged(t *testing.T, b *volumetest.Board, disk *crashtest.Image, code fault.Code, run func() error) {
	t.Helper()
	before, kernel := snapshot(t, b, disk), b.DM.State()
	b.Step = func(what string) error {
		if strings.HasPrefix(what, "write ") || strings.HasPrefix(what, "discard ") || strings.HasPrefix(what, "file ") {
			t.Errorf("refused, and: %s", what)
		}
		return nil
	}
	err := run()
	b.Step = nil
	refused(t, err, code)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Errorf("refused, and changed: %q", names)
	}
	if after := b.DM.State(); after != kernel {
		t.Errorf("left in the kernel:\n%s", after)
	}
	if b.Ring.Left() != 0 {
		t.Error("a key was left in a keyring")
	}
}

// A kernel may list a cipher that its dm-crypt does not get. Provisioning notices before
// the first byte is written, also in a dry run and however it would begin.
func TestACipherThatDmCryptDoesNotGetIsFoundBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range crashCases() {
		if c.fill != 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSpec()
			if c.spec != nil {
				c.spec(&s)
			}
			code, cipher := fault.CipherMissing, "tk(cbc(aes))"
			switch {
			case s.Protected:
				code, cipher = fault.ProtectedMissing, "cbc(paes)"
			case s.Source != newSpec().Source:
				code, cipher = fault.SoftCipherMissing, "xts(aes)"
			}
			disk := crashtest.NewImage(c.size)
			if c.content != nil {
				c.content(disk)
			}
			b := newBoard(disk)
			b.NoCiphers = []string{cipher}
			for _, dry := range []bool{true, false} {
				refusedUnchanged(t, b, disk, code, func() error {
					_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: c.wipe, DryRun: dry})
					return err
				})
			}
			refusedUnchanged(t, b, disk, code, func() error { return b.Manager().Try(ctx, s) })
			b.NoCiphers = nil
			if err := b.Manager().Try(ctx, s); err != nil {
				t.Error(err)
			}
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: c.wipe})
			must(t, r, err)
		})
	}
}

// A run that was cut off before its key was proved makes another key. The kernel may have
// been replaced meanwhile by one without the cipher.
func TestAContinuedProvisioningTriesTheKernelToo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			cut := false
			b.Step = func(what string) error {
				if cut = cut || what == "create data:check"; cut {
					return errKilled
				}
				return nil
			}
			if _, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{}); !errors.Is(err, errKilled) {
				t.Fatalf("not cut off: %v", err)
			}
			if s.Detached() {
				noise(disk) // the device was used since: --wipe overwrites that
			}
			b = powerCycle(b)
			b.NoCiphers = []string{"tk(cbc(aes))"}
			refusedUnchanged(t, b, disk, fault.CipherMissing, func() error {
				_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: s.Detached()})
				return err
			})
			b.NoCiphers = nil
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: s.Detached()})
			must(t, r, err)
		})
	}
}

// A rotation to a cipher that dm-crypt does not get never begins, and the volume stays
// in use.
func TestARotationToACipherThatDmCryptDoesNotGetNeverBegins(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, missing := range map[string]string{
		"caam to trusted": "xts(aes)", "caam to trusted, detached": "xts(aes)", "trusted to caam": "tk(cbc(aes))", "dev": "xts(aes)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := changes()[name]
			disk := rotationDisk(c.from)
			b, want := filled(t, c.from, disk)
			code := fault.SoftCipherMissing
			if strings.HasPrefix(missing, "tk(") {
				code = fault.CipherMissing
			}
			b.NoCiphers = []string{missing}
			for _, dry := range []bool{true, false} {
				refusedUnchanged(t, b, disk, code, func() error {
					_, err := b.Manager().Rotate(ctx, c.to, volume.RotateOptions{DryRun: dry})
					return err
				})
			}
			same(t, "after the refusal", content(t, b), want)
			b.NoCiphers = nil
			r, err := b.Manager().Rotate(ctx, c.to, volume.RotateOptions{})
			must(t, r.Result, err)
			same(t, "rotated", content(t, b), want)
		})
	}
}

// Nor does the encryption of a filesystem in plain text.
func TestEncryptingWithACipherThatDmCryptDoesNotGetNeverBegins(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), bothPlacements()["detached"]
	disk := plainDisk()
	b := newBoard(disk)
	b.NoCiphers = []string{"tk(cbc(aes))"}
	for _, dry := range []bool{true, false} {
		refusedUnchanged(t, b, disk, fault.CipherMissing, func() error {
			_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{DryRun: dry})
			return err
		})
	}
	b.NoCiphers = nil
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
}

// Wherever a dry run is killed, the next command removes what it left.
func TestAKilledTrialIsTakenAwayByTheNextCommand(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), newSpec()
	kills := 0
	for n := 1; ; n++ {
		b := newBoard(crashtest.NewImage(16 * mib))
		dry := func() error {
			_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: true})
			return err
		}
		if !kill(b, n, func() { _ = dry() }) {
			break
		}
		kills++
		if err := dry(); err != nil {
			t.Fatalf("killed at change %d: the next run: %v", n, err)
		}
		if left := b.DM.State(); left != "" {
			t.Fatalf("killed at change %d: left in the kernel:\n%s", n, left)
		}
	}
	if kills < 4 {
		t.Errorf("%d kills: there was no trial", kills)
	}
	t.Logf("%d kills, all taken away by the next run", kills)
}
