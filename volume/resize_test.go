// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// resizeBy is how much the partition grows.
const resizeBy = 512 << 10

// onLarger copies a disk's content to a larger one, with noise behind it.
func onLarger(t *testing.T, disk *crashtest.Image) *crashtest.Image {
	t.Helper()
	large := crashtest.NewImage(disk.Size() + resizeBy)
	noise := make([]byte, resizeBy)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(noise) // never fails
	_, err := large.WriteAt(disk.Bytes(), 0)
	_, err2 := large.WriteAt(noise, disk.Size())
	if err := errors.Join(err, err2, large.Flush()); err != nil {
		t.Fatal(err)
	}
	return large
}

// resizeCases are volumes with their data in every possible place: behind the gap, in
// front of it after a rotation, without one, and under a detached header.
func resizeCases() map[string]struct {
	spec   spec.Volume
	before int
} {
	return map[string]struct {
		spec   spec.Volume
		before int
	}{
		"gap in front": {rotationSpec(rotationGap), 0}, "gap behind": {rotationSpec(rotationGap), 1},
		"no gap": {rotationSpec(0), 0}, "detached": {rotationCases()["detached"], 0},
	}
}

// A volume takes the space of its device, locked, unlocked or mounted, and keeps its
// data. Afterwards it rotates as before.
func TestResize(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		for _, mounted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, mounted %v", name, mounted), func(t *testing.T) {
				t.Parallel()
				run := prepared(t, c.spec, c.before)
				disk := onLarger(t, run.disk)
				b := boardOver(run.chip, disk, run.files)
				m := b.Manager()
				if mounted {
					u, err := m.Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true})
					must(t, u, err)
				}
				before := disk.Bytes()
				dry, err := m.Resize(ctx, c.spec, volume.ResizeOptions{DryRun: true})
				must(t, dry.Result, err)
				same(t, "dry run", disk.Bytes(), before)
				part, err := m.Resize(ctx, c.spec, volume.ResizeOptions{Size: rotationData + resizeBy/2})
				if must(t, part.Result, err); part.From != rotationData || part.To != rotationData+resizeBy/2 || part.Already {
					t.Fatalf("%+v", part)
				}
				r, err := m.Resize(ctx, c.spec, volume.ResizeOptions{})
				if must(t, r.Result, err); r.To != rotationData+resizeBy || r.To != dry.To || r.Pending == mounted {
					t.Fatalf("%+v", r)
				}
				if mounted && b.Grown["/data"] != r.To {
					t.Fatalf("the filesystem was made to grow to %d", b.Grown["/data"])
				}
				before = disk.Bytes()
				again, err := m.Resize(ctx, c.spec, volume.ResizeOptions{})
				if must(t, again.Result, err); !again.Already || again.Pending {
					t.Fatalf("%+v", again)
				}
				same(t, "again", disk.Bytes(), before)
				if !mounted {
					u, err := m.Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true})
					must(t, u, err)
				}
				if all := content(t, b); int64(len(all)) != r.To {
					t.Fatalf("mapping of %d bytes", len(all))
				} else {
					same(t, "grown", all[:len(run.want)], run.want)
				}
				for range 2 {
					rr, err := m.Rotate(ctx, c.spec, volume.RotateOptions{})
					must(t, rr.Result, err)
				}
				b = powerCycle(b)
				u, err := b.Manager().Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true})
				must(t, u, err)
				same(t, "rotated", content(t, b)[:len(run.want)], run.want)
				v, err := b.Manager().Verify(ctx, c.spec)
				must(t, v, err)
			})
		}
	}
}

func TestRefusedResizes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	run := prepared(t, s, 0)
	disk := onLarger(t, run.disk)
	b := boardOver(run.chip, disk, run.files)
	vfat, f2fs := s, s
	vfat.Filesystem.Type, f2fs.Filesystem.Type = "vfat", "f2fs"
	before := disk.Bytes()
	for name, c := range map[string]struct {
		spec spec.Volume
		size int64
		code fault.Code
	}{
		"smaller":              {s, rotationData - mib, fault.ResizeRefused},
		"larger than there is": {s, rotationData + resizeBy + mib, fault.ResizeRefused},
		"vfat":                 {vfat, 0, fault.ResizeRefused},
		"f2fs":                 {f2fs, 0, fault.ResizeRefused},
	} {
		for _, dry := range []bool{false, true} {
			_, err := b.Manager().Resize(ctx, c.spec, volume.ResizeOptions{Size: c.size, DryRun: dry})
			if refused(t, err, c.code); !strings.Contains(err.Error(), "resize data") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	same(t, "refused", disk.Bytes(), before)
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	before = disk.Bytes()
	_, err = b.Manager().Resize(ctx, s, volume.ResizeOptions{})
	refused(t, err, fault.RotationUnderWay)
	same(t, "during a rotation", disk.Bytes(), before)
}

// With `grow: true` opening a volume takes the space. If there is none, nothing but the
// device's size is looked at. What fails is a warning.
func TestGrowingWhenOpened(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			s, base := c.spec, run.files
			s.Grow, run.files = true, base.Overlay()
			b := boardOver(run.chip, onLarger(t, run.disk), run.files)
			r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			all := content(t, b)
			same(t, "grown", all[:len(run.want)], run.want)
			if want := int64(rotationData + resizeBy); int64(len(all)) != want || b.Grown["/data"] != want || len(r.Warnings) != 0 {
				t.Fatalf("%d bytes, filesystem %d, %q", len(all), b.Grown["/data"], r.Warnings)
			}
			b = powerCycle(b)
			opened := 0
			b.Step = func(what string) error {
				if strings.Contains(what, ":check") {
					opened++
				}
				return nil
			}
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			if must(t, r, err); opened > 0 && !s.Detached() {
				t.Fatalf("the key was proved %d times for nothing", opened)
			}
			b = boardOver(run.chip, onLarger(t, run.disk), run.files)
			b.Step = func(what string) error {
				if strings.HasPrefix(what, "grow ") {
					return errStep
				}
				return nil
			}
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			if must(t, r, err); len(r.Warnings) != 1 || r.Mounted != "/data" {
				t.Fatalf("%+v", r)
			}
			// The device grows while the volume is mounted, and only the filesystem does
			// not.
			small := crashtest.NewImage(run.disk.Size())
			write(small, run.disk.Bytes(), 0)
			b = boardOver(run.chip, small, base.Overlay())
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			b.Disks[0].Store = onLarger(t, run.disk)
			b.Step = func(what string) error {
				if strings.HasPrefix(what, "grow ") {
					return errStep
				}
				return nil
			}
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			if must(t, r, err); len(r.Warnings) == 0 || r.Mounted != "/data" {
				t.Fatalf("%+v", r)
			}
		})
	}
}

// Wherever power is cut while a volume grows, and once more while that is finished, it
// opens with all its data, and grows.
func TestEveryPowerCutOfAResize(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		for _, mounted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, mounted %v", name, mounted), func(t *testing.T) {
				t.Parallel()
				run := prepared(t, c.spec, c.before)
				rec := record(run.chip, onLarger(t, run.disk), run.files.Overlay())
				resize := func(b *volumetest.Board, what string) {
					t.Helper()
					if mounted {
						if _, err := b.Manager().Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true}); err != nil {
							t.Fatalf("%s: does not open: %v", what, err)
						}
						same(t, what, content(t, b)[:len(run.want)], run.want)
					}
					r, err := b.Manager().Resize(ctx, c.spec, volume.ResizeOptions{})
					if err != nil || r.To != rotationData+resizeBy {
						t.Fatalf("%s: %+v, %v", what, r, err)
					}
				}
				resize(rec.board, "without a cut")
				first, second := 0, 0
				for state := range rec.rec.States(crashLimits()) {
					first++
					next := record(run.chip, state.Image(rec.disk), state.Image(rec.files))
					next.board.Chip.PowerCycle()
					resize(next.board, state.String())
					run.opens(t, next, state.String())
					if first%7 != 0 {
						continue
					}
					for cut := range next.rec.States(sparse(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}, 3)) {
						second++
						third := record(run.chip, cut.Image(next.disk), cut.Image(next.files))
						third.board.Chip.PowerCycle()
						resize(third.board, state.String()+"; then "+cut.String())
						run.opens(t, third, state.String()+"; then "+cut.String())
					}
				}
				t.Logf("resize: %d states tried, and %d after a second cut, 0 lost", first, second)
			})
		}
	}
}

// opens cuts power, after which the volume has its data and its new size.
func (r rotationRun) opens(t *testing.T, run *recording, what string) {
	t.Helper()
	ctx := context.Background()
	last := boardOver(run.board.Chip, run.disk.Live(), run.files.Live())
	last.Chip.PowerCycle()
	if _, err := last.Manager().Unlock(ctx, r.spec, volume.UnlockOptions{Mount: true}); err != nil {
		t.Fatalf("%s, then finished: does not open: %v", what, err)
	}
	all := content(t, last)
	if int64(len(all)) != rotationData+resizeBy {
		t.Fatalf("%s: %d bytes", what, len(all))
	}
	same(t, what, all[:len(r.want)], r.want)
}

// Killed before any step, a volume in use stays usable, whatever command comes next, and
// the next resize finishes.
func TestResizeKilledInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range resizeCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			killed := 0
			for at := 1; ; at++ {
				b := boardOver(run.chip, onLarger(t, run.disk), run.files.Overlay())
				u, err := b.Manager().Unlock(ctx, c.spec, volume.UnlockOptions{Mount: true})
				must(t, u, err)
				if !kill(b, at, func() { _, _ = b.Manager().Resize(ctx, c.spec, volume.ResizeOptions{}) }) {
					break
				}
				killed++
				what := fmt.Sprintf("killed at step %d", at)
				if _, err := b.Manager().Unlock(ctx, c.spec, volume.UnlockOptions{}); err != nil {
					t.Fatalf("%s: unlock: %v\n%s", what, err, b.DM.State())
				}
				same(t, what, content(t, b)[:len(run.want)], run.want)
				r, err := b.Manager().Resize(ctx, c.spec, volume.ResizeOptions{})
				if err != nil || r.To != rotationData+resizeBy || b.Grown["/data"] != r.To {
					t.Fatalf("%s: %+v, %v\n%s", what, r, err, b.DM.State())
				}
				same(t, what, content(t, b)[:len(run.want)], run.want)
				nothingPrivate(t, b, 1)
			}
			t.Logf("killed %d times", killed)
		})
	}
}

// A suspend takes the key in the middle: what it would prove is not believed, and the
// header stays as it was.
func TestResizeWithAKeyThatDied(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ecb", "ccm"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			s := rotationSpec(rotationGap)
			s.Wrap = wrap
			run := prepared(t, s, 0)
			refusals := 0
			for at := 1; ; at++ {
				disk := onLarger(t, run.disk)
				b := boardOver(run.chip, disk, run.files.Overlay())
				n := 0
				b.Step = func(string) error {
					if n++; n == at {
						b.Chip.PowerCycle()
					}
					return nil
				}
				_, err := b.Manager().Resize(ctx, s, volume.ResizeOptions{})
				b.Step = nil
				if n < at {
					break
				}
				if err != nil {
					refusals++
				}
				b = powerCycle(b)
				u, uerr := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				if uerr != nil {
					t.Fatalf("at step %d: %v, then %v", at, err, uerr)
				}
				must(t, u, uerr)
				same(t, fmt.Sprintf("at step %d", at), content(t, b)[:len(run.want)], run.want)
				v, verr := b.Manager().Verify(ctx, s)
				must(t, v, verr)
			}
			if refusals == 0 {
				t.Fatal("no dead key was noticed")
			}
		})
	}
}

// backedUpAndResized backs up a volume's header to /old, grows the volume and its
// filesystem to the space of the device, and returns the content.
func backedUpAndResized(t *testing.T, b *volumetest.Board, s spec.Volume) []byte {
	t.Helper()
	ctx, m := context.Background(), b.Manager()
	r, err := m.BackupHeader(ctx, s, "/old")
	must(t, r, err)
	z, err := m.Resize(ctx, s, volume.ResizeOptions{})
	must(t, z.Result, err)
	u, err := m.Unlock(ctx, s, volume.UnlockOptions{})
	must(t, u, err)
	ext4Of(t, b, z.To)
	want := content(t, b)
	l, err := m.Lock(ctx, s, volume.LockOptions{})
	must(t, l, err)
	return want
}

// A header from before a resize that was put back knows of less than the filesystem has.
// A rotation would lose the rest, so it is refused until resize was run again.
func TestAHeaderOfBeforeAResizeIsNotRotated(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, before := range []int{0, 1} { // behind the gap, and in front of it
		s := rotationSpec(rotationGap)
		run := prepared(t, s, before)
		b := boardOver(run.chip, onLarger(t, run.disk), run.files)
		want := backedUpAndResized(t, b, s)
		m := b.Manager()
		_, err := m.RestoreHeader(ctx, s, "/old", volume.RestoreOptions{Confirm: confirmed})
		refused(t, err, fault.RollbackRefused)
		r, err := m.RestoreHeader(ctx, s, "/old", volume.RestoreOptions{Confirm: confirmed, Force: true})
		must(t, r, err)
		if !strings.Contains(strings.Join(r.Warnings, " "), "imxcrypt resize data") {
			t.Errorf("not said: %q", r.Warnings)
		}
		for _, dry := range []bool{true, false} {
			_, err = m.Rotate(ctx, s, volume.RotateOptions{DryRun: dry})
			if refused(t, err, fault.HeaderRolledBack); !strings.Contains(err.Error(), "imxcrypt resize data") {
				t.Errorf("%v", err)
			}
		}
		z, err := m.Resize(ctx, s, volume.ResizeOptions{})
		must(t, z.Result, err)
		rr, err := m.Rotate(ctx, s, volume.RotateOptions{})
		must(t, rr.Result, err)
		u, err := m.Unlock(ctx, s, volume.UnlockOptions{})
		must(t, u, err)
		same(t, "resized again and rotated", content(t, b), want)
	}
}

// If the only backup of a lost header is from before a resize, it is restored, since the
// data is under its key. Then resize gives the volume its size again.
func TestALostHeaderComesBackFromABackupOfBeforeAResize(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	run := prepared(t, s, 0)
	disk := onLarger(t, run.disk)
	b := boardOver(run.chip, disk, run.files)
	want := backedUpAndResized(t, b, s)
	m := b.Manager()

	write(disk, make([]byte, 32<<10), 0)
	r, err := m.RestoreHeader(ctx, s, "/old", volume.RestoreOptions{Confirm: confirmed})
	must(t, r, err)
	if !strings.Contains(strings.Join(r.Warnings, " "), "imxcrypt resize data") {
		t.Errorf("not said: %q", r.Warnings)
	}
	z, err := m.Resize(ctx, s, volume.ResizeOptions{})
	must(t, z.Result, err)
	u, err := m.Unlock(ctx, s, volume.UnlockOptions{})
	must(t, u, err)
	same(t, "restored and resized", content(t, b), want)
}

// ext4Of gives the filesystem of an unlocked volume another size, in its superblock.
func ext4Of(t *testing.T, b *volumetest.Board, size int64) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	_, err = f.ReadAt(block, 0)
	super := block[1024:2048]
	binary.LittleEndian.PutUint32(super[0x04:], uint32(size/4096)) // s_blocks_count
	binary.LittleEndian.PutUint32(super[0x3fc:], ^crc32.Checksum(super[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	_, err2 := f.WriteAt(block, 0)
	if err := errors.Join(err, err2, f.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
