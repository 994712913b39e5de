// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// cut records what do does to the disk and the files of a board. For the states that a
// power cut may leave, at most limit of each kind, do must finish on a board with the
// same chip, and holds must succeed. In some states the power is cut again while that run
// finishes.
func cut(t *testing.T, limit int, chip *caamtest.Chip, disk, files *crashtest.Image, do, holds func(*volumetest.Board) error) {
	t.Helper()
	rec, recorded := crashtest.Record(disk)
	recordedFiles := rec.Disk("files", files)
	if err := do(boardOver(chip, recorded, recordedFiles)); err != nil {
		t.Fatal(err)
	}
	states, second := 0, 0
	finish := func(what string, disk, files *crashtest.Image) {
		t.Helper()
		chip.PowerCycle()
		b := boardOver(chip, disk, files)
		err := do(b)
		if err == nil {
			err = holds(b)
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for state := range rec.States(few(crashtest.Options{Limit: limit, Random: max(limit/3, 1), Exhaustive: min(limit, 10)})) {
		states++
		finish(state.String(), state.Image(recorded), state.Image(recordedFiles))
		if states%29 != 1 {
			continue
		}
		chip.PowerCycle()
		again, disk := crashtest.Record(state.Image(recorded))
		files := again.Disk("files", state.Image(recordedFiles))
		if err := do(boardOver(chip, disk, files)); err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		for cut := range again.States(few(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(states)})) {
			second++
			finish(state.String()+"; then "+cut.String(), cut.Image(disk), cut.Image(files))
		}
	}
	t.Logf("%d states, and %d after a second cut", states, second)
}

// verified returns a function that succeeds if the board's chip opens the volume.
func verified(s spec.Volume) func(*volumetest.Board) error {
	return func(b *volumetest.Board) error {
		_, err := b.Manager().Verify(context.Background(), s)
		return err
	}
}

func small(s spec.Volume) spec.Volume {
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

// A kept header is removed, or is still there and removed by the next run.
func TestRemovingAKeptHeaderSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := small(s)
			disk, files, chip := crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize), caamtest.RandomChip()
			b := boardOver(chip, disk, files)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			changeHeader(t, b, s, disk, func(im volumetest.Store) {
				turn(t, im, firstText+100)
				turn(t, im, secondText+200)
			})
			r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
			must(t, r, err)
			kept := r.Kept
			remove := func(b *volumetest.Board) error {
				_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				if err == nil {
					_, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
				}
				return err
			}
			cut(t, 48, chip, disk, files, remove, func(b *volumetest.Board) error {
				if kept == "" || slices.Contains(b.Files.Names(), kept) {
					return fmt.Errorf("%q is still there", kept)
				}
				return verified(s)(b)
			})
		})
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
				_, err := b.Manager().Reseal(ctx, s, noted(b, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}}))
				return err
			}
			cut(t, 64, caamtest.RandomChip(), disk, files, reseal, verified(s))
		})
	}
}

// Until it is ready, a volume with a recovery copy may get a new key at each run; once it
// is ready, the copy opens it.
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
			cut(t, 6, caamtest.RandomChip(), crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize), provision, func(b *volumetest.Board) error {
				if err := verified(s)(b); err != nil {
					return err
				}
				r := volume.RecoverOptions{Path: "/dev/mmcblk2p3", Opener: volume.Opener{Identities: identityFile(id)}}
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
	cut(t, 64, made.Chip, disk, files, adopt, verified(s))
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("the device was changed")
	}
}
