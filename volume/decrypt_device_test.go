// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
)

// A provisioned volume has no room for the bytes that belong where the header is. The
// refusal names the rotation that makes room; after that the volume is decrypted.
func TestDecryptAProvisionedVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	s.Gap = s.HeaderSize + header.BlockAlign
	disk := crashtest.NewImage(8 * mib)
	b := provisioned(t, s, disk)
	before := snapshot(t, b, disk)
	for _, dry := range []bool{true, false} {
		_, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{DryRun: dry})
		refused(t, err, fault.DecryptRefused)
		if !strings.Contains(err.Error(), "`imxcrypt rotate data` moves the data down by") {
			t.Errorf("%v", err)
		}
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	before = snapshot(t, b, disk)
	r, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{DryRun: true})
	must(t, r.Result, err)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 || len(r.Steps) != 2 {
		t.Fatalf("a dry run changed %q and says %+v", names, r.Steps)
	}
	r, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	raw := disk.Bytes()
	if !bytes.Contains(raw, []byte("the quick brown fox")) {
		t.Error("the data is not there in plain text")
	}
	// The copies of the header area and of the first bytes are gone.
	if at := header.PlanStart(disk.Size(), s.HeaderSize); !blank.Zero(raw[at.Staged:]) {
		t.Error("something is left behind the filesystem")
	}
	refusedOf(t, fault.PlaintextFound, func() error { _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); return err })
}

// Without a gap of the header's size no rotation makes room, and none is advised.
func TestDecryptWithoutRoom(t *testing.T) {
	t.Parallel()
	s := rotationSpec(0)
	disk := crashtest.NewImage(8 * mib)
	b := provisioned(t, s, disk)
	before := snapshot(t, b, disk)
	_, err := b.Manager().Decrypt(context.Background(), s, volume.RotateOptions{})
	refused(t, err, fault.DecryptRefused)
	if !strings.Contains(err.Error(), "no rotation makes room") {
		t.Errorf("%v", err)
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
}

// ending returns a device at the last moment of its decryption, with the second copy of
// the header overwritten.
func ending(t *testing.T) (disk, files *crashtest.Image, plain []byte) {
	t.Helper()
	_, disk, files, plain = endingOn(t)
	return disk, files, plain
}

// endingOn is ending, with the chip that has the key.
func endingOn(t *testing.T) (chip *caamtest.Chip, disk, files *crashtest.Image, plain []byte) {
	t.Helper()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	run := record(r.chip, r.disk, r.files)
	found := false
	read := func(at, n int64) []byte {
		b := make([]byte, n)
		if _, err := run.disk.ReadAt(b, at); err != nil {
			t.Error(err)
		}
		return b
	}
	const copySize = header.MetadataSize / 2
	record := header.PlanStart(r.disk.Size(), s.HeaderSize).Record
	run.board.Step = func(string) error {
		if found || bytes.HasPrefix(read(record, header.BlockAlign), []byte("IMXCRYPT-PLAIN")) && bytes.Equal(read(copySize, copySize), r.plain[copySize:2*copySize]) {
			found = true
			return errKilled
		}
		return nil
	}
	_, _ = r.command(run.board, volume.RotateOptions{})
	if run.board.Step = nil; !found {
		t.Fatal("never half put back")
	}
	return r.chip, run.disk.Live(), run.files.Live(), r.plain
}

// From the sector that says so until the last byte is put back, the device is the
// filesystem except for its start: nothing else takes it for empty, for a filesystem or
// for damaged, or changes it; and decrypt, which needs no chip for that, puts back the
// rest.
func TestAFilesystemHalfPutBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip := caamtest.RandomChip() // another one: no key is needed
	disk, files, plain := ending(t)
	b := boardOver(chip, disk, files)
	before := snapshot(t, b, disk)
	m := b.Manager()
	for name, do := range map[string]func() error{
		"status":         func() error { return m.Status(ctx, s).Err },
		"verify":         func() error { _, err := m.Verify(ctx, s); return err },
		"rotate":         func() error { _, err := m.Rotate(ctx, s, volume.RotateOptions{}); return err },
		"provision":      func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{}); return err },
		"provision wipe": func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{Wipe: true}); return err },
		"erase":          func() error { _, err := m.Erase(ctx, s, volume.EraseOptions{}); return err },
		"repair":         func() error { _, err := m.RepairHeader(ctx, s, volume.RepairOptions{}); return err },
		"backup":         func() error { _, err := m.BackupHeader(ctx, s, "/backup"); return err },
		"resize":         func() error { _, err := m.Resize(ctx, s, volume.ResizeOptions{}); return err },
		"unlock":         func() error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{}); return err },
		"at boot": func() error {
			s := s
			s.EncryptPlain = true
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			return err
		},
		"encrypt": func() error { _, err := m.Encrypt(ctx, s, volume.RotateOptions{}); return err },
	} {
		if err := do(); !fault.Is(err, fault.DecryptionEnding) {
			t.Errorf("%s: %v (code %s)", name, err, fault.CodeOf(err))
		}
	}
	r, err := m.Decrypt(ctx, s, volume.RotateOptions{DryRun: true})
	must(t, r.Result, err)
	report, err := m.CheckHeader(s.Device)
	if err == nil || len(report.Problems) == 0 {
		t.Errorf("header check: %v, %+v", err, report)
	}
	other := s
	other.Name, other.Mapping = "logs", "logs"
	_, err = m.Decrypt(ctx, other, volume.RotateOptions{})
	refused(t, err, fault.HeaderMismatch)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
	r, err = m.Decrypt(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	same(t, "decrypted", disk.Bytes()[:len(plain)], plain)
	if r, err = m.Decrypt(ctx, s, volume.RotateOptions{}); err != nil || !r.Already {
		t.Errorf("%v, %+v", err, r)
	}
}

// What others have written to the device's start since is not overwritten.
func TestAFilesystemHalfPutBackAndSomethingElse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip := caamtest.RandomChip() // another one: no key is needed
	disk, files, plain := ending(t)
	for name, c := range map[string]struct {
		change func(*crashtest.Image)
		code   fault.Code
	}{
		"over a part of it": {func(im *crashtest.Image) { write(im, []byte("mounted meanwhile"), 1200) }, fault.HeaderDamaged},
		"all put back, and changed": {func(im *crashtest.Image) {
			write(im, plain[:s.HeaderSize], 0)
			write(im, []byte("x"), 5*4096+1)
		}, fault.PlaintextFound},
	} {
		im := disk.Overlay()
		c.change(im)
		b := boardOver(chip, im, files.Overlay())
		before := snapshot(t, b, im)
		_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		refused(t, err, c.code)
		if c.code != fault.PlaintextFound {
			_, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
			refused(t, err, c.code)
		}
		if names := differs(before, snapshot(t, b, im)); len(names) > 0 {
			t.Errorf("%s: changed: %q", name, names)
		}
	}
	// If the kept header is overwritten, its other copy says what to do.
	im := disk.Overlay()
	write(im, []byte("overwritten"), header.PlanStart(disk.Size(), s.HeaderSize).Staged)
	r, err := boardOver(chip, im, files.Overlay()).Manager().Decrypt(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	same(t, "decrypted", im.Bytes()[:len(plain)], plain)
}

// No power cut leaves a superblock in front of parts of the header, or both copies of the
// header whole in front of parts of the filesystem.
func TestTheWayBackOnTheDeviceGoesOver(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	rr, err := r.command(boardOver(r.chip, r.disk, r.files), volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	head := bytes.Clone(r.disk.Bytes()[:s.HeaderSize])
	run := record(r.chip, r.disk, r.files)
	rr, err = r.command(run.board, volume.RotateOptions{})
	must(t, rr.Result, err)
	over := 0
	for state := range run.rec.States(few(crashLimits())) {
		disk := state.Image(run.disk).Bytes()
		if !bytes.Equal(disk[:header.BlockAlign], head[:header.BlockAlign]) {
			over++
			if !bytes.Equal(disk[header.BlockAlign:s.HeaderSize], r.plain[header.BlockAlign:s.HeaderSize]) {
				t.Fatalf("%s: a superblock in front of parts of the header", state)
			}
		}
		if bytes.Equal(disk[:header.MetadataSize], head[:header.MetadataSize]) {
			// The records in the header area have changed during the run, so compare only
			// what follows.
			if at := int64(header.RotationJournalOffset); !bytes.Equal(disk[at:s.HeaderSize], head[at:s.HeaderSize]) {
				t.Fatalf("%s: parts of the filesystem behind a whole header", state)
			}
		}
	}
	if over == 0 {
		t.Error("the superblock was never there: nothing was shown")
	}
}

// The partition changes its size before all is decrypted. If it has grown, it is
// decrypted anyway; if it has lost what is needed, the error says so with the right
// number.
func TestDecryptOnADeviceOfAnotherSize(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	size := r.disk.Size()
	rr, err := r.command(boardOver(r.chip, r.disk, r.files), volume.RotateOptions{Moved: func(volume.Rotation) {}, InitOnly: true})
	must(t, rr.Result, err)

	small := crashtest.NewImage(size - 2*header.BlockAlign)
	write(small, r.disk.Bytes()[:small.Size()], 0)
	_, err = r.command(boardOver(r.chip, small, r.files.Overlay()), volume.RotateOptions{})
	if err == nil || !strings.Contains(err.Error(), "ends at") {
		t.Errorf("on a smaller device: %v (code %s)", err, fault.CodeOf(err))
	}

	large := crashtest.NewImage(size + 3*header.BlockAlign) // less than a header area
	write(large, r.disk.Bytes(), 0)
	run := record(r.chip, large, r.files.Overlay())
	first, second := cutTwice(t, run, func(*testing.T, *recording, string) {})
	if first+second != 0 {
		t.Fatal("nothing was recorded yet")
	}
	rr, err = r.command(run.board, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "decrypted", run.disk.Live().Bytes()[:len(r.plain)], r.plain)
	n, m := cutTwice(t, run, r.resume)
	t.Logf("%d states tried, 0 lost", n+m)
}

// A volume that is decrypted while in use keeps its header, and what is written meanwhile
// is there afterwards.
func TestDecryptOnTheDeviceInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, true)
	b := boardOver(r.chip, r.disk, r.files)
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	text := []byte("written before it is decrypted, at the start")
	copy(r.plain[rotationText:], text)
	scrawl(t, b, text, rotationText)
	rr, err := r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	for range 2 {
		same(t, "in use", content(t, b), r.plain)
		text = []byte("written when all is in plain text, at the start")
		copy(r.plain[rotationText:], text)
		scrawl(t, b, text, rotationText)
	}
	for _, lock := range []bool{true, false} {
		if lock {
			u, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, u, err)
			u, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			same(t, "opened in plain text", content(t, b), r.plain)
		}
		u, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
		must(t, u, err)
	}
	rr, err = r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "decrypted", r.disk.Bytes()[:len(r.plain)], r.plain)
}
