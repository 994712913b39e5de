// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// A filesystem that takes all of its device, as on most boards in the field, is made
// smaller by the start that encrypts it, whether it was unmounted in order or not.
func TestAFullFilesystemIsEncryptedUnattended(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, unclean := range map[string]bool{"unmounted cleanly": false, "after a power cut": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, disk := unattended(rotationSpec(rotationGap)), fullSize(t)
			plain := disk.Bytes()
			b := newBoard(disk)
			if unclean {
				needsRecovery(disk)
				b.Fsck = func(string, string) (bool, error) {
					write(disk, plain[:mib], 0)
					return false, nil
				}
			}
			before := snapshot(t, b, disk)
			dry, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true, DryRun: true})
			must(t, dry, err)
			if said := fmt.Sprint(dry.Steps); unclean != strings.Contains(said, "not unmounted cleanly") || !strings.Contains(said, "make it smaller") {
				t.Errorf("a dry run says %+v", dry.Steps)
			}
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
				t.Fatalf("a dry run changed %q", names)
			}
			if r := opened(t, b, s); !r.Rotating || r.Mounted != "/data" || len(r.Warnings) > 0 {
				t.Fatalf("%+v", r)
			}
			sound(t, content(t, b))
			nothingLeft(t, name, b, s)
			whole := crashtest.NewImage(disk.Size())
			write(whole, plain, 0)
			refusedPlain(t, b, s, whole)
			rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			must(t, rr.Result, err)
			b = powerCycle(b)
			opened(t, b, s)
			sound(t, content(t, b))
		})
	}
}

// The room that a start needs for that is checked before the checker may write.
func TestNoRoomUnattended(t *testing.T) {
	t.Parallel()
	s, disk := unattended(rotationSpec(rotationGap)), fullSize(t)
	needsRecovery(disk)
	b := newBoard(disk)
	b.Fsck = func(string, string) (bool, error) { panic("checked before all else was looked at") }
	b.NoRoom = func(string, int64) error { return fault.Newf(fault.ShrinkRefused, "is full") }
	before := snapshot(t, b, disk)
	_, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.ShrinkRefused)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
}

// Wherever power is cut in such a start, and once more in the next one, which ends what
// was begun, the device is the filesystem as it was, or says that it is being made
// smaller, or opens. The next start mounts the volume with all its files.
func TestEveryPowerCutOfMakingRoomUnattended(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	plainly, disk := rotationSpec(rotationGap), fullSize(t)
	s := unattended(plainly)
	chip := caamtest.RandomChip()
	run := record(chip, disk, crashtest.NewImage(volumetest.FilesSize))
	opened(t, run.board, s)
	want := content(t, run.board)
	sound(t, want)
	starts := func(what string, r *recording) {
		t.Helper()
		r.board.Chip.PowerCycle()
		if _, err := r.board.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true}); err != nil {
			t.Fatalf("%s: does not start: %v", what, err)
		}
		// One that was made smaller a second time has different times in it.
		if got := content(t, r.board); !bytes.Equal(got, want) {
			sound(t, got)
		}
		nothingLeft(t, what, r.board, s)
	}
	states := map[fault.Code]int{}
	first, second := 0, 0
	for state := range run.rec.States(sparse(few(crashtest.Options{Exhaustive: 2, Limit: 2, Random: 2, Seed: 4}), 2)) {
		first++
		next := record(chip, state.Image(run.disk), state.Image(run.files))
		code := fault.CodeOf(next.board.Manager().Status(ctx, plainly).Err)
		states[code]++
		starts(state.String(), next)
		if code != fault.ShrinkStarted || states[code]%10 != 1 {
			continue
		}
		for cut := range next.rec.States(sparse(crashtest.Options{Exhaustive: 1, Limit: 1, Random: -1, Seed: uint64(first)}, 5)) {
			second++
			starts(state.String()+"; then "+cut.String(), record(chip, cut.Image(next.disk), cut.Image(next.files)))
		}
	}
	for _, code := range []fault.Code{fault.PlaintextFound, fault.ShrinkStarted, ""} {
		if states[code] == 0 {
			t.Errorf("no state of code %q among %v: nothing was shown", code, states)
		}
	}
	for code := range states {
		switch code {
		case fault.PlaintextFound, fault.ShrinkStarted, fault.EncryptionStarted, "":
		default:
			t.Errorf("after a power cut: %s", code)
		}
	}
	t.Logf("%d states tried (%v), and %d after a second cut, 0 lost", first, states, second)
}

// If a checker was cut off after the log was written, it runs before anything is
// encrypted.
func TestWhatWasMadeSmallerIsCheckedFirst(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip, disk, files := halfShrunk(t, s)
	b := boardOver(chip, disk, files)
	log := shrinkLog(b)
	kept, err := b.Files.Read(log, atomicfile.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rr, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	if err := b.Files.Create(log, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	write(disk, []byte("LOST"), int64(bytes.Index(disk.Bytes(), []byte("lost+found"))))
	before := snapshot(t, b, disk)
	_, err = b.Manager().Unlock(ctx, unattended(s), volume.UnlockOptions{Mount: true})
	refused(t, err, fault.FilesystemUnclean)
	_, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	if !fault.Is(err, fault.FilesystemUnclean) {
		t.Errorf("encrypt: %v", err)
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Errorf("changed: %q", names)
	}
}

// The device does not say which file has the log of an unattended run: it is the one in
// state_dir.
func TestTheDeviceNamesNoFileUnattended(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	s.StateDir = "/mnt/of/somebody"
	chip, disk, files := halfShrunk(t, s)
	s.StateDir = "/var/lib/imxcrypt"
	b := boardOver(chip, disk, files)
	before := snapshot(t, b, disk)
	_, err := b.Manager().Unlock(context.Background(), unattended(s), volume.UnlockOptions{Mount: true})
	refused(t, err, fault.ShrinkStarted)
	if !strings.Contains(err.Error(), s.StateDir) {
		t.Errorf("%v", err)
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Errorf("changed: %q", names)
	}
}
