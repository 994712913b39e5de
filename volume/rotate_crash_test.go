// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// someStates is one in how many states is tried where not all are: each takes a
// whole rotation.
func someStates() int {
	switch {
	case soak:
		return 1
	case slow:
		return 60
	}
	return 12
}

// rotationRun is a rotation to be cut off: the volume before it, and what is in
// it.
type rotationRun struct {
	spec volume.Spec
	chip *caamtest.Chip
	// disk and files are as before the rotation.
	disk, files *crashtest.Image
	want        []byte
}

// prepared is a locked volume that has had some rotations already.
func prepared(t *testing.T, s volume.Spec, before int) rotationRun {
	t.Helper()
	ctx := context.Background()
	r := rotationRun{spec: s, chip: caamtest.RandomChip(), disk: rotationDisk(s), files: crashtest.NewImage(volumetest.FilesSize)}
	b := boardOver(r.chip, r.disk, r.files)
	p, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, p, err)
	text := make([]byte, rotationData-rotationText)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(text) // never fails
	scrawl(t, b, text, rotationText)
	r.want = content(t, b)
	p, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, p, err)
	for range before {
		rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
		must(t, rr.Result, err)
	}
	return r
}

// Wherever the power goes while a volume is rotated, and once more while that
// is mended: the volume opens at once with all its data, the rotation goes on,
// and afterwards the data is all there, too.
func TestEveryPowerCutOfARotation(t *testing.T) {
	t.Parallel()
	dev := rotationCases()["dev"]
	var all, second atomic.Int64
	var group sync.WaitGroup
	for name, c := range map[string]struct {
		spec   volume.Spec
		before int
	}{
		"gap, down": {rotationSpec(rotationGap), 0}, "gap, up": {rotationSpec(rotationGap), 1},
		"journal": {rotationSpec(0), 0}, "dev": {dev, 0}, "detached": {rotationCases()["detached"], 0},
	} {
		group.Add(1)
		t.Run(name, func(t *testing.T) {
			defer group.Done()
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			n, m := run.enumerate(t)
			all.Add(int64(n))
			second.Add(int64(m))
			t.Logf("%d states tried, %d of them after a second cut, 0 lost", n+m, m)
		})
	}
	t.Cleanup(func() {
		group.Wait()
		t.Logf("rotation: %d states tried, %d of them after a second cut, 0 lost", all.Load()+second.Load(), second.Load())
	})
}

func (r rotationRun) enumerate(t *testing.T) (first, second int) {
	run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	rr, err := run.board.Manager().Rotate(context.Background(), r.spec, volume.RotateOptions{})
	must(t, rr.Result, err)
	rng := rand.New(rand.NewPCG(5, uint64(len(t.Name()))))
	for state := range run.rec.States(crashLimits()) {
		if rng.IntN(someStates()) != 0 {
			continue
		}
		first++
		next := record(r.chip, state.Image(run.disk), state.Image(run.files))
		r.resume(t, next, state.String())
		if rng.IntN(secondCut()) != 0 {
			continue
		}
		for cut := range next.rec.States(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}) {
			if rng.IntN(someStates()) != 0 {
				continue
			}
			second++
			third := record(r.chip, cut.Image(next.disk), cut.Image(next.files))
			r.resume(t, third, state.String()+"; then "+cut.String())
		}
	}
	return first, second
}

// resume is what happens after the power cycle: the volume is unlocked and read,
// and what is left of the rotation is done, now and then in use.
func (r rotationRun) resume(t *testing.T, run *recording, what string) {
	t.Helper()
	ctx := context.Background()
	run.board.Chip.PowerCycle()
	m := run.board.Manager()
	st := m.Status(ctx, r.spec)
	if st.Err != nil {
		t.Fatalf("%s: status: %v", what, st.Err)
	}
	u, err := m.Unlock(ctx, r.spec, volume.UnlockOptions{Mount: true})
	if err != nil {
		t.Fatalf("%s: does not open: %v", what, err)
	}
	same(t, what, content(t, run.board), r.want)
	if len(what)%2 == 0 {
		if u, err = m.Lock(ctx, r.spec, volume.LockOptions{}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	rr, err := m.Rotate(ctx, r.spec, volume.RotateOptions{ResumeOnly: true})
	if err != nil {
		t.Fatalf("%s: not finished: %v", what, err)
	}
	if rr.Already != (st.Rotation == nil) {
		t.Fatalf("%s: %+v after %+v", what, rr, st)
	}
	_ = u
	last := boardOver(run.board.Chip, run.disk.Live(), run.files.Live())
	last.Chip.PowerCycle()
	if _, err := last.Manager().Unlock(ctx, r.spec, volume.UnlockOptions{Mount: true}); err != nil {
		t.Fatalf("%s, then finished: does not open: %v", what, err)
	}
	same(t, what+", then finished", content(t, last), r.want)
	if run.board.Ring.Left()+last.Ring.Left() != 0 {
		t.Fatalf("%s: a key was left in a keyring", what)
	}
}

// A rotation under a volume in use is killed before any of its steps, also with
// a zone held, whose readers wait: the next command, whichever it is, lets them
// go on; and the next rotation ends it.
func TestRotationKilledInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	next := map[string]func(*volume.Manager, volume.Spec) error{
		"unlock": func(m *volume.Manager, s volume.Spec) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		},
		"lock": func(m *volume.Manager, s volume.Spec) error {
			_, err := m.Lock(ctx, s, volume.LockOptions{})
			return err
		},
		"status": func(m *volume.Manager, s volume.Spec) error { return m.Status(ctx, s).Err },
		"verify": func(m *volume.Manager, s volume.Spec) error {
			_, err := m.Verify(ctx, s)
			return err
		},
		"rotate": func(m *volume.Manager, s volume.Spec) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			return err
		},
	}
	for _, gap := range []int64{rotationGap, 0} {
		for name, command := range next {
			t.Run(fmt.Sprintf("gap %d, %s", gap, name), func(t *testing.T) {
				t.Parallel()
				killed, waited := 0, 0
				for at := 1; ; at += 1 + rand.IntN(someStates()) {
					s := rotationSpec(gap)
					b, want := filled(t, s, rotationDisk(s))
					if !kill(b, at, func() { _, _ = b.Manager().Rotate(ctx, s, volume.RotateOptions{}) }) {
						break
					}
					killed++
					what := fmt.Sprintf("killed at step %d, then %s", at, name)
					f, err := b.Mapping("data", false)
					if err != nil {
						t.Fatal(err)
					}
					read := make(chan []byte, 1)
					go func() {
						all := make([]byte, len(want))
						if _, err := f.ReadAt(all, 0); err != nil {
							t.Error(err)
						}
						read <- all
					}()
					select {
					case got := <-read:
						same(t, what, got, want)
						read <- got
					case <-time.After(20 * time.Millisecond):
						waited++
					}
					if err := command(b.Manager(), s); err != nil && !(name == "lock" && strings.Contains(err.Error(), "in use")) {
						t.Fatalf("%s: %v\n%s", what, err, b.DM.State())
					}
					select {
					case got := <-read:
						same(t, what, got, want)
					case <-time.After(20 * time.Second):
						t.Fatalf("%s: who reads waits for ever\n%s", what, b.DM.State())
					}
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
					if _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err != nil {
						t.Fatalf("%s: %v\n%s", what, err, b.DM.State())
					}
					if _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true}); err != nil {
						t.Fatalf("%s, then rotated: %v\n%s", what, err, b.DM.State())
					}
					same(t, what+", then rotated", content(t, b), want)
					nothingPrivate(t, b, 1)
				}
				t.Logf("killed %d times, %d of them with readers waiting", killed, waited)
			})
		}
	}
}
