// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// protectedFrom returns a configuration with protected keys instead of its own.
func protectedFrom(s spec.Volume) spec.Volume {
	s.Source, s.Protected, s.Wrap, s.Cipher, s.KeySize = spec.SourceTrusted, true, "ccm", "capi:cbc(paes)-plain64", 32
	return s
}

// The life of a volume whose key only the CAAM sees. The hardware is not asked until
// something is read, so the check is always read, and another chip shows there.
func TestTheLifeOfAProtectedKey(t *testing.T) {
	t.Parallel()
	for _, wrap := range []string{"ccm", "ecb"} {
		for placement, s := range bothPlacements() {
			t.Run(wrap+", "+placement, func(t *testing.T) {
				t.Parallel()
				ctx, s := context.Background(), protectedFrom(s)
				s.Wrap = wrap
				b := newBoard(crashtest.NewImage(16 * mib))
				r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
				must(t, r, err)
				put(t, b, secretText)

				b = powerCycle(b)
				r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				if !slices.ContainsFunc(r.Steps, func(s volume.Step) bool { return s.What == "key proved by its check" }) {
					t.Errorf("the check was not read: %+v", r.Steps)
				}
				r, err = b.Manager().Verify(ctx, s)
				must(t, r, err)
				rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
				must(t, rr.Result, err)
				// The blob is opened for each request: a suspend takes nothing away.
				b.Sleep(time.Hour)
				if got := get(t, b, len(secretText)); got != secretText {
					t.Fatalf("after the rotation and a suspend: %q", got)
				}
				if st := b.Manager().Status(ctx, s); st.Err != nil || st.Source != spec.SourceTrusted || st.Wrap != wrap || st.Generation != 2 {
					t.Errorf("%+v", st)
				}
				r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, r, err)
				if n := b.Ring.Left(); n != 0 {
					t.Errorf("%d keys are left in the keyrings", n)
				}

				other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
				for name, err := range map[string]error{
					"unlock": second(other.Manager().Unlock(ctx, s, volume.UnlockOptions{})),
					"verify": second(other.Manager().Verify(ctx, s)),
					"rotate": second(other.Manager().Rotate(ctx, s, volume.RotateOptions{})),
				} {
					if !fault.Is(err, fault.BlobRejected) {
						t.Errorf("%s on another chip: %v", name, err)
					}
				}
				if left := other.DM.State(); left != "" {
					t.Errorf("left in the kernel: %s", left)
				}

				e, err := b.Manager().Erase(ctx, s, volume.EraseOptions{})
				must(t, e.Result, err)
				_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				refused(t, err, fault.NotProvisioned)
			})
		}
	}
}

// withoutProtected returns the kernels without protected keys.
func withoutProtected() map[string]func(*volumetest.Board) {
	return map[string]func(*volumetest.Board){
		"mainline's dm-crypt": func(b *volumetest.Board) { b.NoCiphers = []string{"cbc(paes)"} },
		"before 6.19": func(b *volumetest.Board) {
			b.NoCiphers = []string{"cbc(paes)"}
			b.Ring.NoProtected = true
		},
	}
}

// A kernel without them is noticed before the first byte is written, also in a dry run,
// and also when a rotation brings another key to it.
func TestProtectedKeysAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := protectedFrom(newSpec())
	rotates := trustedFrom(rotationSpec(rotationGap))
	for name, lacks := range withoutProtected() {
		for _, dry := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				disk := crashtest.NewImage(16 * mib)
				b := newBoard(disk)
				lacks(b)
				refusedUnchanged(t, b, disk, fault.ProtectedMissing, func() error {
					return second(b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: dry}))
				})
				disk = rotationDisk(rotates)
				b, want := filled(t, rotates, disk)
				lacks(b)
				refusedUnchanged(t, b, disk, fault.ProtectedMissing, func() error {
					return second(b.Manager().Rotate(ctx, protectedFrom(rotates), volume.RotateOptions{DryRun: dry}))
				})
				same(t, "in use", content(t, b), want)
			})
		}
	}
	for _, trust := range []volumetest.TrustSource{nil, &fakeTEE{keys: map[string][]byte{}}} {
		disk := crashtest.NewImage(16 * mib)
		b := newBoard(disk)
		b.Ring.Trust = trust
		want := fault.TrustOther
		if trust == nil {
			want = fault.TrustMissing
		}
		refusedUnchanged(t, b, disk, want, func() error {
			return second(b.Manager().Provision(ctx, s, volume.ProvisionOptions{}))
		})
	}
}

// Mainline writes past a buffer whenever it makes a protected key. So a trial makes none,
// whatever its outcome, and a volume makes one.
func TestATrialMakesNoProtectedKey(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), protectedFrom(newSpec())
	b := newBoard(crashtest.NewImage(16 * mib))
	made := func(want int, when string) {
		t.Helper()
		if b.Ring.ProtectedMade != want {
			t.Errorf("%s: %d protected keys were made, expected %d", when, b.Ring.ProtectedMade, want)
		}
	}
	b.NoCiphers = []string{"cbc(paes)"}
	refused(t, b.Manager().Try(ctx, s), fault.ProtectedMissing)
	refused(t, second(b.Manager().Provision(ctx, s, volume.ProvisionOptions{})), fault.ProtectedMissing)
	b.NoCiphers = nil
	if err := b.Manager().Try(ctx, s); err != nil {
		t.Fatal(err)
	}
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: true})
	must(t, r, err)
	made(0, "trials and refusals")
	r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	made(1, "provisioned")
}

// A volume with a protected key does not open on such a kernel, and opens again on the
// one that it was made with.
func TestAProtectedKeyOnAKernelWithout(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), protectedFrom(newSpec())
	for name, lacks := range withoutProtected() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			put(t, b, secretText)
			b = powerCycle(b)
			lacks(b)
			refusedUnchanged(t, b, disk, fault.ProtectedMissing, func() error {
				return second(b.Manager().Unlock(ctx, s, volume.UnlockOptions{}))
			})
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if got := get(t, b, len(secretText)); got != secretText {
				t.Errorf("%q", got)
			}
		})
	}
}

// The configuration says which keys are wanted, and auto never stands for protected ones:
// a header cannot make one kind pass for the other.
func TestProtectedOrNotIsAsConfigured(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	plain, protected := trustedFrom(newSpec()), protectedFrom(newSpec())
	for name, c := range map[string]struct{ made, configured spec.Volume }{
		"protected":     {protected, plain},
		"not protected": {plain, protected},
		"auto":          {protected, auto(newSpec())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, c.made, volume.ProvisionOptions{})
			must(t, r, err)
			b = powerCycle(b)
			_, err = b.Manager().Unlock(ctx, c.configured, volume.UnlockOptions{})
			refused(t, err, fault.HeaderMismatch)
		})
	}
	for _, spoil := range []func(*spec.Volume){
		func(s *spec.Volume) { s.Source = spec.SourceAuto },
		func(s *spec.Volume) { s.Source = spec.SourceCAAM },
		func(s *spec.Volume) { s.Trusted.Source = "tpm" },
	} {
		s := protected
		spoil(&s)
		disk := crashtest.NewImage(16 * mib)
		b := newBoard(disk)
		refusedUnchanged(t, b, disk, fault.ConfigInvalid, func() error {
			return second(b.Manager().Provision(ctx, s, volume.ProvisionOptions{}))
		})
	}
}

// If provisioning is cut off before its key is proved, another board does not continue
// it.
func TestAnotherBoardsUnfinishedProtectedVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			s := protectedFrom(s)
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			b.Mkfs = func(string, string) error { return errKilled }
			if _, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{}); err == nil {
				t.Fatal("not cut off")
			}
			other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			other.Directories = b.Directories
			_, err := other.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			refused(t, err, fault.BlobRejected)
			b = powerCycle(b)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
		})
	}
}

// A volume that was made by hand with a protected key is adopted like one with an
// ordinary trusted key.
func TestAVolumeWithAProtectedKeyIsAdopted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	h := byHand{cipher: "capi:cbc(paes)-plain64", sectorSize: 4096}
	_, blob, err := b.Chip.NewProtected(32, 1)
	if err != nil {
		t.Fatal(err)
	}
	text := hex.EncodeToString(blob)
	table := h.table(t, dmcrypt.KeyRef{Size: 84, Type: "trusted", Description: "kmk"})
	err = b.Ring.WithTrustedKey("kmk", "load "+text+" pk key_enc_algo=1", func(func() ([]byte, error)) error {
		n, err := b.DM.Activate(ctx, "byhand", "", table, false)
		if err != nil {
			return err
		}
		if err := b.System().Filesystems.Make(ctx, "ext4", fmt.Sprintf("/dev/dm-%d", n.Minor), mkfs.Options{Label: "old"}); err != nil {
			return err
		}
		return b.DM.Remove(ctx, "byhand")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Files.Create(blobFile, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := disk.Bytes()
	s := protectedFrom(bothPlacements()["detached"])
	r, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile, Table: table.String()})
	must(t, r, err)
	b = powerCycle(b)
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	same(t, "the device", disk.Bytes(), before)
	if st := b.Manager().Status(ctx, s); st.Err != nil || st.Phase != header.PhaseReady || st.Wrap != "ccm" {
		t.Errorf("%+v", st)
	}
}

// The header of a volume with a protected key comes back from its backup: the read that
// proves the key asks the hardware, and only this chip answers.
func TestALostHeaderWithAProtectedKeyIsRestored(t *testing.T) {
	t.Parallel()
	for placement, s := range bothPlacements() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			ctx, s := context.Background(), protectedFrom(s)
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			put(t, b, secretText)
			r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
			r, err = b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)

			if s.Detached() {
				err = b.Files.Remove(s.Header)
			} else {
				write(disk, make([]byte, mib), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			refusedUnchanged(t, other, disk, fault.BlobRejected, func() error {
				return second(other.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed}))
			})
			b = powerCycle(b)
			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
			must(t, r, err)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if got := get(t, b, len(secretText)); got != secretText {
				t.Fatalf("restored: %q", got)
			}
		})
	}
}
