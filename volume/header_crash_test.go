// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// cut records what do does to the disk and the files of a board. For the states
// that a loss of power leaves of it, limit of each kind at most, do must finish on
// a board of the same chip, and the volume must be as it should by holds.
func cut(t *testing.T, limit int, chip *caamtest.Chip, disk, files *crashtest.Image, do, holds func(*volumetest.Board) error) {
	t.Helper()
	rec, recorded := crashtest.Record(disk)
	recordedFiles := rec.Disk("files", files)
	if err := do(boardOver(chip, recorded, recordedFiles)); err != nil {
		t.Fatal(err)
	}
	states := 0
	for state := range rec.States(few(crashtest.Options{Limit: limit, Random: max(limit/3, 1), Exhaustive: min(limit, 10)})) {
		states++
		chip.PowerCycle()
		b := boardOver(chip, state.Image(recorded), state.Image(recordedFiles))
		err := do(b)
		if err == nil {
			err = holds(b)
		}
		if err != nil {
			t.Fatalf("%s: %v", state, err)
		}
	}
	t.Logf("%d states", states)
}

// verified holds of a volume that the board's chip opens.
func verified(s volume.Spec) func(*volumetest.Board) error {
	return func(b *volumetest.Board) error {
		_, err := b.Manager().Verify(context.Background(), s)
		return err
	}
}

func small(s volume.Spec) volume.Spec {
	s.HeaderSize = 64 << 10
	s.Mount.Path = ""
	return s
}

func TestRestoringAHeaderSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		for _, erased := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " after an erase", false: " after damage"}[erased], func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				s := small(s)
				disk, files, chip := crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize), caamtest.RandomChip()
				b := boardOver(chip, disk, files)
				r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
				must(t, r, err)
				r, err = b.Manager().BackupHeader(ctx, s, backupFile)
				must(t, r, err)
				if erased {
					erase(t, b, s)
				} else {
					destroyHeader(t, b, s, disk)
				}
				restore := func(b *volumetest.Board) error {
					_, err := b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Force: true, Confirm: confirmed})
					return err
				}
				cut(t, 24, chip, disk, files, restore, verified(s))
			})
		}
	}
}

func TestResealingSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := small(s)
			id := newIdentity(t)
			disk, files := crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize)
			b := boardOver(caamtest.RandomChip(), disk, files)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true, Recipients: []string{id.Recipient().String()}})
			must(t, r, err)
			reseal := func(b *volumetest.Board) error {
				_, err := b.Manager().Reseal(ctx, s, volume.ResealOptions{Identities: identityFile(id)})
				return err
			}
			cut(t, 24, caamtest.RandomChip(), disk, files, reseal, verified(s))
		})
	}
}

// Until it is ready, a volume with a recovery copy may get another key at each
// run; when it is, the copy opens it.
func TestProvisioningWithRecoverySurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := small(s)
			id := newIdentity(t)
			o := volume.ProvisionOptions{NoMount: true, Recipients: []string{id.Recipient().String()}}
			provision := func(b *volumetest.Board) error {
				_, err := b.Manager().Provision(ctx, s, o)
				return err
			}
			cut(t, 4, caamtest.RandomChip(), crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize), provision, func(b *volumetest.Board) error {
				if err := verified(s)(b); err != nil {
					return err
				}
				r := volume.RecoverOptions{Path: "/dev/mmcblk2p3", Identities: identityFile(id)}
				if s.Detached() {
					r.Header = s.Header
				}
				_, err := b.Manager().Recover(ctx, r)
				return err
			})
		})
	}
}

func TestAdoptingSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := byHand{cipher: plainTK, sectorSize: 512, wrap: caam.ECB}
	disk := crashtest.NewImage(16 * mib)
	made, blob := h.make(t, disk)
	files := crashtest.NewImage(volumetest.FilesSize)
	if err := volumetest.NewFiles(files).Create(blobFile, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	before := disk.Bytes()
	s := adoptedSpec(h)
	adopt := func(b *volumetest.Board) error {
		_, err := b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile})
		return err
	}
	cut(t, 24, made.Chip, disk, files, adopt, verified(s))
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("the device was changed")
	}
}
