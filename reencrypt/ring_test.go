// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"sync/atomic"
	"testing"
)

// While a zone is copied the next one is kept in the journal, and each costs one
// record.
func TestTheNextZoneIsJournaledWhileOneIsCopied(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.mode == Gap {
			continue
		}
		r, _ := started(t, s)
		sched := newSchedule(1)
		o := streaming(r, sched)
		o.Lanes = 2
		w := &watchedZones{New: o.Views.New, journal: r.l.JournalOffset}
		o.Views.New, o.Views.Meta = w, watchedMeta{o.Views.Meta, w}
		e := r.engine(t, o)
		var err error
		sched.run(t, func() { err = e.Run(context.Background()) })
		zones := int64(e.Record().Zones)
		if err != nil || w.meanwhile.Load() == 0 || w.records.Load() != zones+1 {
			t.Errorf("%v: %v, %d of %d zones journaled meanwhile, %d records", s, err, w.meanwhile.Load(), zones, w.records.Load())
		}
	}
}

// watchedZones counts records, and the writes to the journal between the first copy of a
// zone and its flush.
type watchedZones struct {
	New     Writer
	journal int64

	copying            atomic.Bool
	meanwhile, records atomic.Int64
}

func (w *watchedZones) WriteAt(p []byte, off int64) (int, error) {
	w.copying.Store(true)
	return w.New.WriteAt(p, off)
}

func (w *watchedZones) Flush() error {
	defer w.copying.Store(false)
	return w.New.Flush()
}

type watchedMeta struct {
	ReadWriter
	w *watchedZones
}

func (m watchedMeta) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off < m.w.journal:
		m.w.records.Add(1)
	case m.w.copying.Load():
		m.w.meanwhile.Add(1)
	}
	return m.ReadWriter.WriteAt(p, off)
}
