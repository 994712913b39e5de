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

// cut records what do does to the disk and the files of a board, and calls next
// with a board of the same chip for the states that a loss of power leaves; limit
// bounds how many of each kind.
func cut(t *testing.T, limit int, chip *caamtest.Chip, disk, files *crashtest.Image, do func(*volumetest.Board), next func(*volumetest.Board) error) {
	t.Helper()
	rec, recorded := crashtest.Record(disk)
	recordedFiles := rec.Disk("files", files)
	do(boardOver(chip, recorded, recordedFiles))
	states := 0
	for state := range rec.States(few(crashtest.Options{Limit: limit, Random: max(limit/3, 1), Exhaustive: min(limit, 10)})) {
		states++
		chip.PowerCycle()
		if err := next(boardOver(chip, state.Image(recorded), state.Image(recordedFiles))); err != nil {
			t.Fatalf("%s: %v", state, err)
		}
	}
	t.Logf("%d states", states)
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
				cut(t, 24, chip, disk, files, func(b *volumetest.Board) {
					if err := restore(b); err != nil {
						t.Fatal(err)
					}
				}, func(b *volumetest.Board) error {
					if err := restore(b); err != nil {
						return err
					}
					_, err := b.Manager().Verify(ctx, s)
					return err
				})
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
			cut(t, 24, caamtest.RandomChip(), disk, files, func(b *volumetest.Board) {
				if err := reseal(b); err != nil {
					t.Fatal(err)
				}
			}, func(b *volumetest.Board) error {
				if err := reseal(b); err != nil {
					return err
				}
				_, err := b.Manager().Verify(ctx, s)
				return err
			})
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
			cut(t, 4, caamtest.RandomChip(), crashtest.NewImage(4*mib), crashtest.NewImage(volumetest.FilesSize), func(b *volumetest.Board) {
				if err := provision(b); err != nil {
					t.Fatal(err)
				}
			}, func(b *volumetest.Board) error {
				if err := provision(b); err != nil {
					return err
				}
				if _, err := b.Manager().Verify(ctx, s); err != nil {
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
	cut(t, 24, made.Chip, disk, files, func(b *volumetest.Board) {
		if err := adopt(b); err != nil {
			t.Fatal(err)
		}
	}, func(b *volumetest.Board) error {
		if err := adopt(b); err != nil {
			return err
		}
		_, err := b.Manager().Verify(ctx, s)
		return err
	})
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("the device was changed")
	}
}
