// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/ext4shrink"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// fullFiles is how many files are written before some are removed.
const fullFiles = 128

// fullSize returns a disk with an ext4 filesystem that takes all of it, with files up to
// its end.
func fullSize(t *testing.T) *crashtest.Image {
	t.Helper()
	const size = 12 * mib
	from, path := t.TempDir(), filepath.Join(t.TempDir(), "device")
	rng := rand.NewChaCha8([32]byte{1})
	for i := range fullFiles {
		b := make([]byte, 60<<10)
		_, _ = rng.Read(b)
		if err := os.WriteFile(filepath.Join(from, fmt.Sprintf("f%d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The first files make room for the last.
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("rm f0\nrm f1\nrm f2\nrm f3\nrm f4\nrm f5\nrm f10\nrm f12\nrm f14\nrm f16\nrm f18\nrm f20\nrm f22\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-J", "size=4", "-N", "256", "-d", from, path, "12M"},
		{"debugfs", "-w", "-f", script, path},
		{"e2fsck", "-f", "-n", path},
	} {
		program, err := mkfs.Maker{}.Programs.Find(args[0])
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	disk := crashtest.NewImage(size)
	write(disk, b, 0)
	return disk
}

// smallerThan returns the size of the largest filesystem that a device has room for.
func smallerThan(t *testing.T, s spec.Volume, disk *crashtest.Image) int64 {
	t.Helper()
	_, start, err := header.PlanOver(s, header.DeviceFacts{Path: s.Device, Size: disk.Size()})
	if err != nil {
		t.Fatal(err)
	}
	return start.Saved - s.HeaderSize - s.Gap
}

// A filesystem that takes all of the device is made smaller, and encrypted, with its
// files.
func TestEncryptMakesRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := rotationSpec(rotationGap), fullSize(t)
	b := newBoard(disk)
	before := snapshot(t, b, disk)
	dry, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{DryRun: true})
	must(t, dry.Result, err)
	to := smallerThan(t, s, disk)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("a dry run changed %q", names)
	}
	if said := fmt.Sprintf("from %d to %d bytes", disk.Size(), to); !slices.ContainsFunc(dry.Steps, func(step volume.Step) bool { return strings.Contains(fmt.Sprint(step), said) }) {
		t.Fatalf("a dry run does not say %q: %+v", said, dry.Steps)
	}
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	if must(t, r.Result, err); r.Rotation.Done != to {
		t.Fatalf("%+v", r.Rotation)
	}
	for _, name := range b.Files.Names() {
		if strings.HasSuffix(name, ".shrink") {
			t.Errorf("%s is left", name)
		}
	}
	b = powerCycle(b)
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	sound(t, content(t, b))
}

// sound checks that a filesystem is that of [fullSize], made smaller.
func sound(t *testing.T, b []byte) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "device")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (mkfs.Maker{}).Sound(context.Background(), path); err != nil {
		t.Fatal(err)
	}
	program, err := mkfs.Maker{}.Programs.Find("debugfs")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{1})
	if out, err := exec.Command(program, "-R", "rdump / "+dir, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	n := 0
	for i := range fullFiles {
		want := make([]byte, 60<<10)
		_, _ = rng.Read(want)
		if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("f%d", i))); err == nil {
			if n++; !bytes.Equal(got, want) {
				t.Errorf("f%d has another content", i)
			}
		}
	}
	if n != fullFiles-13 {
		t.Errorf("%d files", n)
	}
}

// stopAfterShrink encrypts until the filesystem is smaller.
func stopAfterShrink(t *testing.T, b *volumetest.Board, s spec.Volume) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{Progress: func(step volume.Step) {
		if strings.Contains(fmt.Sprint(step), "made smaller") {
			cancel()
		}
	}})
	if !fault.Is(err, fault.Interrupted) {
		t.Fatal(err)
	}
}

// Wherever the power is cut while a filesystem is made smaller, and again while that is
// finished: the device is the filesystem as it was, or status, unlock and everything else
// report that it is being made smaller and change nothing, or it is the smaller
// filesystem. Encrypt finishes it, bit for bit.
func TestEveryPowerCutOfMakingRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := rotationSpec(rotationGap), fullSize(t)
	old := bytes.Clone(disk.Bytes())
	chip := caamtest.RandomChip()
	run := record(chip, disk, crashtest.NewImage(volumetest.FilesSize))
	stopAfterShrink(t, run.board, s)
	final := run.disk.Live().Bytes()
	sound(t, final[:smallerThan(t, s, disk)])
	check := func(what string, r *recording) {
		t.Helper()
		r.board.Chip.PowerCycle()
		m := r.board.Manager()
		st := m.Status(ctx, s)
		_, unlocked := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
		if fault.CodeOf(unlocked) != fault.CodeOf(st.Err) {
			t.Fatalf("%s: status says %v, unlock %v", what, st.Err, unlocked)
		}
		now := bytesOf(t, r.disk)
		switch fault.CodeOf(st.Err) {
		case fault.PlaintextFound:
			if !bytes.Equal(now, old) && !bytes.Equal(now, final) {
				t.Fatalf("%s: a filesystem, and neither the old one nor the new one", what)
			}
		case fault.ShrinkStarted:
		default:
			t.Fatalf("%s: %v (code %s)", what, st.Err, fault.CodeOf(st.Err))
		}
	}
	first, half, second := 0, 0, 0
	limits := few(crashtest.Options{Exhaustive: 3, Limit: 4, Random: 4, Seed: 9})
	for state := range run.rec.States(limits) {
		first++
		next := record(chip, state.Image(run.disk), state.Image(run.files))
		check(state.String(), next)
		marked := fault.Is(next.board.Manager().Status(ctx, s).Err, fault.ShrinkStarted)
		rr, err := next.board.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true})
		must(t, rr.Result, err)
		now := bytesOf(t, next.disk)
		if rr.Already == marked || marked && !bytes.Equal(now, final) || !bytes.Equal(now, final) && !bytes.Equal(now, old) {
			t.Fatalf("%s: marked %v, already %v, and then another filesystem", state, marked, rr.Already)
		}
		nothingLeft(t, state.String(), next.board, s)
		if !marked {
			continue
		}
		if half++; half%10 != 1 {
			continue
		}
		for cut := range next.rec.States(sparse(crashtest.Options{Exhaustive: 2, Limit: 1, Random: -1, Seed: uint64(first)}, 3)) {
			second++
			third := record(chip, cut.Image(next.disk), cut.Image(next.files))
			check(state.String()+"; then "+cut.String(), third)
			rr, err := third.board.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true})
			if must(t, rr.Result, err); !bytes.Equal(bytesOf(t, third.disk), final) {
				t.Fatalf("%s; then %s: another filesystem", state, cut)
			}
			nothingLeft(t, state.String()+"; then "+cut.String(), third.board, s)
		}
		if half == 1 {
			// After that it is encrypted like any other.
			rr, err := next.board.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true})
			must(t, rr.Result, err)
			sound(t, content(t, next.board))
		}
	}
	if half == 0 {
		t.Error("it was never interrupted: nothing was shown")
	}
	t.Logf("%d states tried, %d of them in the middle, and %d after a second cut, 0 lost", first, half, second)
}

// nothingLeft fails if a log is left: it contains files in plaintext.
func nothingLeft(t *testing.T, what string, b *volumetest.Board, s spec.Volume) {
	t.Helper()
	names, err := b.Files.List(s.StateDir)
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return filepath.Ext(n) == ".shrink" }) {
		t.Fatalf("%s: left in the workspace: %q, %v", what, names, err)
	}
}

// The log of another filesystem stays, and is named: that filesystem may need it.
func TestTheLogOfAnotherFilesystemStays(t *testing.T) {
	t.Parallel()
	s, disk := rotationSpec(rotationGap), fullSize(t)
	b := newBoard(disk)
	file := s.StateDir + "/" + s.Name + "-0011223344556677.shrink"
	if err := b.Files.Create(file, []byte("a log"), 0o600); err != nil {
		t.Fatal(err)
	}
	rr, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	if left, err := b.Files.Read(file, readAll()); err != nil || string(left) != "a log" || !strings.Contains(strings.Join(rr.Warnings, " "), file) {
		t.Errorf("%q, %v, %q", left, err, rr.Warnings)
	}
}

// So does the log of a volume whose name begins the same, over a copy of the same
// filesystem.
func TestTheLogOfAnotherVolumeStays(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	other := s
	other.Name = s.Name + "-b"
	chip, _, files := halfShrunk(t, other)
	b := boardOver(chip, fullSize(t), files)
	log := shrinkLog(b)
	rr, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	if _, err := b.Files.Read(log, readAll()); err != nil {
		t.Errorf("%s: %v", log, err)
	}
}

// bytesOf returns a copy of what a disk holds, for a disk that is written to afterwards.
func bytesOf(t *testing.T, d *crashtest.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// halfShrunk returns a device whose filesystem is only partly made smaller.
func halfShrunk(t *testing.T, s spec.Volume) (chip *caamtest.Chip, disk, files *crashtest.Image) {
	t.Helper()
	chip = caamtest.RandomChip()
	run := record(chip, fullSize(t), crashtest.NewImage(volumetest.FilesSize))
	stopAfterShrink(t, run.board, s)
	for state := range run.rec.States(crashtest.Options{Exhaustive: 1, Limit: 2, Random: 2, Seed: 1}) {
		im := state.Image(run.disk)
		if _, found, err := ext4shrink.FindMark(im); err == nil && found && state.Loss() == crashtest.Torn {
			return chip, im, state.Image(run.files)
		}
	}
	t.Fatal("no such state")
	return nil, nil, nil
}

// shrinkLog returns the file of a log; empty if there is none.
func shrinkLog(b *volumetest.Board) string {
	for _, name := range b.Files.Names() {
		if filepath.Ext(name) == ".shrink" {
			return name
		}
	}
	return ""
}

// While the filesystem is half made smaller, no other command writes, and none takes the
// device for empty.
func TestAFilesystemHalfMadeSmaller(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip, disk, files := halfShrunk(t, s)
	b := boardOver(chip, disk, files)
	before := snapshot(t, b, disk)
	m := b.Manager()
	apart := s
	apart.Header = "/etc/imxcrypt/data.luks"
	for name, do := range map[string]func() error{
		"status":         func() error { return m.Status(ctx, s).Err },
		"verify":         func() error { _, err := m.Verify(ctx, s); return err },
		"unlock":         func() error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true}); return err },
		"rotate":         func() error { _, err := m.Rotate(ctx, s, volume.RotateOptions{}); return err },
		"provision":      func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{}); return err },
		"provision wipe": func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{Wipe: true}); return err },
		"erase":          func() error { _, err := m.Erase(ctx, s, volume.EraseOptions{}); return err },
		"repair":         func() error { _, err := m.RepairHeader(ctx, s, volume.RepairOptions{}); return err },
		"backup":         func() error { _, err := m.BackupHeader(ctx, s, "/backup"); return err },
		"resize":         func() error { _, err := m.Resize(ctx, s, volume.ResizeOptions{}); return err },
		"no such workspace": func() error {
			_, err := m.Encrypt(ctx, s, volume.RotateOptions{Workspace: "/mnt"})
			return err
		},
	} {
		if err := do(); !fault.Is(err, fault.ShrinkStarted) {
			t.Errorf("%s: %v (code %s)", name, err, fault.CodeOf(err))
		}
	}
	for _, s := range []spec.Volume{s, apart} {
		r, err := m.Encrypt(ctx, s, volume.RotateOptions{DryRun: true})
		if must(t, r.Result, err); len(r.Steps) != 1 {
			t.Errorf("a dry run says %+v", r.Steps)
		}
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}

	// A different log is not written, and the right one is found in another directory.
	file := shrinkLog(b)
	log, err := b.Files.Read(file, atomicfile.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Clone(log)
	other[len(other)/2] ^= 1
	for _, c := range []struct {
		content []byte
		code    fault.Code
	}{{other, fault.ShrinkStarted}, {log[:len(log)-1], fault.ShrinkStarted}, {log, ""}} {
		b := boardOver(chip, disk.Overlay(), files.Overlay())
		if err := errors.Join(b.Files.Remove(file), b.Files.Create("/mnt/"+filepath.Base(file), c.content, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{Workspace: "/mnt", Mount: true})
		if fault.CodeOf(err) != c.code {
			t.Errorf("%v (code %s)", err, fault.CodeOf(err))
		}
		if err == nil {
			sound(t, content(t, b))
		}
	}
}

// What cannot be made smaller is refused before anything is written.
func TestEncryptMakesNoRoom(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	full := fullSize(t)
	for name, c := range map[string]struct {
		change func(*spec.Volume, *crashtest.Image, *volumetest.Board)
		code   fault.Code
		says   string
	}{
		"too much is in use": {func(s *spec.Volume, _ *crashtest.Image, _ *volumetest.Board) { s.Gap = 3 * mib }, fault.ShrinkRefused, "bytes in use"},
		"a workspace in memory": {func(_ *spec.Volume, _ *crashtest.Image, b *volumetest.Board) {
			b.NoRoom = func(string, int64) error { return fault.Newf(fault.ShrinkRefused, "is in memory") }
		}, fault.ShrinkRefused, "is in memory"},
		"errors that the superblock does not know of": {func(_ *spec.Volume, im *crashtest.Image, _ *volumetest.Board) {
			write(im, []byte("LOST"), int64(bytes.Index(im.Bytes(), []byte("lost+found"))))
		}, fault.FilesystemUnclean, "e2fsck"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, disk := rotationSpec(rotationGap), crashtest.NewImage(full.Size())
			write(disk, full.Bytes(), 0)
			b := newBoard(disk)
			c.change(&s, disk, b)
			before := snapshot(t, b, disk)
			_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
			if !fault.Is(err, c.code) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (code %s)", err, fault.CodeOf(err))
			}
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
				t.Errorf("changed: %q", names)
			}
		})
	}
}
