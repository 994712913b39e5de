// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// The file of a header is lost half-way through a decryption, which moves from the end, so
// the superblock is still under the key. A backup from before is refused: with it the part
// in plain text would be decrypted again, and lost. The record of the volume says that it
// is being decrypted; if that is lost, too, the plain text itself does.
func TestABackupOfBeforeADecryptionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for how, lose := range map[string]func(t *testing.T, b *volumetest.Board, r inPlaceRun){
		"removed": func(t *testing.T, b *volumetest.Board, r inPlaceRun) {
			if err := b.Files.Remove(r.spec.Header); err != nil {
				t.Fatal(err)
			}
		},
		"zeroed": func(t *testing.T, b *volumetest.Board, r inPlaceRun) {
			changeHeader(t, b, r.spec, r.disk, func(im volumetest.Store) { write(im, make([]byte, r.spec.HeaderSize), 0) })
		},
		"texts and records zeroed": func(t *testing.T, b *volumetest.Board, r inPlaceRun) {
			changeHeader(t, b, r.spec, r.disk, func(im volumetest.Store) { write(im, make([]byte, 52<<10), 0) })
		},
	} {
		for _, recorded := range []bool{true, false} {
			for _, force := range []bool{false, true} {
				if force && !recorded {
					continue // a person has decided that what looks like plain text is none
				}
				name := how
				if !recorded {
					name += ", and the record"
				}
				if force {
					name += ", with force"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					s := encryptSpec()
					r := toBeMoved(t, s, true)
					b := boardOver(r.chip, r.disk, r.files)
					rr, err := b.Manager().BackupHeader(ctx, s, backupFile)
					must(t, rr, err)
					rr, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
					must(t, rr, err)
					writeText(t, b, rotationData-3*header.BlockAlign)
					rr, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
					must(t, rr, err)
					decryptPart(t, b, s)
					b = boardOver(r.chip, r.disk, r.files)
					b.Chip.PowerCycle()
					lose(t, b, r)
					if !recorded {
						if err := b.Files.Remove(recordOfData); err != nil {
							t.Fatal(err)
						}
					}
					before := bytes.Clone(r.disk.Bytes())
					_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Force: force, Confirm: confirmed})
					refused(t, err, fault.RollbackRefused)
					if recorded != strings.Contains(err.Error(), recordOfData) {
						t.Errorf("the evidence is not named: %v", err)
					}
					same(t, "the device", r.disk.Bytes(), before)
				})
			}
		}
	}
}

// With its header on the device, a volume that is half decrypted shows through its key no
// filesystem, and many blocks that make sense. If the header and the record are lost, the
// beginning of the filesystem, kept in plain text, says that it is being decrypted.
func TestABackupOfBeforeADecryptionOnTheDeviceIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range deviceCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := toBeMoved(t, s, true)
			b := boardOver(r.chip, r.disk, r.files)
			rr, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, rr, err)
			decryptPart(t, b, s)
			b.Chip.PowerCycle()
			write(r.disk, make([]byte, s.HeaderSize), 0)
			if err := b.Files.Remove(recordOfData); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, b, r.disk)
			_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Force: true, Confirm: confirmed})
			refused(t, err, fault.RollbackRefused)
			if names := differs(before, snapshot(t, b, r.disk)); len(names) > 0 {
				t.Errorf("changed: %q", names)
			}
		})
	}
}

// decryptPart stops a decryption after its first zone.
func decryptPart(t *testing.T, b *volumetest.Board, s spec.Volume) {
	t.Helper()
	inPlaceUntil(t, 1, func(ctx context.Context, o volume.RotateOptions) error {
		_, err := b.Manager().Decrypt(ctx, s, o)
		return err
	})
}

// writeText writes a block of text into the open volume, as a user's file has it.
func writeText(t *testing.T, b *volumetest.Board, at int64) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte("what a user wrote "), 228)[:header.BlockAlign], at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
