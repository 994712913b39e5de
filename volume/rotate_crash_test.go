// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// someStates returns n if one in n states is tried because not all are: each takes a
// whole rotation.
func someStates() int {
	switch {
	case soak:
		return 1
	case crashtest.RaceDetector:
		return 200
	case slow():
		return 150
	}
	return 12
}

// rotationRun is a rotation to be cut off: the volume before it, and its content.
type rotationRun struct {
	// spec is the configuration when the rotation begins, from the one before.
	spec, from spec.Volume
	chip       *caamtest.Chip
	// disk and files are those before the rotation.
	disk, files *crashtest.Image
	want        []byte
}

// prepared makes a locked volume that has had some rotations already.
func prepared(t *testing.T, s spec.Volume, before int) rotationRun {
	t.Helper()
	ctx := context.Background()
	r := rotationRun{spec: s, from: s, chip: caamtest.RandomChip(), disk: rotationDisk(s), files: crashtest.NewImage(volumetest.FilesSize)}
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

// Wherever power is cut while a volume is rotated, and once more while that is repaired,
// the volume opens at once with all its data, and the rotation continues. Afterwards the
// data is all there, too.
func TestEveryPowerCutOfARotation(t *testing.T) {
	t.Parallel()
	dev := rotationCases()["dev"]
	var cuts cutCount
	for name, c := range map[string]struct {
		spec   spec.Volume
		before int
		to     func(spec.Volume) spec.Volume
	}{
		"gap, down": {spec: rotationSpec(rotationGap)}, "gap, up": {spec: rotationSpec(rotationGap), before: 1},
		"journal": {spec: rotationSpec(0)}, "dev": {spec: dev}, "detached": {spec: rotationCases()["detached"]},
		"caam to trusted":           {spec: rotationSpec(rotationGap), to: trustedFrom},
		"caam to trusted, journal":  {spec: rotationSpec(0), to: trustedFrom},
		"caam to trusted, detached": {spec: rotationCases()["detached"], to: trustedFrom},
		"trusted to caam":           {spec: trustedFrom(rotationSpec(rotationGap)), to: func(spec.Volume) spec.Volume { return rotationSpec(rotationGap) }},
		"dev to trusted":            {spec: dev, to: trustedFrom},
		"trusted to protected":      {spec: trustedFrom(rotationSpec(rotationGap)), to: protectedFrom},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := prepared(t, c.spec, c.before)
			if c.to != nil {
				run.spec = c.to(c.spec)
			}
			n, m := run.enumerate(t)
			cuts.count(t, n, m)
		})
	}
	cuts.logWhenDone(t)
}

func (r rotationRun) enumerate(t *testing.T) (first, second int) {
	run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	rr, err := run.board.Manager().Rotate(context.Background(), r.spec, volume.RotateOptions{})
	must(t, rr.Result, err)
	return cutTwice(t, run, r.resume)
}

// resume is what happens after the power cycle: the volume is unlocked and read, and the
// rest of the rotation is done, in some cases in use.
func (r rotationRun) resume(t *testing.T, run *recording, what string) {
	t.Helper()
	ctx := context.Background()
	run.board.Chip.PowerCycle()
	m := run.board.Manager()
	st := m.Status(ctx, r.spec)
	if r.spec.Keys() != r.from.Keys() && fault.Is(st.Err, fault.HeaderMismatch) {
		// The rotation has not begun, so the configuration is the old one.
		r.spec = r.from
		if st = m.Status(ctx, r.spec); st.Generation != 1 || st.Rotation != nil {
			t.Fatalf("%s: %+v", what, st)
		}
	}
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

// A rotation of a volume in use is killed before any of its steps, also while a zone is
// held and its readers wait. The next command, whichever it is, lets them continue, and
// the next rotation ends it.
func TestRotationKilledInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	next := map[string]func(*volume.Manager, spec.Volume) error{
		"unlock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		},
		"lock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Lock(ctx, s, volume.LockOptions{})
			return err
		},
		"status": func(m *volume.Manager, s spec.Volume) error { return m.Status(ctx, s).Err },
		"verify": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Verify(ctx, s)
			return err
		},
		"rotate": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			return err
		},
	}
	for change, c := range map[string]change{
		"gap":             {rotationSpec(rotationGap), rotationSpec(rotationGap)},
		"journal":         {rotationSpec(0), rotationSpec(0)},
		"caam to trusted": {rotationSpec(rotationGap), trustedFrom(rotationSpec(rotationGap))},
	} {
		for name, command := range next {
			t.Run(change+", "+name, func(t *testing.T) {
				t.Parallel()
				killed, waited := 0, 0
				for at := 1; ; at += 1 + rand.IntN(someStates()) {
					s := c.to
					b, want := filled(t, c.from, rotationDisk(s))
					if change == "gap" {
						b.NoTargets = []string{"delay"}
					}
					if !kill(b, at, func() { _, _ = b.Manager().Rotate(ctx, s, volume.RotateOptions{}) }) {
						break
					}
					killed++
					if name == "lock" {
						b.Patience = 100 * time.Millisecond // the reader always has the mapping open
					}
					what := fmt.Sprintf("killed at step %d, then %s", at, name)
					if fault.Is(b.Manager().Status(ctx, s).Err, fault.HeaderMismatch) {
						s = c.from // not begun
					}
					if readDuring(t, b, what, want, func() error {
						err := command(b.Manager(), s)
						if err != nil && name == "lock" && strings.Contains(err.Error(), "in use") {
							return nil
						}
						return err
					}) {
						waited++
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
