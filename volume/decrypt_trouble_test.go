// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// The device is one block shorter when the decryption ends: the record must not be within
// the bytes that are kept.
func TestDecryptOnADeviceThatLacksTheLastBlock(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	for _, by := range []int64{512, header.BlockAlign} {
		r := toBeMoved(t, s, true)
		rr, err := r.command(boardOver(r.chip, r.disk, r.files), volume.RotateOptions{InitOnly: true})
		must(t, rr.Result, err)
		small := crashtest.NewImage(r.disk.Size() - by)
		write(small, r.disk.Bytes()[:small.Size()], 0)
		_, err = r.command(boardOver(r.chip, small, r.files.Overlay()), volume.RotateOptions{})
		refused(t, err, fault.HeaderInvalid)
		if !bytes.Equal(small.Bytes(), r.disk.Bytes()[:small.Size()]) {
			t.Errorf("smaller by %d: changed", by)
		}
	}
}

// newUUID does what tune2fs -U does to the filesystem in the open volume.
func newUUID(t *testing.T, f interface {
	ReadAt([]byte, int64) (int, error)
	WriteAt([]byte, int64) (int, error)
}) {
	t.Helper()
	block := make([]byte, 4096)
	if _, err := f.ReadAt(block, 0); err != nil {
		t.Fatal(err)
	}
	sb := block[1024:2048]
	sb[0x68] ^= 0x55
	binary.LittleEndian.PutUint32(sb[0x3fc:], ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Fatal(err)
	}
}

// The filesystem in the volume is not the one that provisioning made (mkfs, tune2fs -U).
// The volume opens with a warning, and is decrypted as well.
func TestDecryptAnotherFilesystem(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, want := filled(t, s, disk)
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	newUUID(t, f)
	_ = f.Close()
	u, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, u, err)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	rr, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "decrypted", disk.Bytes()[rotationText:len(want)], want[rotationText:])
}

// An old header area was put back (dd). rotate refuses to encrypt the noise; decrypt must
// not write it over the data as plaintext.
func TestDecryptByAnOldHeader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, want := filled(t, s, disk)
	u, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, u, err)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	old := bytes.Clone(disk.Bytes()[:s.HeaderSize])
	rr, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	good := bytes.Clone(disk.Bytes()[:s.HeaderSize])
	write(disk, old, 0)
	b = powerCycle(b)
	_, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.KeyWrong)
	write(disk, good, 0)
	b = powerCycle(b)
	u, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "with the right header again", content(t, b), want)
}

// memory is a device in memory.
type memory struct{ *crashtest.Image }

func (m memory) Flush() error { return nil }

// forge makes, without any key, the header area of a decryption that has begun or ended,
// with the token and the blob of the existing header, and puts an attacker's filesystem
// beside it.
func forge(t *testing.T, b *volumetest.Board, s spec.Volume, disk *crashtest.Image, ended bool) {
	t.Helper()
	c, area := openedStorage(t, b, s), s.HeaderSize
	h, err := header.Read(c)
	if err != nil {
		t.Fatal(err)
	}
	saved := header.PlanStart(disk.Size(), area).Saved
	h.BeginDecryption(saved)
	l, err := h.Layout(c)
	if err != nil {
		t.Fatal(err)
	}
	binding, err := h.RotationBinding(h.Next.Token.Generation)
	if err != nil {
		t.Fatal(err)
	}
	meta := memory{crashtest.NewImage(area)}
	dummy := memory{crashtest.NewImage(disk.Size())}
	e, err := reencrypt.NewEngine(reencrypt.Options{Layout: l, Binding: binding, Views: reencrypt.Views{Old: dummy, New: dummy, Raw: dummy, Meta: meta}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	if ended {
		if err := e.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Write(c.Header); err != nil {
		t.Fatal(err)
	}
	write(disk, meta.Bytes()[header.RotationRecordOffset:header.RotationJournalOffset], header.RotationRecordOffset)
	if ended {
		raw := evil(h.Token.Filesystem.UUID)
		write(disk, raw[area:], area)
		write(disk, raw[:area], saved)
	}
}

// evil returns an attacker's filesystem, with a UUID of the attacker's choice.
func evil(uuid string) []byte {
	im := crashtest.NewImage(rotationData)
	plainExt4(im)
	raw := im.Bytes()
	sb := raw[1024:2048]
	hex := strings.ReplaceAll(uuid, "-", "")
	for i := range 16 {
		var v byte
		for _, c := range hex[2*i : 2*i+2] {
			v = v<<4 | byte(strings.IndexRune("0123456789abcdef", c))
		}
		sb[0x68+i] = v
	}
	binary.LittleEndian.PutUint32(sb[0x3fc:], ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	copy(raw[rotationText:], "EVIL")
	return raw
}

// An attacker who can write the storage, but has no key and cannot write state_dir,
// cannot make a board accept foreign plaintext, nor give up its header or its record.
func TestAForgedDecryptionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := unattended(rotationSpec(rotationGap))
	disk := plainDiskFor(s)
	files := crashtest.NewImage(volumetest.FilesSize)
	b := boardOver(caamtest.RandomChip(), disk, files)
	opened(t, b, s)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	b = powerCycle(b)
	if _, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []bool{false, true} {
		disk := disk.Overlay()
		forge(t, boardOver(b.Chip, disk, files.Overlay()), s, disk, ended)
		before := disk.Bytes()
		for _, known := range []bool{true, false} {
			b := boardOver(b.Chip, disk, files.Overlay())
			code := fault.HeaderRolledBack
			if !known {
				code = fault.KeyWrong
				if err := b.Files.Remove(recordOfData); err != nil {
					t.Fatal(err)
				}
			}
			for name, do := range map[string]func() error{
				// A start without systemd: boot, then rotate --resume-only (docs/encrypt.md).
				"unlock": func() error { _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true}); return err },
				"resume": func() error {
					_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					return err
				},
				"decrypt": func() error { _, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{}); return err },
			} {
				if err := do(); !fault.Is(err, code) {
					t.Errorf("%s, ended %v, known %v: %v (code %s)", name, ended, known, err, fault.CodeOf(err))
				}
			}
			if _, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{}); known && err != nil {
				t.Errorf("ended %v: the record in state_dir is gone", ended)
			}
			if !bytes.Equal(disk.Bytes(), before) {
				t.Errorf("ended %v, known %v: something was changed", ended, known)
			}
		}
	}
}

// A suspend that is not counted kills the key under a volume whose decryption stopped, as
// in TestNothingIsEncryptedWithADeadKey.
func TestNothingIsDecryptedWithADeadKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, counted := range []bool{false, true} {
		s := rotationSpec(rotationGap)
		s.Wrap = "ecb"
		r := toBeMoved(t, s, true)
		b := boardOver(r.chip, r.disk, r.files)
		u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
		must(t, u, err)
		inPlaceUntil(t, 1, func(ctx context.Context, o volume.RotateOptions) error {
			_, err := b.Manager().Decrypt(ctx, s, o)
			return err
		})
		if counted {
			b.Sleep(time.Second)
		} else {
			b.Chip.PowerCycle()
		}
		_, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
		refused(t, err, fault.KeysLost)
		b = powerCycle(b)
		rr, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
		must(t, rr.Result, err)
		same(t, "decrypted with the right key", r.disk.Bytes()[:len(r.plain)], r.plain)
	}
}

// A header area from the middle of a decryption is put back after the device was
// encrypted again, with another filesystem beside it.
func TestAnOldDecryptionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	b := newBoard(disk)
	rr, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	var old []byte
	h, err := header.Read(openedStorage(t, b, s))
	if err != nil {
		t.Fatal(err)
	}
	rr, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{Moved: func(r volume.Rotation) {
		if r.Done == r.Total {
			old = bytes.Clone(disk.Bytes()[:s.HeaderSize])
		}
	}})
	must(t, rr.Result, err)
	rr, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	raw := evil(h.Token.Filesystem.UUID)
	write(disk, old, 0)
	write(disk, raw[s.HeaderSize:], s.HeaderSize)
	write(disk, raw[:s.HeaderSize], header.PlanStart(disk.Size(), s.HeaderSize).Saved)
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.HeaderRolledBack)
	_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	refused(t, err, fault.HeaderRolledBack)
}

// A decryption that another system on the board has begun, with a state_dir of its own,
// is refused until a person asks for it; then it belongs to this system.
func TestADecryptionOfAnotherSystem(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range map[string]spec.Volume{"on the device": rotationSpec(rotationGap), "in a file": encryptSpec()} {
		r := toBeMoved(t, s, true)
		b := boardOver(r.chip, r.disk, r.files)
		known, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		rr, err := r.command(b, volume.RotateOptions{InitOnly: true})
		must(t, rr.Result, err)
		if err := b.Files.Replace(recordOfData, known, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		refused(t, err, fault.HeaderRolledBack)
		_, err = r.command(b, volume.RotateOptions{DryRun: true})
		refused(t, err, fault.HeaderRolledBack)
		rr, err = r.command(b, volume.RotateOptions{InitOnly: true})
		must(t, rr.Result, err)
		u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		must(t, u, err)
		same(t, name, content(t, b), r.plain)
	}
}

// No power cut leaves a superblock in front of sectors of the same block that are not the
// filesystem's, unless the device still says that it is LUKS2.
func TestTheSuperblockComesBackLast(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	write(disk, bytes.Repeat([]byte("group descriptors, of blocks of 1 KiB\n"), 53)[:2000], 2048)
	r := inPlaceRun{spec: s, back: true, chip: caamtest.RandomChip(), disk: disk, files: crashtest.NewImage(volumetest.FilesSize), plain: bytes.Clone(disk.Bytes()[:rotationData])}
	e, err := boardOver(r.chip, r.disk, r.files).Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, e.Result, err)
	rr, err := r.command(boardOver(r.chip, r.disk, r.files), volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	run := record(r.chip, r.disk, r.files)
	rr, err = r.command(run.board, volume.RotateOptions{})
	must(t, rr.Result, err)
	bad, seen := 0, 0
	for state := range run.rec.States(crashLimits()) {
		disk := state.Image(run.disk).Bytes()
		if !bytes.Equal(disk[1024:2048], r.plain[1024:2048]) {
			continue
		}
		seen++
		if !bytes.Equal(disk[512:4096], r.plain[512:4096]) && !bytes.HasPrefix(disk, []byte("LUKS")) {
			bad++
		}
	}
	if bad > 0 || seen == 0 {
		t.Errorf("%d of %d states have the superblock in front of what is not the filesystem's", bad, seen)
	}
}

// A header backup from before a decryption is not written over the filesystem, not even
// with force: nothing is left that its key would seem to open.
func TestNoOldHeaderOverPlainText(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	write(disk, bytes.Repeat([]byte("a text of a user at the end of the volume\n"), 200)[:8192], rotationData-s.HeaderSize-(64<<10))
	b := newBoard(disk)
	rr, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	u, err := b.Manager().BackupHeader(ctx, s, backupFile)
	must(t, u, err)
	rr, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	before := disk.Bytes()
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: true})
	refused(t, err, fault.KeyWrong)
	if !bytes.Equal(before, disk.Bytes()) {
		t.Errorf("a backup from before a decrypt was written over the filesystem")
	}
}

// `rotate --resume-only` of a locked volume begins the last moment of a decryption, and
// continues it, too.
func TestResumeEndsADecryption(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	disk, files, plain := ending(t)
	b := boardOver(caamtest.RandomChip(), disk, files)
	rr, err := b.Manager().Rotate(context.Background(), s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	same(t, "decrypted", disk.Bytes()[:len(plain)], plain)
}

// A person who follows the hint after a forged last moment of a decryption does not lose
// the record that refuses plaintext from then on.
func TestAForgedLastMomentIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := unattended(rotationSpec(rotationGap))
	disk := plainDiskFor(s)
	b := newBoard(disk)
	opened(t, b, s)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	b = powerCycle(b)
	forge(t, b, s, disk, true)
	at := header.PlanStart(disk.Size(), s.HeaderSize)
	area := bytes.Clone(disk.Bytes()[:s.HeaderSize])
	write(disk, area, at.Staged)
	if err := header.PlanBack(disk.Size(), s.HeaderSize, at.Saved).Begin(openedDevice(t, b, s)); err != nil {
		t.Fatal(err)
	}
	write(disk, disk.Bytes()[at.Saved+16<<10:][:16<<10], 16<<10)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.DecryptionEnding)
	_, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.HeaderRolledBack)
	if _, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{}); err != nil {
		t.Error("the record in state_dir is gone")
	}
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.DecryptionEnding)
}

// All data is in plaintext, with the volume in use; the chip is closed before lock and
// decrypt. The decryption ends without the key, since a person asks for it.
func TestDecryptEndsOnAClosedChip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	b := boardOver(r.chip, r.disk, r.files)
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	rr, err := r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	b = boardOver(caamtest.RandomChip(), r.disk, r.files)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.BlobRejected)
	rr, err = r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "decrypted", r.disk.Bytes()[:len(r.plain)], r.plain)
}

// If the filesystem is damaged or missing, no data is moved, since the decryption could
// not end.
func TestDecryptWithoutAFilesystem(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	b := boardOver(r.chip, r.disk, r.files)
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	scrawl(t, b, bytes.Repeat([]byte{'x'}, 1024), 1024)
	u, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, u, err)
	before := r.disk.Bytes()
	_, err = r.command(b, volume.RotateOptions{})
	refused(t, err, fault.FilesystemMissing)
	if !bytes.Equal(before, r.disk.Bytes()) {
		t.Error("something was changed")
	}
}
