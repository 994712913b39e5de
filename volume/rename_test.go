// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// renamedSpec returns a volume's configuration with another name.
func renamedSpec(s spec.Volume, name string) spec.Volume {
	s.Name, s.Mapping = name, name
	return s
}

// has enforces that a volume opens under its name, and not under other, with its data.
func (r rotationRun) has(t *testing.T, b *volumetest.Board, s spec.Volume, other, what string) {
	t.Helper()
	ctx := context.Background()
	if _, err := b.Manager().Unlock(ctx, renamedSpec(s, other), volume.UnlockOptions{}); !fault.Is(err, fault.HeaderMismatch) {
		t.Fatalf("%s: under the other name %s: %v", what, other, err)
	}
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	if err != nil || u.Mounted != "/data" {
		t.Fatalf("%s: does not open: %v", what, err)
	}
	same(t, what, contentOf(t, b, s.Mapping), r.want)
}

// A volume gets another name, and everything else stays as it was, also through verify, a
// rotation and renaming back.
func TestRename(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			b := boardOver(run.chip, run.disk, run.files)
			m, to := b.Manager(), renamedSpec(c.spec, "records")
			before := snapshot(t, b, run.disk)
			dry, err := m.Rename(ctx, to, "data", volume.RenameOptions{DryRun: true})
			if must(t, dry, err); len(dry.Steps) != 1 || dry.Already {
				t.Fatalf("%+v", dry)
			}
			if names := differs(before, snapshot(t, b, run.disk)); len(names) > 0 {
				t.Fatalf("the dry run changed %q", names)
			}
			record, err := b.Files.Read("/var/lib/imxcrypt/volumes/data.json", atomicfile.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			r, err := m.Rename(ctx, to, "data", volume.RenameOptions{})
			if must(t, r, err); r.Already || r.Volume != "records" || len(r.Warnings) != 1 {
				t.Fatalf("%+v", r)
			}
			if moved, err := b.Files.Read("/var/lib/imxcrypt/volumes/records.json", atomicfile.ReadOptions{}); err != nil || string(moved) != string(record) {
				t.Fatalf("the record is %q, %v", moved, err)
			}
			if _, err := b.Files.Read("/var/lib/imxcrypt/volumes/data.json", atomicfile.ReadOptions{}); err == nil {
				t.Fatal("the record of the old name is there")
			}
			before = snapshot(t, b, run.disk)
			again, err := m.Rename(ctx, to, "data", volume.RenameOptions{})
			if must(t, again, err); !again.Already || len(again.Warnings) != 0 {
				t.Fatalf("%+v", again)
			}
			if names := differs(before, snapshot(t, b, run.disk)); len(names) > 0 {
				t.Fatalf("again: changed %q", names)
			}
			b = powerCycle(b)
			run.has(t, b, to, "data", "renamed")
			v, err := b.Manager().Verify(ctx, to)
			must(t, v, err)
			l, err := b.Manager().Lock(ctx, to, volume.LockOptions{})
			must(t, l, err)
			v, err = b.Manager().Verify(ctx, to)
			must(t, v, err)
			for range 2 {
				rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{})
				must(t, rr.Result, err)
			}
			b = powerCycle(b)
			run.has(t, b, to, "data", "rotated")
			l, err = b.Manager().Lock(ctx, to, volume.LockOptions{})
			must(t, l, err)
			r, err = b.Manager().Rename(ctx, c.spec, "records", volume.RenameOptions{})
			must(t, r, err)
			run.has(t, b, c.spec, "records", "back again")
		})
	}
}

func TestRefusedRenames(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			b := boardOver(run.chip, run.disk, run.files)
			to := renamedSpec(c.spec, "records")
			try := func(what string, s spec.Volume, old string, code fault.Code) {
				t.Helper()
				before := snapshot(t, b, run.disk)
				for _, dry := range []bool{true, false} {
					_, err := b.Manager().Rename(ctx, s, old, volume.RenameOptions{DryRun: dry})
					refused(t, err, code)
				}
				if names := differs(before, snapshot(t, b, run.disk)); len(names) > 0 {
					t.Fatalf("%s: changed %q", what, names)
				}
			}
			try("not its name", to, "another", fault.HeaderMismatch)
			pinned := to
			pinned.UUID = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
			try("another volume of the name", pinned, "data", fault.HeaderMismatch)
			u, err := b.Manager().Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			try("in use", to, "data", fault.DeviceInUse)
			l, err := b.Manager().Lock(ctx, c.spec, volume.LockOptions{})
			must(t, l, err)
			before := snapshot(t, b, run.disk)
			other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			if _, err := other.Manager().Rename(ctx, to, "data", volume.RenameOptions{}); err == nil {
				t.Fatal("renamed by another chip")
			}
			if names := differs(before, snapshot(t, b, run.disk)); len(names) > 0 {
				t.Fatalf("another chip changed %q", names)
			}
			rr, err := b.Manager().Rotate(ctx, c.spec, volume.RotateOptions{InitOnly: true})
			must(t, rr.Result, err)
			try("during a rotation", to, "data", fault.RotationUnderWay)
		})
	}
}

// Wherever power is cut while a volume is renamed, and once more while that is finished,
// it opens under exactly one of the names with all its data, and the same command gives
// it the new one.
func TestEveryPowerCutOfARename(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			to := renamedSpec(c.spec, "records")
			rec := record(run.chip, run.disk, run.files.Overlay())
			rename := func(b *volumetest.Board, what string) {
				t.Helper()
				if _, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{}); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			rename(rec.board, "without a cut")
			// opens opens the volume after a cut, under the name that it has.
			opens := func(disk, files *crashtest.Image, what string) {
				t.Helper()
				b := boardOver(run.chip, disk, files)
				b.Chip.PowerCycle()
				if _, err := b.Manager().Verify(ctx, to); fault.Is(err, fault.HeaderMismatch) {
					run.has(t, b, c.spec, "records", what)
				} else {
					run.has(t, b, to, "data", what)
				}
			}
			first, second := 0, 0
			for state := range rec.rec.States(crashLimits()) {
				first++
				opens(state.Image(rec.disk), state.Image(rec.files), state.String())
				next := record(run.chip, state.Image(rec.disk), state.Image(rec.files))
				next.board.Chip.PowerCycle()
				rename(next.board, state.String())
				last := boardOver(run.chip, next.disk.Live(), next.files.Live())
				last.Chip.PowerCycle()
				run.has(t, last, to, "data", state.String()+", then finished")
				if first%11 != 0 {
					continue
				}
				for cut := range next.rec.States(sparse(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}, 3)) {
					second++
					what := state.String() + "; then " + cut.String()
					opens(cut.Image(next.disk), cut.Image(next.files), what)
					third := boardOver(run.chip, cut.Image(next.disk), cut.Image(next.files))
					third.Chip.PowerCycle()
					rename(third, what)
					run.has(t, third, to, "data", what+", then finished")
				}
			}
			t.Logf("rename: %d states tried, and %d after a second cut, 0 lost", first, second)
		})
	}
}

// Killed before any step, the volume has one of the names, and nothing is left in the
// kernel that keeps the same command from finishing; afterwards nothing is left at all.
// What a run under the old name left behind does not stand in the way.
func TestRenameAfterAKilledRun(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	run := prepared(t, s, 0)
	to, killed := renamedSpec(s, "records"), 0
	for at := 1; ; at++ {
		b := boardOver(run.chip, run.disk.Overlay(), run.files.Overlay())
		if !kill(b, at, func() { _, _ = b.Manager().Verify(ctx, s) }) {
			break
		}
		killed++
		r, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{})
		if err != nil {
			t.Fatalf("verify killed at step %d, then: %v\n%s", at, err, b.DM.State())
		}
		must(t, r, err)
		nothingPrivate(t, b, 0)
	}
	if killed == 0 {
		t.Error("nothing was shown")
	}
}

func TestRenameKilled(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			to := renamedSpec(c.spec, "records")
			killed, dead := 0, 0
			for at := 1; ; at++ {
				b := boardOver(run.chip, run.disk.Overlay(), run.files.Overlay())
				if !kill(b, at, func() { _, _ = b.Manager().Rename(ctx, to, "data", volume.RenameOptions{}) }) {
					break
				}
				killed++
				r, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{})
				if err != nil {
					t.Fatalf("killed at step %d, then: %v\n%s", at, err, b.DM.State())
				}
				must(t, r, err)
				nothingPrivate(t, b, 0)
				run.has(t, b, to, "data", fmt.Sprintf("killed at step %d", at))

				// Now a suspend takes the key: what it would prove is not believed.
				b = boardOver(run.chip, run.disk.Overlay(), run.files.Overlay())
				n := 0
				b.Step = func(string) error {
					if n++; n == at {
						b.Chip.PowerCycle()
					}
					return nil
				}
				if _, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{}); err != nil {
					dead++
				}
				b.Step = nil
				b = powerCycle(b)
				if _, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{}); err != nil {
					t.Fatalf("suspended at step %d, then: %v", at, err)
				}
				run.has(t, b, to, "data", fmt.Sprintf("suspended at step %d", at))
			}
			if killed == 0 || dead == 0 {
				t.Fatalf("killed %d times, %d dead keys noticed", killed, dead)
			}
			t.Logf("killed %d times, %d dead keys noticed", killed, dead)
		})
	}
}

// What was kept of a header under the old name opens the volume on this chip, so erase
// destroys it under the new one. The lost header of a renamed volume comes back from its
// backup without force: the backup's own check binds the key to the name.
func TestARenamedVolumesCopiesOfItsHeader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			m, to := b.Manager(), renamedSpec(s, "records")
			old, err := m.BackupHeader(ctx, s, "/old")
			must(t, old, err)
			if s.Detached() {
				damageFile(t, b, s.Header, 100)
			} else {
				scribble(t, disk, 100)
			}
			r, err := m.RestoreHeader(ctx, s, "/old", volume.RestoreOptions{Confirm: func(string) error { return nil }})
			if must(t, r, err); r.Kept == "" || !strings.HasPrefix(filepath.Base(r.Kept), "data-") {
				t.Fatalf("kept in %q", r.Kept)
			}
			kept := r.Kept
			r, err = m.Rename(ctx, to, "data", volume.RenameOptions{})
			must(t, r, err)
			_, err = m.RestoreHeader(ctx, to, "/old", volume.RestoreOptions{})
			refused(t, err, fault.HeaderMismatch)
			r, err = m.BackupHeader(ctx, to, "/new")
			must(t, r, err)
			destroyHeader(t, b, s, disk)
			r, err = m.RestoreHeader(ctx, to, "/new", volume.RestoreOptions{})
			must(t, r, err)
			r, err = m.Unlock(ctx, to, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			e, err := m.Erase(ctx, to, volume.EraseOptions{})
			must(t, e.Result, err)
			if _, err := b.Files.Read(kept, atomicfile.ReadOptions{}); err == nil {
				t.Fatalf("%s is left", kept)
			}
		})
	}
}

// A kernel without loop devices cannot map a part of the backup. The header of a renamed
// volume still comes back: by the check that is left on the device, otherwise with force.
func TestARestoreOfARenamedVolumeWithoutLoopDevices(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	disk := crashtest.NewImage(16 * mib)
	b, to := provisioned(t, s, disk), renamedSpec(s, "records")
	r, err := b.Manager().Rename(ctx, to, "data", volume.RenameOptions{})
	must(t, r, err)
	r, err = b.Manager().BackupHeader(ctx, to, "/new")
	must(t, r, err)
	sys := b.System()
	sys.Attach = nil
	m := volume.New(sys)
	opens := func() {
		t.Helper()
		u, err := m.Unlock(ctx, to, volume.UnlockOptions{})
		must(t, u, err)
		l, err := m.Lock(ctx, to, volume.LockOptions{})
		must(t, l, err)
	}

	turn(t, disk, firstText+100)
	turn(t, disk, secondText+200)
	r, err = m.RestoreHeader(ctx, to, "/new", volume.RestoreOptions{Confirm: confirmed})
	must(t, r, err)
	opens()

	destroyHeader(t, b, to, disk)
	before := snapshot(t, b, disk)
	_, err = m.RestoreHeader(ctx, to, "/new", volume.RestoreOptions{Confirm: confirmed})
	if refused(t, err, fault.DeviceUnsuitable); !strings.Contains(err.Error(), "--force") {
		t.Errorf("no way out is named: %v", err)
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("refused, and changed: %q", names)
	}
	r, err = m.RestoreHeader(ctx, to, "/new", volume.RestoreOptions{Confirm: confirmed, Force: true})
	if must(t, r, err); !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "was not looked at") }) {
		t.Errorf("not said: %q", r.Warnings)
	}
	opens()
}
