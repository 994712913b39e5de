// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"math"
	"sync"
)

// stream moves data in mode Gap without a stop between zones, if no zone is held and
// nothing throttles the rotation. The package comment has its two rules, and why they are
// enough. ripe and commitTo keep the first rule, mayWrite keeps the second.
type stream struct {
	*Engine
	unit int64 // length of a lane's copy

	mu     sync.Mutex
	change *sync.Cond
	track
	closed bool  // the lanes take no more, and do not write what they read ahead
	err    error // of the failed copy with the lowest place
	errAt  int64
}

// track is the progress of the lanes with one kind of copy. It counts bytes from the
// beginning of the rotation, whatever the direction.
type track struct {
	next   int64  // the lanes have taken everything below
	limit  int64  // and may write what is below this
	copied int64  // everything below has been copied
	flying []span // each lane's copy
}

// span is the range between two counts of bytes; an empty one means no copy.
type span struct{ from, to int64 }

func (c span) empty() bool { return c.from == c.to }

func newTrack(done, limit int64, lanes int) track {
	return track{next: done, limit: limit, copied: done, flying: make([]span, lanes)}
}

// begin gives a lane the next n bytes.
func (t *track) begin(lane int, n int64) {
	t.flying[lane] = span{t.next, t.next + n}
	t.next += n
}

// end notes that a lane has finished its copy.
func (t *track) end(lane int) {
	t.flying[lane] = span{}
	t.copied = t.next
	for _, c := range t.flying {
		if !c.empty() {
			t.copied = min(t.copied, c.from)
		}
	}
}

// unitsInGap is the least number of copies that a gap is divided into: some are under way
// while others are made durable. More and smaller copies cost more requests.
const unitsInGap = 4

// piece returns the maximum length of a copy, so that the gap has room for several.
func (e *Engine) piece(most int64) int64 {
	a := e.layout.zoneAlign()
	return min(most, max(roundDown(e.layout.ZoneSize/unitsInGap, a), a))
}

func (e *Engine) newStream() *stream {
	done := e.record.Done()
	s := &stream{Engine: e, unit: e.piece(e.copier.unit), track: newTrack(done, done+e.layout.ZoneSize, len(e.copier.bufs))}
	s.change = sync.NewCond(&s.mu)
	return s
}

// stream moves everything that is left. After an error the rotation is where the last
// record says, as after [Engine.Step].
func (e *Engine) stream(ctx context.Context) error {
	s := e.newStream()
	var lanes sync.WaitGroup
	for i := range s.flying {
		lanes.Go(func() { s.lane(i, e.copier.bufs[i]) })
	}
	err := s.record(ctx)
	s.close()
	lanes.Wait()
	if undecided(err) {
		e.settled = false
	}
	return err
}

// lane copies until nothing is left, a copy has failed or the stream is closed.
//
// It reads before it may write: what is not copied yet is at its old place, and nothing
// else writes to it. So there is something to write as soon as a record allows it.
func (s *stream) lane(i int, buf []byte) {
	for {
		z, ok := s.take(i)
		if !ok {
			return
		}
		p := buf[:z.Length]
		err := s.copier.read(Old, p, z.Start)
		if err == nil {
			if !s.mayWrite(i) {
				return
			}
			err = s.copier.write(New, p, z.Start)
		}
		s.rest(i, err)
	}
}

// take gives a lane the next copy.
func (s *stream) take(i int) (Zone, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.layout.zoneAt(s.layout.position(s.next), s.unit)
	if s.closed || s.err != nil || z.Length == 0 {
		return Zone{}, false
	}
	s.begin(i, z.Length)
	return z, true
}

// mayWrite waits until the lane's copy may be written. If that will never be, what was
// read is discarded: it still counts as not copied.
func (s *stream) mayWrite(i int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.flying[i].to > s.limit {
		if s.closed || s.err != nil {
			// Set it beyond every limit that a record under way may still set; otherwise
			// atRest would wait for it. It must not be empty, or rest would count it as
			// copied.
			s.flying[i].to = math.MaxInt64
			return false
		}
		s.change.Wait()
	}
	return true
}

// rest ends a lane's copy.
func (s *stream) rest(i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.flying[i].from; err != nil && (s.err == nil || at < s.errAt) {
		s.err, s.errAt = err, at
	}
	if s.err == nil {
		s.end(i)
	}
	s.flying[i] = span{}
	s.change.Broadcast()
}

func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.change.Broadcast()
}

// ripe waits until enough is copied to be recorded, or no more will come. It returns how
// far everything is copied, or the error of a copy once all lanes are at rest.
func (s *stream) ripe() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		fresh := s.copied - s.Engine.record.Done()
		switch {
		case s.atRest() && s.err != nil:
			return 0, s.err
		case s.err != nil:
		case fresh >= s.layout.ZoneSize/2, s.atRest() && (fresh > 0 || s.closed):
			return s.copied, nil
		}
		s.change.Wait()
	}
}

// atRest reports whether no lane is copying or will write before something is recorded.
func (s *stream) atRest() bool {
	for _, c := range s.flying {
		if !c.empty() && c.to <= s.limit {
			return false
		}
	}
	if s.closed || s.err != nil {
		return true
	}
	z := s.layout.zoneAt(s.layout.position(s.next), s.unit)
	return z.Length == 0 || s.next+z.Length > s.limit
}

// record makes durable what the lanes copied, until everything is copied or the rotation
// is paused. It runs on the engine's own goroutine.
func (s *stream) record(ctx context.Context) error {
	var paused error
	for {
		copied, err := s.ripe()
		if err != nil {
			return err
		}
		if err := s.commitTo(copied); err != nil {
			return err
		}
		if s.Engine.record.Phase == Finished {
			return nil
		}
		if paused != nil {
			return paused
		}
		// What has been copied meanwhile is recorded before it stops.
		if paused = s.boundary(ctx); paused != nil {
			s.close()
		}
	}
}

// commitTo makes everything that was moved below done durable, and gives the lanes the
// room that this frees.
func (s *stream) commitTo(done int64) error {
	z := s.layout.between(span{s.Engine.record.Done(), done})
	if z.Length == 0 {
		return nil
	}
	if err := s.flush(New); err != nil {
		return err
	}
	if err := s.trusted(); err != nil {
		return err
	}
	if err := s.commit(s.moved(z), z); err != nil {
		return err
	}
	if s.dropped != nil && s.Engine.record.Phase != Finished {
		// The storage may have dropped the lanes' copies beyond the record with what was
		// not flushed, and the next flush would not say so. They are made again.
		return s.dropped
	}
	s.mu.Lock()
	s.limit = done + s.layout.ZoneSize
	s.change.Broadcast()
	s.mu.Unlock()
	if s.hooks.Progress != nil {
		s.hooks.Progress(Progress{Done: done, Total: s.layout.DataSize, Zone: z})
	}
	return nil
}
