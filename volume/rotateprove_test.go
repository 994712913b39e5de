// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// copiesSize is the size of the two copies of a header, in bytes.
const copiesSize = 32 << 10

// notOpened enforces that every command fails to open the volume, with that code, and
// leaves nothing.
func notOpened(t *testing.T, b *volumetest.Board, s spec.Volume, code fault.Code) {
	t.Helper()
	ctx := context.Background()
	_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, code)
	_, err = b.Manager().Verify(ctx, s)
	refused(t, err, code)
	_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	refused(t, err, code)
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
	refused(t, err, code)
	if code == fault.HeaderRolledBack {
		if st := b.Manager().Status(ctx, s); !fault.Is(st.Err, code) {
			t.Fatalf("status: %v", st.Err)
		}
	}
	nothingPrivate(t, b, 0)
}

// A header from before a rotation is restored, alone or with everything in its area. It
// opens nothing, whichever way the data has moved. Where the data moved up, its old
// superblock would otherwise still be readable with the old key.
func TestAHeaderOfBeforeARotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range rotationCases() {
		if s.Detached() {
			continue // the record goes with the header's file
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := rotationDisk(s)
			b, want := filled(t, s, disk)
			for generation := 2; generation <= 3; generation++ {
				r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, r, err)
				before := disk.Bytes()[:s.HeaderSize]
				rotateUntil(t, b, s, 2)
				half := disk.Bytes()[:copiesSize]
				write(disk, before[:copiesSize], 0)
				b = powerCycle(b)
				notOpened(t, b, s, fault.HeaderRolledBack)
				write(disk, half, 0)

				rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				must(t, rr.Result, err)
				after := disk.Bytes()[:s.HeaderSize]
				write(disk, before[:copiesSize], 0)
				b = powerCycle(b)
				notOpened(t, b, s, fault.HeaderRolledBack)
				if s.Source != spec.SourceDev { // whose old key is gone
					write(disk, before, 0)
					notOpened(t, b, s, fault.KeyWrong)
				}

				write(disk, after, 0)
				r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				same(t, fmt.Sprintf("generation %d", generation), content(t, b), want)
			}
		})
	}
}

// A backup from before a rotation is not restored, not even by force: it does not open
// the data. No byte on the disk changes.
func TestABackupOfBeforeARotationIsNotLeft(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, want := filled(t, s, disk)
	for generation := 2; generation <= 3; generation++ {
		file := fmt.Sprintf("/var/lib/backup-%d", generation)
		r, err := b.Manager().BackupHeader(ctx, s, file)
		must(t, r, err)
		r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
		must(t, r, err)
		rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
		must(t, rr.Result, err)
		before := disk.Bytes()
		_, err = b.Manager().RestoreHeader(ctx, s, file, volume.RestoreOptions{Force: true, Confirm: func(string) error { return nil }})
		refused(t, err, fault.RollbackRefused)
		same(t, "the disk", disk.Bytes(), before)
		b = powerCycle(b)
		r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
		must(t, r, err)
		same(t, "after it", content(t, b), want)
	}
}

// The system is suspended in the middle of a rotation, not by imxcrypt sleep, and the
// chip loses its keys. Nothing is copied with the dead keys: an ECB key would turn it
// into noise.
func TestASuspendInARotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range sampled(t, t.Name(), rotationCases(), 2) {
		if s.Source == spec.SourceDev {
			continue // its key does not depend on the chip
		}
		for _, wrap := range []string{"ccm", "ecb"} {
			for _, live := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, live %v", name, wrap, live), func(t *testing.T) {
					t.Parallel()
					s := s
					s.Wrap = wrap
					disk := rotationDisk(s)
					b, want := filled(t, s, disk)
					if !live {
						r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
					}
					zones := 0
					_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Moved: func(volume.Rotation) {
						if zones++; zones == 2 {
							b.Sleep(time.Second)
						}
					}})
					if code := fault.CodeOf(err); code != fault.KeysLost && (wrap == "ecb" || err == nil) {
						t.Fatalf("%v (code %s)", err, code)
					}
					if live {
						// Nor does the next run copy anything: it finds the dead
						// mappings.
						_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
						refused(t, err, fault.KeysLost)
						r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
					}
					r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
					must(t, r, err)
					same(t, "with new keys in the kernel", content(t, b), want)
					rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					must(t, rr.Result, err)
					same(t, "after the rotation", content(t, b), want)
				})
			}
		}
	}
}

// The system is suspended before each change that a rotation makes in the kernel or on
// storage, its beginning and end included. The volume is never taken for rotated when it
// is not, and all of it is there with new keys in the kernel.
func TestASuspendAnywhereInARotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range sampled(t, t.Name(), rotationCases(), 2) {
		if s.Source == spec.SourceDev {
			continue // its key does not depend on the chip
		}
		s.Wrap = "ecb" // a dead CCM key fails, a dead ECB key makes noise
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %v", name, live), func(t *testing.T) {
				t.Parallel()
				st := start{caamtest.RandomChip(), rotationDisk(s), crashtest.NewImage(volumetest.FilesSize)}
				want := fill(t, s, boardOver(st.chip, st.disk, st.files))
				suspends, stopped := 0, 0
				for at := 1; ; at += stride("rotate") {
					b := st.board()
					r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
					must(t, r, err)
					if !live {
						r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
					}
					changes := 0
					b.Step = func(string) error {
						if changes++; changes == at {
							b.Sleep(time.Second)
						}
						return nil
					}
					_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
					if changes < at {
						break
					}
					if suspends++; err != nil {
						stopped++
					}
					b.Step = nil
					b = powerCycle(b)
					r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
					must(t, r, err)
					same(t, fmt.Sprintf("suspended before change %d", at), content(t, b), want)
					rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
					must(t, rr.Result, err)
					same(t, fmt.Sprintf("suspended before change %d, then rotated", at), content(t, b), want)
				}
				t.Logf("%d suspends, %d of them stopped the rotation, nothing lost", suspends, stopped)
				if stopped == 0 {
					t.Error("none stopped it: nothing was shown")
				}
			})
		}
	}
}
