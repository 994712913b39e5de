// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// loss is a volume in use whose key is lost in an unannounced suspend.
type loss struct {
	*volumetest.Board
	t    *testing.T
	spec spec.Volume
	// want is what was written back before that.
	want []byte
}

// losses returns volumes of each kind.
func losses() map[string]spec.Volume {
	all := map[string]spec.Volume{}
	for _, wrap := range []string{"ccm", "ecb"} {
		s := rotationSpec(rotationGap)
		s.Wrap = wrap
		all[wrap] = s
		s.Filesystem.Type, s.Mount.Path = spec.FilesystemNone, ""
		all[wrap+" without a filesystem"] = s
		s = rotationSpec(rotationGap)
		s.Wrap = wrap
		detached(&s)
		all[wrap+" detached"] = s
		s = rotationSpec(rotationGap)
		s.Wrap, s.SectorSize = wrap, 512
		all[wrap+" sectors of 512"] = s
	}
	return all
}

// lose makes a loss. With dirty, the filesystem's superblock is changed in memory and not
// written back, as that of a mounted filesystem is most of the time.
func lose(t *testing.T, s spec.Volume, rotating, dirty bool) *loss {
	t.Helper()
	b, want := filled(t, s, rotationDisk(s))
	if rotating {
		rotateUntil(t, b, s, 2)
	}
	// Open it with unlock, which records how often the system had slept.
	r, err := b.Manager().Lock(context.Background(), s, volume.LockOptions{})
	must(t, r, err)
	b = powerCycle(b)
	r, err = b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: s.Mount.Path != ""})
	must(t, r, err)
	if dirty {
		if err := b.Dirty(s.Mapping, 0, want[:4096]); err != nil {
			t.Fatal(err)
		}
	}
	b.Sleep(time.Second)
	return &loss{b, t, s, want}
}

// each runs a test for each kind of loss.
func each(t *testing.T, test func(*loss)) {
	t.Helper()
	all := map[string]func(*testing.T){}
	for name, s := range losses() {
		for _, rotating := range []bool{false, true} {
			for _, dirty := range []bool{false, true} {
				all[fmt.Sprintf("%s, rotating %v, dirty %v", name, rotating, dirty)] = func(t *testing.T) {
					t.Parallel()
					test(lose(t, s, rotating, dirty))
				}
			}
		}
	}
	for name, one := range sampled(t, t.Name(), all, 3) {
		t.Run(name, one)
	}
}

// disk returns every byte that a power cut would leave.
func (l *loss) disk() []byte { return bytes.Clone(l.Disks[0].Store.(*crashtest.Image).Bytes()) }

// back checks that what was written back before the loss is there, in this power cycle
// and the next.
func (l *loss) back(what string) {
	l.t.Helper()
	ctx := context.Background()
	r, err := l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{Mount: l.spec.Mount.Path != ""})
	must(l.t, r, err)
	same(l.t, what, content(l.t, l.Board), l.want)
	if st := l.Manager().Status(ctx, l.spec); st.Err != nil || !st.Up() {
		l.t.Fatalf("%s: status: %s, %v", what, st.State, st.Err)
	}
	l.Sync()
	n := powerCycle(l.Board)
	r, err = n.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{Mount: l.spec.Mount.Path != ""})
	must(l.t, r, err)
	same(l.t, what+", after a power cycle", content(l.t, n), l.want)
}

// Commands that only look report the loss and change nothing, not even by the look,
// before which the kernel would write back what is dirty.
func TestALostKeyIsReported(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		before := l.disk()
		for range 2 {
			st := l.Manager().Status(ctx, l.spec)
			refused(l.t, st.Err, fault.KeysLost)
			if seen := st.State == volume.Keyless; seen && st.Up() {
				l.t.Fatalf("%s is up", st.State)
			}
			_, err := l.Manager().Verify(ctx, l.spec)
			refused(l.t, err, fault.KeysLost)
			_, err = l.Manager().Rotate(ctx, l.spec, volume.RotateOptions{})
			refused(l.t, err, fault.KeysLost)
			r, err := l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{DryRun: true})
			if must(l.t, r, err); r.Already || !did(r, "open the key again") {
				l.t.Fatalf("dry run: %+v", r)
			}
		}
		if !bytes.Equal(l.disk(), before) {
			l.t.Fatal("looking has written")
		}
		l.back("after looking")
	})
}

// A mounted filesystem whose superblock is read past the page cache is distinguished from
// one that is in doubt.
func TestStatusOfALostKey(t *testing.T) {
	t.Parallel()
	for _, dirty := range []bool{false, true} {
		l := lose(t, changed(func(s *spec.Volume) { *s = rotationSpec(rotationGap); s.Wrap = "ecb" }), false, dirty)
		st := l.Manager().Status(context.Background(), l.spec)
		if want := map[bool]volume.State{false: volume.Keyless, true: volume.Mounted}[dirty]; st.State != want || !fault.Is(st.Err, fault.KeysLost) {
			t.Errorf("dirty %v: %s, %v", dirty, st.State, st.Err)
		}
	}
}

// Unlock loads the key again while the volume stays mounted: what was in memory is
// written with the right key.
func TestUnlockGivesALostKeyAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		at := int64(len(l.want) - 8192)
		text := bytes.Repeat([]byte("in memory "), 410)[:4096]
		if err := l.Dirty(l.spec.Mapping, at, text); err != nil {
			l.t.Fatal(err)
		}
		r, err := l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{})
		if must(l.t, r, err); r.Already || !did(r, "lost key given to the mapping again") {
			l.t.Fatalf("%+v", r)
		}
		r, err = l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{})
		if must(l.t, r, err); !r.Already {
			l.t.Fatalf("given twice: %+v", r)
		}
		l.Sync()
		copy(l.want[at:], text)
		if l.Ring.Left() != 0 {
			l.t.Fatalf("%d keys left", l.Ring.Left())
		}
		l.back("given again")
	})
}

// What was read through the dead key is not trusted afterwards.
func TestNoiseIsForgotten(t *testing.T) {
	t.Parallel()
	l := lose(t, losses()["ecb"], false, false)
	at := int64(len(l.want) - 4096)
	if noise, err := l.Cached("data", at); err != nil || bytes.Equal(noise, l.want[at:]) {
		t.Fatalf("no noise: %v", err)
	}
	r, err := l.Manager().Unlock(context.Background(), l.spec, volume.UnlockOptions{})
	if must(t, r, err); len(r.Warnings) == 0 {
		t.Fatalf("%+v", r)
	}
	got, err := l.Cached("data", at)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "from memory", got, l.want[at:])
}

// Lock writes nothing through a dead key, and loses nothing that was written back.
func TestLockOfALostKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		before := l.disk()
		r, err := l.Manager().Lock(ctx, l.spec, volume.LockOptions{DryRun: true})
		must(l.t, r, err)
		if !bytes.Equal(l.disk(), before) {
			l.t.Fatal("a dry run has written")
		}
		r, err = l.Manager().Lock(ctx, l.spec, volume.LockOptions{})
		if must(l.t, r, err); r.Already {
			l.t.Fatalf("%+v", r)
		}
		if l.DM.State() != "" {
			l.t.Fatalf("left:\n%s", l.DM.State())
		}
		l.back("locked")
	})
}

// If the chip no longer opens the key, lock cuts the volume off, and a volume that stays
// mounted is no worse off.
func TestLockOfALostKeyThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		before := l.disk()
		l.Chip.SetFault(func(string) error { return errors.New("no answer") })
		if _, err := l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{}); err == nil {
			l.t.Fatal("unlocked")
		}
		if info, err := l.DM.Info("data"); err == nil && info.Suspended {
			// It was known to be dead: nothing passes.
			l.Chip.SetFault(nil)
			l.back("suspended")
			return
		}
		_, err := sleep.Run(ctx, l.System(), []spec.Volume{l.spec}, &volumetest.Machine{Board: l.Board}, sleep.Options{})
		if err == nil {
			l.t.Fatal("slept over a lost key")
		}
		if info, err := l.DM.Info("data"); err == nil && !info.Suspended {
			r, err := l.Manager().Lock(ctx, l.spec, volume.LockOptions{})
			must(l.t, r, err)
		}
		if !bytes.Equal(l.disk(), before) {
			l.t.Fatal("something was written")
		}
		l.Chip.SetFault(nil)
		l.back("cut off")
	})
}

// Sleep proves the live mapping before it writes anything back.
func TestSleepAfterALoss(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		m := &volumetest.Machine{Board: l.Board}
		r, err := sleep.Run(ctx, l.System(), []spec.Volume{l.spec}, m, sleep.Options{})
		if err != nil || !r.Slept {
			l.t.Fatalf("%+v, %v", r, err)
		}
		l.back("slept")
	})
}

// Revive is for hooks: it loads lost keys again and opens nothing that is locked.
func TestRevive(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each(t, func(l *loss) {
		for _, already := range []bool{false, true} {
			r, err := l.Manager().Revive(ctx, l.spec, volume.ReviveOptions{})
			// A rotation that stopped with the loss of the key must be started again.
			rotating := !already && l.Manager().Status(ctx, l.spec).Rotation != nil
			if must(l.t, r, err); r.Already != already || r.Rotating != rotating {
				l.t.Fatalf("%+v", r)
			}
		}
		l.back("revived")
	})
	b, _ := ready(t, newSpec())
	r, err := b.Manager().Revive(ctx, newSpec(), volume.ReviveOptions{})
	if must(t, r, err); !r.Already || b.DM.State() != "" {
		t.Fatalf("%+v\n%s", r, b.DM.State())
	}
	b = mounted(t, newSpec())
	if err := b.DM.Suspend(ctx, "data", 0); err != nil {
		t.Fatal(err)
	}
	before := b.DM.State()
	r, err = b.Manager().Revive(ctx, newSpec(), volume.ReviveOptions{})
	if must(t, r, err); !r.Already || len(r.Warnings) != 1 || b.DM.State() != before {
		t.Fatalf("a suspended volume: %+v\n%s", r, b.DM.State())
	}
}

// If a volume's table was wiped, nothing is lost, whichever way it is put back into use.
func TestAWipedTable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, again := range map[string]func(*testing.T, *volumetest.Board, spec.Volume){
		"unlock": func(t *testing.T, b *volumetest.Board, s spec.Volume) {
			t.Helper()
			r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			if must(t, r, err); r.Already {
				t.Fatalf("%+v", r)
			}
			b.Sync()
		},
		"lock": func(t *testing.T, b *volumetest.Board, s spec.Volume) {
			t.Helper()
			r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
		},
	} {
		for kind, s := range losses() {
			for _, rotating := range []bool{false, true} {
				for _, slept := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, %s, rotating %v, slept %v", name, kind, rotating, slept), func(t *testing.T) {
						t.Parallel()
						b, want := filled(t, s, rotationDisk(s))
						if rotating {
							rotateUntil(t, b, s, 2)
						}
						if slept {
							b.Sleep(time.Second)
						}
						if err := b.WipeTable(ctx, "data", dmcrypt.SkipLockFS|dmcrypt.NoFlush); err != nil {
							t.Fatal(err)
						}
						st := b.Manager().Status(ctx, s)
						if refused(t, st.Err, fault.KeysLost); st.State != volume.Keyless || st.Up() {
							t.Fatal(st.State)
						}
						again(t, b, s)
						(&loss{b, t, s, want}).back(name)
					})
				}
			}
		}
	}
}

// If the system never slept, the look at an unlocked volume costs nothing: no key is
// opened, no mapping is made.
func TestALivingKeyIsLeftAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range losses() {
		b, _ := filled(t, s, rotationDisk(s))
		var steps []string
		b.Step = func(what string) error { steps = append(steps, what); return nil }
		r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		if must(t, r, err); !r.Already {
			t.Errorf("%s: %+v", name, r)
		}
		if st := b.Manager().Status(ctx, s); st.Err != nil || len(steps) > 0 {
			t.Errorf("%s: %v, %q", name, st.Err, steps)
		}
	}
}

// With a chip that keeps its keys, or keys that were proved since, there is no doubt.
func TestASuspendThatTheKeysOutlive(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range losses() {
		b, _ := filled(t, s, rotationDisk(s))
		r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
		must(t, r, err)
		r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: s.Mount.Path != ""})
		must(t, r, err)
		b.Doze(time.Second)
		kept := b.System()
		kept.KeepsKeys = func() bool { return true }
		if st := volume.New(kept).Status(ctx, s); st.Err != nil {
			t.Errorf("%s: %v", name, st.Err)
		}
		// Verify proves the key whatever is on the volume, and then there is no doubt.
		r, err = b.Manager().Verify(ctx, s)
		must(t, r, err)
		if st := b.Manager().Status(ctx, s); st.Err != nil {
			t.Errorf("%s, verified: %v", name, st.Err)
		}
	}
}

// Whatever fails while a key is loaded again, nothing is written with a dead key, and the
// next unlock loads it.
func TestGivingAKeyAgainFailsAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, name := range []string{"ecb", "ccm", "ecb without a filesystem"} {
		for _, rotating := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, rotating %v", name, rotating), func(t *testing.T) {
				t.Parallel()
				failed := 0
				for n, done := 1, false; !done; n += every(3) {
					l := lose(t, losses()[name], rotating, true)
					step := 0
					l.Step = func(string) error {
						if step++; step == n {
							return errors.New("no")
						}
						return nil
					}
					_, err := l.Manager().Unlock(ctx, l.spec, volume.UnlockOptions{})
					if done = step < n; err != nil {
						failed++
					}
					l.Step = nil
					l.back(fmt.Sprintf("step %d: %v", n, err))
				}
				if failed == 0 {
					t.Error("nothing failed")
				}
			})
		}
	}
}

// Whatever fails while a volume is cut off, no noise is written, and what was written
// back is there.
func TestCuttingOffFailsAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, rotating := range []bool{false, true} {
		failed := 0
		for n, done := 1, false; !done; n += every(3) {
			l := lose(t, losses()["ecb"], rotating, false)
			at := int64(len(l.want) - 4096)
			if err := l.Dirty("data", at, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			before, step := l.disk(), 0
			l.Step = func(string) error {
				if step++; step == n {
					return errors.New("no")
				}
				return nil
			}
			_, err := l.Manager().Lock(ctx, l.spec, volume.LockOptions{})
			if done = step < n; err != nil {
				failed++
			}
			l.Step = nil
			if !bytes.Equal(l.disk(), before) {
				t.Fatalf("step %d: noise was written", n)
			}
			if r, err := l.Manager().Lock(ctx, l.spec, volume.LockOptions{}); err != nil && !strings.Contains(err.Error(), "suspended") {
				t.Fatalf("step %d: %+v, %v", n, r, err)
			}
			l.back(fmt.Sprintf("step %d", n))
		}
		if failed == 0 {
			t.Error("nothing failed")
		}
	}
}

// Two sleeps at once: what the other one did meanwhile is seen before anything is written
// back.
func TestASuspendWhileSleepIsPrepared(t *testing.T) {
	t.Parallel()
	for _, wrap := range []string{"ccm", "ecb"} {
		l := lose(t, losses()[wrap], false, false)
		r, err := l.Manager().Unlock(context.Background(), l.spec, volume.UnlockOptions{})
		must(t, r, err)
		if err := l.Dirty("data", 0, l.want[:4096]); err != nil {
			t.Fatal(err)
		}
		before := l.disk()
		_, err = sleep.Run(context.Background(), l.System(), []spec.Volume{l.spec}, lateMachine{&volumetest.Machine{Board: l.Board}}, sleep.Options{})
		refused(t, err, fault.KeysLost)
		if !bytes.Equal(l.disk(), before) {
			t.Fatal("something was written")
		}
		l.back("after it")
	}
}

// lateMachine sleeps by itself just before everything is frozen.
type lateMachine struct{ *volumetest.Machine }

func (m lateMachine) Freeze(ctx context.Context) error {
	m.Board.Sleep(time.Second)
	return m.Machine.Freeze(ctx)
}

func (m lateMachine) Sync() { m.Board.Sync() }

// During a rotation to another source one key is lost in a suspend and the other
// survives: the filesystem that is seen through the latter says nothing about the former,
// through which the rest of the data would be copied as noise.
func TestALostKeyBesideOneThatLasts(t *testing.T) {
	t.Parallel()
	for _, wrap := range []string{"ecb", "ccm"} {
		for _, gap := range []int64{rotationGap, 0} {
			for _, turns := range []int{0, 1} { // another turn moves the data the other way
				for _, back := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, gap %d, turn %d, to the CAAM %v", wrap, gap, turns, back), func(t *testing.T) {
						t.Parallel()
						from := rotationSpec(gap)
						from.Wrap = wrap
						to := trustedFrom(from)
						if back {
							from, to = to, from
						}
						loseOne(t, from, to, turns)
					})
				}
			}
		}
	}
}

func loseOne(t *testing.T, from, to spec.Volume, turns int) {
	t.Helper()
	ctx := context.Background()
	disk := rotationDisk(from)
	b, want := filled(t, from, disk)
	for range turns {
		r, err := b.Manager().Rotate(ctx, from, volume.RotateOptions{})
		must(t, r.Result, err)
	}
	rotateUntil(t, b, to, 3)
	b.Sleep(time.Second)
	before := disk.Bytes()
	if st := b.Manager().Status(ctx, to); !fault.Is(st.Err, fault.KeysLost) {
		t.Errorf("status: %+v", st)
	}
	_, err := b.Manager().Verify(ctx, to)
	refused(t, err, fault.KeysLost)
	_, err = b.Manager().Rotate(ctx, to, volume.RotateOptions{ResumeOnly: true})
	refused(t, err, fault.KeysLost)
	same(t, "refused", disk.Bytes(), before)
	r, err := b.Manager().Unlock(ctx, to, volume.UnlockOptions{})
	must(t, r, err)
	same(t, "unlocked", content(t, b), want)
	rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	same(t, "rotated", content(t, b), want)
	b = powerCycle(b)
	r, err = b.Manager().Unlock(ctx, to, volume.UnlockOptions{})
	must(t, r, err)
	same(t, "after a power cycle", content(t, b), want)
}
