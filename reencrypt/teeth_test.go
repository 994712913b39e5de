// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"imxcrypt/internal/crashtest"
)

// noFlush is a view whose flush does nothing.
type noFlush struct{ ReadWriter }

func (noFlush) Flush() error { return nil }

// Each ordering rule has a reason: with any one of them broken, the same walk finds lost
// states.
func TestWrongOrdersLoseStates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		mode  Mode
		alter func(*rig, *Options)
	}{
		{"record before the copy is durable", Gap, func(r *rig, o *Options) { o.Views.New = noFlush{r.new} }},
		{"record before the overwritten zone is durable", Journal, func(r *rig, o *Options) { o.Views.New = noFlush{r.new} }},
		{"next zone before the record is durable", Gap, func(r *rig, o *Options) { o.Views.Meta = noFlush{r.meta} }},
		{"zone overwritten before its journal is durable", Journal, func(r *rig, o *Options) { o.Views.Meta = noFlush{r.meta} }},
		{"zone longer than the gap", Gap, func(r *rig, o *Options) {
			// Validate refuses this; the copy overtakes what it copies.
			o.Layout.ZoneSize += int64(r.oldSector)
		}},
	} {
		for _, s := range setups() {
			if s.mode != c.mode || s.oldSector != s.newSector {
				continue
			}
			t.Run(c.name+"/"+s.String(), func(t *testing.T) {
				t.Parallel()
				r, want := started(t, s)
				w := newWalker(s, want)
				w.alter = c.alter
				o := w.options(r)
				honest := r.options()
				honest.Views = o.Views
				e := r.engine(t, honest)
				e.layout, e.pace.size = o.Layout, o.Layout.ZoneSize
				steps(t, e)
				w.alter, w.thin = nil, w.every // the next run does it right
				w.walk(t, r, 0)
				t.Logf("%d of %d states lost", w.lost, w.second)
				if w.lost == 0 {
					t.Error("the walk does not notice")
				}
			})
		}
	}
}

// This is the premise of the gap. Suppose checksums were kept for each crypt sector, to
// sort a torn zone into old and new sectors. They fail if a crypt sector is larger than
// what the storage writes atomically: a partly new crypt sector matches neither.
func TestPremiseChecksumsLoseTornSectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sector int
		loses  bool
	}{{512, false}, {4096, true}} {
		const sectors = 3
		size := int64(sectors * c.sector)
		s := setup{mode: Journal, direction: Forward, oldSector: c.sector, newSector: c.sector, zone: size, data: size}
		r := emptyRig(t, s)
		want := r.fill(t)
		r = r.restarted(t)

		// The zone's checksums, durable before it is overwritten in place.
		old := make([]byte, size)
		if _, err := r.raw.ReadAt(old, r.l.OldOffset); err != nil {
			t.Fatal(err)
		}
		if _, err := r.new.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}

		tried, lost := 0, 0
		for st := range r.rec.States(crashtest.Options{}) {
			tried++
			next := newRig(t, s, st.Image(r.raw), st.Image(r.meta))
			got := make([]byte, size)
			for i := int64(0); i < size; i += int64(c.sector) {
				b := make([]byte, c.sector)
				if _, err := next.raw.ReadAt(b, next.l.OldOffset+i); err != nil {
					t.Fatal(err)
				}
				view := next.new
				if sha256.Sum256(b) == sha256.Sum256(old[i:i+int64(c.sector)]) {
					view = next.old
				}
				if _, err := view.ReadAt(got[i:i+int64(c.sector)], i); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				lost++
			}
		}
		t.Logf("crypt sectors of %d bytes: %d of %d states lost", c.sector, lost, tried)
		if (lost > 0) != c.loses {
			t.Errorf("crypt sectors of %d bytes: %d of %d states lost", c.sector, lost, tried)
		}
	}
}
