// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

var errKilled = errors.New("the process is dead")

// kill ends the process before its n-th change: neither that change nor any later cleanup
// is made. What is in the kernel stays. dead reports whether run got that far.
func kill(b *volumetest.Board, n int, run func()) (dead bool) {
	steps := 0
	b.Step = func(string) error {
		if steps++; steps >= n {
			dead = true
			return errKilled
		}
		return nil
	}
	run()
	b.Step = nil
	return dead
}

// onlyTheVolume fails if anything else is left in the kernel.
func onlyTheVolume(t *testing.T, b *volumetest.Board, what string, n int) {
	t.Helper()
	infos, err := b.DM.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) > 1 || len(infos) == 1 && (infos[0].Name != "data" || infos[0].Suspended) {
		t.Fatalf("%s killed at change %d, then finished: left in the kernel:\n%s", what, n, b.DM.State())
	}
	if b.Ring.Left() != 0 {
		t.Fatalf("%s killed at change %d: a key is in a keyring", what, n)
	}
}

// start is what a board is repeatedly started from.
type start struct {
	chip        *caamtest.Chip
	disk, files *crashtest.Image
}

func (c crashCase) start() start {
	st := start{caamtest.RandomChip(), crashtest.NewFilledImage(lifeDisk, c.fill), crashtest.NewImage(volumetest.FilesSize)}
	if c.content != nil {
		c.content(st.disk)
	}
	return st
}

func (st start) board() *volumetest.Board {
	return boardOver(st.chip, st.disk.Overlay(), st.files.Overlay())
}

// provisioned returns a start with the volume on it, ready and locked.
func (st start) provisioned(t *testing.T, s spec.Volume, wipe bool) start {
	t.Helper()
	disk, files := st.disk.Overlay(), st.files.Overlay()
	b := boardOver(st.chip, disk, files)
	r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{Wipe: wipe, NoMount: true})
	must(t, r, err)
	return start{st.chip, disk, files}
}

// If a command is killed between any two changes, the same command, run again on the same
// running system, finishes.
func TestKilledAnywhereTheNextRunFinishes(t *testing.T) {
	t.Parallel()
	total := 0
	for name, c := range sampled(t, t.Name(), crashCases(), 2) {
		if c.fill != 0 {
			continue // the same changes
		}
		s := newSpec()
		if c.spec != nil {
			c.spec(&s)
		}
		empty := c.start()
		total += killEverywhere(t, name+": provision", s, empty, nil, func(m *volume.Manager) error {
			_, err := m.Provision(context.Background(), s, volume.ProvisionOptions{Wipe: c.wipe})
			return err
		})
		if c.wipe {
			continue
		}
		ready := empty.provisioned(t, s, false)
		unlock := func(m *volume.Manager) error {
			_, err := m.Unlock(context.Background(), s, volume.UnlockOptions{Mount: s.Mount.Path != ""})
			return err
		}
		total += killEverywhere(t, name+": unlock", s, ready, nil, unlock)
		total += killEverywhere(t, name+": lock", s, ready, unlock, func(m *volume.Manager) error {
			_, err := m.Lock(context.Background(), s, volume.LockOptions{})
			return err
		})
	}
	t.Logf("%d kills, all finished by the next run", total)
}

// stride leaves some of the many similar changes of a wipe to the soak.
func stride(what string) int {
	switch {
	case soak:
		return 1
	case crashtest.RaceDetector:
		return 31 // a race shows in a few of them
	case slow():
		return 9
	case strings.HasPrefix(what, "wipe"):
		return 5
	}
	return 1
}

// killEverywhere kills run before its first change, its second, and so on, and runs it
// again each time. before, unless nil, prepares the board.
func killEverywhere(t *testing.T, what string, s spec.Volume, from start, before, run func(*volume.Manager) error) (kills int) {
	t.Helper()
	for n := 1; ; n += stride(what) {
		b := from.board()
		if before != nil {
			if err := before(b.Manager()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		var err error
		if !kill(b, n, func() { err = run(b.Manager()) }) {
			return kills // it has no n-th change
		}
		kills++
		if err == nil {
			t.Fatalf("%s did not notice that it is dead at change %d", what, n)
		}
		st := b.Manager().Status(context.Background(), s)
		if announced, err := b.System().Mapper.Announced(s.Mapping); st.Up() && (err != nil || !announced) {
			t.Fatalf("%s killed at change %d: status says %s of an unannounced mapping (%v)", what, n, st.State, err)
		}
		ready := st.Phase == header.PhaseReady
		made := len(b.Made())
		if err := run(b.Manager()); err != nil {
			t.Fatalf("%s killed at change %d: the next run: %v (code %s)\n%s", what, n, err, fault.CodeOf(err), b.DM.State())
		}
		if ready && len(b.Made()) > made {
			t.Fatalf("%s killed at change %d: a volume that was ready was formatted", what, n)
		}
		onlyTheVolume(t, b, what, n)
		if locked := strings.HasSuffix(what, ": lock"); locked != (b.DM.State() == "") {
			t.Fatalf("%s killed at change %d: not finished:\n%s", what, n, b.DM.State())
		}
	}
}

// A run that is asked to stop between any two changes says that it was interrupted, or
// completes; the next run finishes.
func TestStoppedAnywhereTheNextRunFinishes(t *testing.T) {
	t.Parallel()
	total := 0
	for name, c := range sampled(t, t.Name(), crashCases(), 2) {
		if c.fill != 0 || c.content != nil && !strings.Contains(name, "noise") {
			continue
		}
		s := newSpec()
		if c.spec != nil {
			c.spec(&s)
		}
		empty := c.start()
		for n := 1; ; n += stride(name) {
			b := empty.board()
			ctx, cancel := context.WithCancel(context.Background())
			steps := 0
			b.Step = func(string) error {
				if steps++; steps == n {
					cancel()
				}
				return nil
			}
			_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: c.wipe})
			cancel()
			if steps < n {
				break
			}
			total++
			if err != nil && fault.CodeOf(err) != fault.Interrupted {
				t.Fatalf("%s: stopped at change %d: %v (code %s)", name, n, err, fault.CodeOf(err))
			}
			if err != nil {
				if state := b.DM.State(); slices.ContainsFunc([]string{":check", ":mkfs", ":trial", ":error"}, func(private string) bool { return strings.Contains(state, private) }) {
					t.Fatalf("%s: stopped at change %d: private mappings left:\n%s", name, n, state)
				}
			}
			b.Step = nil
			if _, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{Wipe: c.wipe}); err != nil {
				t.Fatalf("%s: stopped at change %d: the next run: %v", name, n, err)
			}
			onlyTheVolume(t, b, name, n)
		}
	}
	t.Logf("%d stops, all finished by the next run", total)
}

// If mkfs outlives the run that started it, the next run waits for it instead of
// formatting at the same time.
func TestAnOrphanedMkfsIsNotDisturbed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	b.Mkfs = func(string, string) error { return errKilled }
	b.Step = func(what string) error {
		if what == "remove data:mkfs" {
			return errKilled
		}
		return nil
	}
	if _, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{}); err == nil {
		t.Fatal("no error")
	}
	info, err := b.DM.Info("data:mkfs")
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := b.DM.Open("/dev/dm-"+strings.TrimPrefix(info.Number.String(), "253:"), true)
	if err != nil {
		t.Fatal(err)
	}
	b.Step, b.Mkfs = nil, nil
	_, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.Busy)
	if len(b.Made()) != 0 {
		t.Fatal("formatted")
	}
	if err := orphan.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
}
