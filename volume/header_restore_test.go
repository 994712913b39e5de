// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// The two copies of a header have 16 KiB each; the text begins at byte 4096 of each.
const (
	firstText  = 4096
	secondText = 16<<10 + 4096
	// recordsAt is where the records of a rotation are.
	recordsAt = 44 << 10
)

// turn flips a bit of the byte at at.
func turn(t *testing.T, im volumetest.Store, at int64) {
	t.Helper()
	b := make([]byte, 1)
	if _, err := im.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	write(im, b, at)
}

// changeHeader changes what holds a volume's header: its disk, or the file of a
// detached one.
func changeHeader(t *testing.T, b *volumetest.Board, s spec.Volume, disk *crashtest.Image, change func(im volumetest.Store)) {
	t.Helper()
	if !s.Detached() {
		change(disk)
		return
	}
	content, err := b.Files.Read(s.Header, readAll())
	if err != nil {
		t.Fatal(err)
	}
	im := crashtest.NewImage(int64(len(content)))
	write(im, content, 0)
	change(im)
	if err := b.Files.Replace(s.Header, im.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// halfRotated stops a rotation half-way.
func halfRotated(t *testing.T, b *volumetest.Board, s spec.Volume) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Moved: func(r volume.Rotation) {
		if r.Done >= r.Total/3 {
			stop()
		}
	}})
	refused(t, err, fault.Interrupted)
}

// everything returns all that a board has stored.
func everything(t *testing.T, b *volumetest.Board, disk *crashtest.Image) string {
	t.Helper()
	var all strings.Builder
	copyTo(t, &all, disk)
	for _, name := range b.Files.Names() {
		content, err := b.Files.Read(name, readAll())
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(name + "\n" + string(content))
	}
	return all.String()
}

func restoreCases() map[string]spec.Volume {
	all := rotationCases()
	all["journal"] = rotationSpec(0)
	none := rotationSpec(rotationGap)
	none.Filesystem, none.Mount = spec.Filesystem{Type: spec.FilesystemNone}, spec.Mount{}
	all["no filesystem"] = none
	return all
}

// A backup from before a rotation is refused, whatever has become of the header on the
// device, as long as anything there shows the rotation: its header, its records behind a
// damaged or absent header, what can be read in the copies, or the data.
func TestABackupOfBeforeARotationIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	losses := map[string]func(t *testing.T, im volumetest.Store){
		"a byte in each text": func(t *testing.T, im volumetest.Store) {
			turn(t, im, firstText+100)
			turn(t, im, secondText+200)
		},
		"both copies": func(_ *testing.T, im volumetest.Store) { write(im, make([]byte, 32<<10), 0) },
		"a byte in each text, and the records": func(t *testing.T, im volumetest.Store) {
			turn(t, im, firstText+100)
			turn(t, im, secondText+200)
			write(im, make([]byte, 8<<10), recordsAt)
		},
		"all of it": func(_ *testing.T, im volumetest.Store) { write(im, make([]byte, rotationHeader), 0) },
	}
	for name, s := range restoreCases() {
		for _, finished := range []bool{false, true} {
			for _, before := range []int{0, 1} {
				t.Run(name+map[bool]string{true: ", finished", false: ", half-way"}[finished]+[]string{"", ", the second one"}[before], func(t *testing.T) {
					t.Parallel()
					run := prepared(t, s, before)
					disk := run.disk
					b := boardOver(run.chip, disk, run.files)
					r, err := b.Manager().BackupHeader(ctx, s, backupFile)
					must(t, r, err)
					if finished {
						rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
						must(t, rr.Result, err)
					} else {
						halfRotated(t, b, s)
					}
					sound, soundFiles := disk.Overlay(), run.files.Overlay()
					for loss, lose := range losses {
						disk, files := sound.Overlay(), soundFiles.Overlay()
						b := boardOver(run.chip, disk, files)
						b.Chip.PowerCycle()
						changeHeader(t, b, s, disk, func(im volumetest.Store) { lose(t, im) })
						was := everything(t, b, disk)
						_, err := b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
						code := fault.CodeOf(err)
						if code != fault.RollbackRefused && (code != fault.KeyWrong || strings.HasPrefix(loss, "a byte") || loss == "both copies") &&
							(s.Source != spec.SourceDev || code != fault.KeyFileDamaged) {
							t.Fatalf("%s: %s: %v", loss, code, err)
						}
						if everything(t, b, disk) != was {
							t.Fatalf("%s: a refused restore wrote something", loss)
						}
						nothingPrivate(t, b, 0)
						if loss != "a byte in each text" {
							continue
						}
						r, err := b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
						must(t, r, err)
						rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
						must(t, rr.Result, err)
						r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
						must(t, r, err)
						same(t, loss, content(t, b), run.want)
					}
				})
			}
		}
	}
}

// A rotation that has moved nothing does not make a backup obsolete.
func TestABackupOfBeforeARotationThatMovedNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range restoreCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, s, 1)
			b := boardOver(run.chip, run.disk, run.files)
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
			must(t, rr.Result, err)
			// The header that knows of the rotation can be read, and takes precedence.
			_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
			refused(t, err, fault.RollbackRefused)
			changeHeader(t, b, s, run.disk, func(im volumetest.Store) {
				turn(t, im, firstText+100)
				turn(t, im, secondText+100)
			})
			if s.Filesystem.Type == spec.FilesystemNone {
				_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
				refused(t, err, fault.KeyWrong)
				return
			}
			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
			must(t, r, err)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			must(t, r, err)
			same(t, name, content(t, b), run.want)
		})
	}
}

// What is replaced is kept in a file before anything is written, and stays there until
// the volume is in use and proved.
func TestWhatARestoreReplacesIsKept(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			changeHeader(t, b, s, disk, func(im volumetest.Store) {
				turn(t, im, firstText+100)
				turn(t, im, secondText+200)
			})
			there := disk.Bytes()[:mib]
			if s.Detached() {
				if there, err = b.Files.Read(s.Header, readAll()); err != nil {
					t.Fatal(err)
				}
			}
			was := everything(t, b, disk)

			// The state directory cannot be written.
			b.Files.Err = unix.EROFS
			for _, keep := range []string{"", "/mnt/kept"} {
				_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Keep: keep})
				if err == nil || !strings.Contains(err.Error(), "--keep") || everything(t, b, disk) != was {
					t.Fatalf("%v", err)
				}
			}
			b.Files.Err = nil
			// An existing file is not overwritten.
			_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Keep: backupFile})
			if refused(t, err, fault.FileExists); everything(t, b, disk) != was {
				t.Fatal("something was written")
			}
			dry, err := b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{DryRun: true})
			if must(t, dry, err); everything(t, b, disk) != was {
				t.Fatal("a dry run wrote something")
			}

			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
			if must(t, r, err); filepath.Dir(r.Kept) != s.StateDir+"/headers" || !strings.Contains(strings.Join(r.Warnings, " "), r.Kept) {
				t.Fatalf("%+v", r)
			}
			if kept, err := b.Files.Read(r.Kept, readAll()); err != nil || !bytes.Equal(kept, there) {
				t.Fatalf("not what was there: %v", err)
			}
			hasItsData(t, b, s)
			v, err := b.Manager().Verify(ctx, s)
			if must(t, v, err); !strings.Contains(strings.Join(v.Warnings, " "), r.Kept) {
				t.Fatalf("%+v", v)
			}
			outlives(t, b, s, r.Kept)
			// It opens the volume on this chip, so erase destroys it.
			erase(t, b, s)
			for _, f := range b.Files.Names() {
				if f == r.Kept {
					t.Fatal("the kept header outlived an erase")
				}
			}
		})
	}
}

// outlives checks that a kept header stays until the volume is in use and its filesystem
// is seen, and is then removed. At the end it is put back.
func outlives(t *testing.T, b *volumetest.Board, s spec.Volume, kept string) {
	t.Helper()
	ctx := context.Background()
	was, err := b.Files.Read(kept, readAll())
	if err != nil {
		t.Fatal(err)
	}
	repair := func(o volume.RepairOptions, stays bool) {
		t.Helper()
		r, err := b.Manager().RepairHeader(ctx, s, o)
		must(t, r, err)
		if there := slices.Contains(b.Files.Names(), kept); there != stays {
			t.Fatalf("kept: %v, expected %v: %+v", there, stays, r)
		}
	}
	r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	repair(volume.RepairOptions{}, true) // locked
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	repair(volume.RepairOptions{DryRun: true}, true)
	// What names a newer key, or another volume, stays.
	for old, new := range map[string]string{`"generation":"1"`: `"generation":"2"`, r.UUID: "ffffffff" + r.UUID[8:]} {
		if !bytes.Contains(was, []byte(old)) {
			t.Fatalf("%s is not in it", old)
		}
		if err := b.Files.Replace(kept, bytes.ReplaceAll(was, []byte(old), []byte(new)), 0o600); err != nil {
			t.Fatal(err)
		}
		repair(volume.RepairOptions{}, true)
	}
	if err := b.Files.Replace(kept, was, 0o600); err != nil {
		t.Fatal(err)
	}
	repair(volume.RepairOptions{}, false)
	hasItsData(t, b, s)
	if err := b.Files.Create(kept, was, 0o600); err != nil {
		t.Fatal(err)
	}
}

// On a full disk the existing header stays, whatever its length.
func TestARestoreOnAFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := bothPlacements()["detached"]
	for _, length := range []int64{0, 4096, 64 << 10, mib, mib + 4096} {
		disk := crashtest.NewImage(16 * mib)
		b := provisioned(t, s, disk)
		r, err := b.Manager().BackupHeader(ctx, s, backupFile)
		must(t, r, err)
		content, err := b.Files.Read(s.Header, readAll())
		if err != nil {
			t.Fatal(err)
		}
		there := make([]byte, length)
		copy(there, content)
		if length >= mib { // otherwise it is the backup already
			there[firstText+9] ^= 1
		}
		if err := b.Files.Replace(s.Header, there, 0o600); err != nil {
			t.Fatal(err)
		}
		b.Step = func(what string) error {
			if strings.HasPrefix(what, "write") && strings.Contains(what, "data.header") && !strings.Contains(what, "kept") {
				return unix.ENOSPC
			}
			return nil
		}
		_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Keep: "/mnt/kept"})
		refused(t, err, fault.StorageFull)
		b.Step = nil
		if now, err := b.Files.Read(s.Header, readAll()); err != nil || !bytes.Equal(now, there) {
			t.Fatalf("%d bytes: the header that was there is gone: %v", length, err)
		}
		r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Keep: "/mnt/kept"})
		must(t, r, err)
		hasItsData(t, b, s)
	}
}

// Without a filesystem the check on the device proves the key, if the key is known to be
// the newest one. Otherwise nothing does, and a restore takes Force.
func TestARestoreThatNothingProves(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	s.Filesystem, s.Mount = spec.Filesystem{Type: spec.FilesystemNone}, spec.Mount{}
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, s, disk)
	r, err := b.Manager().BackupHeader(ctx, s, backupFile)
	must(t, r, err)

	turn(t, disk, firstText+100)
	turn(t, disk, secondText+200)
	r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
	must(t, r, err)

	write(disk, bytes.Repeat([]byte{0x5a}, mib), 0)
	was := everything(t, b, disk)
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{})
	if refused(t, err, fault.KeyWrong); everything(t, b, disk) != was {
		t.Fatal("something was written")
	}
	// Force does not help either if the data is noise through the key: if it is under
	// another key, or a rotation may have begun.
	data := bytes.Clone(disk.Bytes()[mib:])
	for at, code := range map[int64]fault.Code{mib: fault.RollbackRefused, 2 * mib: fault.KeyWrong} {
		noise := make([]byte, disk.Size()-at)
		rand.NewChaCha8([32]byte{}).Read(noise)
		write(disk, noise, at)
		was = everything(t, b, disk)
		_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Force: true})
		if refused(t, err, code); everything(t, b, disk) != was {
			t.Fatal("something was written")
		}
		nothingPrivate(t, b, 0)
		write(disk, data, mib)
	}
	r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Force: true})
	if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), "proved by the block at byte") {
		t.Fatalf("%+v", r)
	}
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	if got := get(t, b, 19); got != "the quick brown fox" {
		t.Fatalf("%q", got)
	}
}

// With the volume's header lost and its filesystem damaged, only blocks of the data prove
// the backup's key, and no blocks if a rotation may have moved some.
func TestARestoreOverADamagedFilesystem(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range restoreCases() {
		if s.Filesystem.Type == spec.FilesystemNone || s.Source == spec.SourceDev {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, s, 0)
			b := boardOver(run.chip, run.disk, run.files)
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			h, err := b.Manager().CheckHeader(backupFile)
			if err != nil {
				t.Fatal(err)
			}
			// The superblock and the header are gone.
			damage := func() {
				turn(t, run.disk, h.Volume.DataOffset+1024+56)
				changeHeader(t, b, s, run.disk, func(im volumetest.Store) { write(im, bytes.Repeat([]byte{0x5a}, rotationHeader), 0) })
			}
			whole, files := run.disk, run.files
			run.disk, run.files = whole.Overlay(), files.Overlay()
			b = boardOver(run.chip, run.disk, run.files)
			b.Chip.PowerCycle()
			damage()
			was := everything(t, b, run.disk)
			_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
			if refused(t, err, fault.KeyWrong); everything(t, b, run.disk) != was {
				t.Fatal("something was written")
			}
			r, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: true})
			must(t, r, err)
			_, err = b.Manager().Verify(ctx, s)
			if code := fault.CodeOf(err); code != fault.FilesystemMissing && (!s.Detached() || code != fault.KeyWrong) {
				t.Fatalf("verified: %v", err)
			}
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{ForRepair: true})
			must(t, r, err)

			// A rotation has moved a part of the data.
			run.disk, run.files = whole.Overlay(), files.Overlay()
			b = boardOver(run.chip, run.disk, run.files)
			b.Chip.PowerCycle()
			halfRotated(t, b, s)
			damage()
			was = everything(t, b, run.disk)
			for _, force := range []bool{false, true} {
				_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: force})
				if code := fault.CodeOf(err); code != fault.KeyWrong && code != fault.RollbackRefused || everything(t, b, run.disk) != was {
					t.Fatalf("force %v: %v", force, err)
				}
			}
		})
	}
}

// Every other user of the device is noticed before anything is written.
func TestARestoreOnADeviceInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			r, err := b.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			destroyHeader(t, b, s, disk)
			if err := foreignMapping(b, "other", "somebody"); err != nil {
				t.Fatal(err)
			}
			was := everything(t, b, disk)
			for _, dry := range []bool{true, false} {
				_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{DryRun: dry, Confirm: confirmed, Force: true})
				if refused(t, err, fault.DeviceInUse); everything(t, b, disk) != was {
					t.Fatal("something was written")
				}
			}
		})
	}
}

// A file that is not a backup, or is another volume's, is refused before waiting for the
// device.
func TestTheBackupIsLookedAtBeforeTheDeviceIsWaitedFor(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		b := provisioned(t, s, crashtest.NewImage(16*mib))
		r, err := b.Manager().BackupHeader(ctx, s, "/backup")
		must(t, r, err)
		whole, err := b.Files.Read("/backup", readAll())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct {
			path string
			data []byte
		}{{"/text", []byte("no header at all")}, {"/cut", whole[:len(whole)-4096]}} {
			if err := b.Files.Create(f.path, f.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.Disks[0].Absent = true
		s.Timeout = time.Hour // longer than any test
		other := s
		other.Name = "other"
		for file, c := range map[string]struct {
			of   spec.Volume
			code fault.Code
		}{"/text": {s, fault.HeaderInvalid}, "/cut": {s, fault.HeaderInvalid}, "/backup": {other, fault.HeaderMismatch}} {
			_, err := b.Manager().RestoreHeader(ctx, c.of, file, volume.RestoreOptions{Confirm: confirmed})
			if fault.CodeOf(err) != c.code {
				t.Errorf("%s: %s: %v (code %s)", placement, file, err, fault.CodeOf(err))
			}
		}
		s.Timeout = 0
		_, err = b.Manager().RestoreHeader(ctx, s, "/backup", volume.RestoreOptions{Confirm: confirmed})
		refused(t, err, fault.DeviceMissing)
	}
}
