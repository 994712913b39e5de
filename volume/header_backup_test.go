// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const backupFile = "/media/data.header"

// confirmed is a person who types the volume's name.
func confirmed(string) error { return nil }

// provisioned returns a board with a locked volume that holds data.
func provisioned(t *testing.T, s spec.Volume, disk volumetest.Store) *volumetest.Board {
	t.Helper()
	ctx := context.Background()
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	volumetest.PutIn(t, b, s.Mapping, "the quick brown fox")
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	return b
}

// hasItsData fails unless the volume opens with what provisioned put there.
func hasItsData(t *testing.T, b *volumetest.Board, s spec.Volume) {
	t.Helper()
	ctx := context.Background()
	r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if got := get(t, b, 19); got != "the quick brown fox" {
		t.Fatalf("%q", got)
	}
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
}

func bothPlacements() map[string]spec.Volume {
	on, apart := newSpec(), newSpec()
	apart.Header, apart.Gap = "/etc/data.header", 0
	return map[string]spec.Volume{"on the device": on, "detached": apart}
}

func destroyHeader(t *testing.T, b *volumetest.Board, s spec.Volume, disk *crashtest.Image) {
	t.Helper()
	if s.Detached() {
		if err := b.Files.Remove(s.Header); err != nil {
			t.Fatal(err)
		}
		return
	}
	if _, err := disk.WriteAt(bytes.Repeat([]byte{0x5a}, mib), 0); err != nil {
		t.Fatal(err)
	}
}

func TestALostHeaderComesBackFromItsBackup(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			_, err = b.Manager().BackupHeader(ctx, s, backupFile)
			refused(t, err, fault.FileExists)

			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
			if must(t, r, err); !r.Already {
				t.Fatal("the same header was written over itself")
			}
			destroyHeader(t, b, s, disk)
			b = powerCycle(b)
			if _, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err == nil {
				t.Fatal("opened without a header")
			}
			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
			must(t, r, err)
			hasItsData(t, b, s)
		})
	}
}

func TestABackupOpensAVolumeAfterItWasErased(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			b := provisioned(t, s, crashtest.NewImage(16*mib))
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			if _, err := b.Manager().Erase(ctx, s, volume.EraseOptions{}); err != nil {
				t.Fatal(err)
			}
			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
			must(t, r, err)
			hasItsData(t, b, s)
			// Nothing of the erase is left that would permit overwriting it.
			r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			if must(t, r, err); !r.Already {
				t.Fatal("provisioned over a restored volume")
			}
			if !s.Detached() {
				return
			}
			for _, f := range b.Files.Names() {
				if f == s.Header+".erased" {
					t.Fatal("the record of the erase is still there")
				}
			}
		})
	}
}

func TestRestoreRefusesWhatIsNotTheVolumes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, newSpec(), disk)
	r, err := b.Manager().BackupHeader(ctx, newSpec(), backupFile)
	must(t, r, err)
	before := disk.Bytes()

	other := newSpec()
	other.Name, other.Mapping = "other", "other"
	_, err = b.Manager().RestoreHeader(ctx, other, backupFile, volume.RestoreOptions{Confirm: confirmed})
	refused(t, err, fault.HeaderMismatch)

	// Another volume under the same name, on the same device.
	second := provisioned(t, newSpec(), crashtest.NewImage(16*mib))
	data, err := b.Files.Read(backupFile, readAll())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Files.Create(backupFile, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = second.Manager().RestoreHeader(ctx, newSpec(), backupFile, volume.RestoreOptions{Confirm: confirmed, Force: true})
	refused(t, err, fault.VolumeReplaced)

	// A chip that cannot open it.
	foreign := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
	if _, err := disk.WriteAt(make([]byte, mib), 0); err != nil {
		t.Fatal(err)
	}
	_, err = foreign.Manager().RestoreHeader(ctx, newSpec(), backupFile, volume.RestoreOptions{Confirm: confirmed})
	refused(t, err, fault.BlobRejected)
	if !bytes.Equal(disk.Bytes()[mib:], before[mib:]) || bytes.Contains(disk.Bytes()[:mib], []byte("LUKS")) {
		t.Fatal("a refused restore wrote something")
	}

	// A truncated file, and one that is not a backup.
	for name, content := range map[string][]byte{"/cut": data[:len(data)/2], "/text": []byte("hello")} {
		if err := b.Files.Create(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = b.Manager().RestoreHeader(ctx, newSpec(), name, volume.RestoreOptions{Confirm: confirmed})
		refused(t, err, fault.HeaderInvalid)
	}
}

func TestRestoreAsksBeforeItReplacesAHeader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, s, disk)
	r, err := b.Manager().BackupHeader(ctx, s, backupFile)
	must(t, r, err)
	// One copy is damaged: the header is no longer identical.
	if _, err := disk.WriteAt([]byte("x"), 5000); err != nil {
		t.Fatal(err)
	}
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
	refused(t, err, fault.ConfirmationNeeds)
	no := errors.New("no")
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: func(string) error { return no }})
	if !errors.Is(err, no) {
		t.Fatal(err)
	}
	r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
	must(t, r, err)
	hasItsData(t, b, s)

	// The header of a volume in use is not replaced.
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	if _, err := disk.WriteAt([]byte("x"), 5000); err != nil {
		t.Fatal(err)
	}
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
	refused(t, err, fault.Busy)
}

func TestHeaderCheckNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, newSpec(), disk)
	r, err := b.Manager().CheckHeader("/dev/mmcblk2p3")
	if err != nil || !r.Valid || !r.Imxcrypt || r.Volume == nil || r.Volume.Generation != 1 || r.Label != "data" || len(r.Problems) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	backup, err := b.Manager().BackupHeader(context.Background(), newSpec(), backupFile)
	must(t, backup, err)
	if r, err = b.Manager().CheckHeader(backupFile); err != nil || !r.Valid || r.Volume == nil {
		t.Fatalf("a backup: %+v, %v", r, err)
	}
	// With one copy damaged it is valid, but the damage is reported.
	write := func(at int64) {
		if _, err := disk.WriteAt([]byte{0xff, 0xfe}, at); err != nil {
			t.Fatal(err)
		}
	}
	write(4200)
	if r, err = b.Manager().CheckHeader("/dev/mmcblk2p3"); err != nil || len(r.Problems) != 1 || r.Copies[0].State != "damaged" {
		t.Fatalf("one copy damaged: %+v, %v", r, err)
	}
	write(16*1024 + 4200)
	r, err = b.Manager().CheckHeader("/dev/mmcblk2p3")
	refused(t, err, fault.HeaderDamaged)
	if r.Valid || r.Rule != "checksum" {
		t.Fatalf("%+v", r)
	}
	empty := newBoard(crashtest.NewImage(16 * mib))
	r, err = empty.Manager().CheckHeader("/dev/mmcblk2p3")
	refused(t, err, fault.HeaderInvalid)
	if r.Rule != "magic" {
		t.Fatalf("%+v", r)
	}
}

func TestHeaderCheckOnDemandsOfOtherPrograms(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		requirement string
		refused     bool
	}{
		"a re-encryption of cryptsetup's": {"offline-reencrypt", false},
		"of a program that nobody knows":  {"frobnicate-v7", true},
		"of a later imxcrypt":             {"imxcrypt-v99", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, newSpec(), disk)
			lh, _, err := luks2.Read(disk, disk.Size())
			if err != nil {
				t.Fatal(err)
			}
			lh.Require(c.requirement)
			if err := lh.Write(disk); err != nil {
				t.Fatal(err)
			}
			r, err := b.Manager().CheckHeader("/dev/mmcblk2p3")
			if !slices.Contains(r.Requirements, c.requirement) || !r.Imxcrypt {
				t.Errorf("%+v", r)
			}
			if !c.refused {
				if err != nil || !r.Valid || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], c.requirement) {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			refused(t, err, fault.HeaderRequirement)
			if r.Valid || r.Rule != "unknown-requirement" || !strings.Contains(err.Error(), c.requirement) {
				t.Errorf("%+v, %v", r, err)
			}
			_, err = b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{})
			refused(t, err, fault.HeaderRequirement)
		})
	}
}

func readAll() atomicfile.ReadOptions { return atomicfile.ReadOptions{MaxSize: 16 * mib} }
