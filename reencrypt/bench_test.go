// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// medium is storage of known speed. Reading and writing it costs time on top of that, as
// encryption does: two jobs at a time, as on two cores.
type medium struct {
	size  int64
	bus   chan time.Duration // one transfer at a time
	rate  time.Duration      // of the bus, per MiB
	cores chan struct{}
	work  time.Duration // of a core, per MiB
	flush time.Duration
}

func newMedium(size int64, rate, work, flush time.Duration) *medium {
	return &medium{
		size: size, bus: make(chan time.Duration, 1), rate: rate, cores: make(chan struct{}, 2), work: work, flush: flush,
	}
}

func (m *medium) transfer(n int) {
	share := func(d time.Duration) time.Duration { return d * time.Duration(n) / (1 << 20) }
	m.cores <- struct{}{}
	time.Sleep(share(m.work))
	<-m.cores
	m.bus <- 0
	time.Sleep(share(m.rate))
	<-m.bus
}

func (m *medium) ReadAt(p []byte, _ int64) (int, error)  { m.transfer(len(p)); return len(p), nil }
func (m *medium) WriteAt(p []byte, _ int64) (int, error) { m.transfer(len(p)); return len(p), nil }

func (m *medium) Flush() error {
	m.bus <- 0
	time.Sleep(m.flush)
	<-m.bus
	return nil
}

// small is a header area in memory whose flush is the medium's.
type small struct {
	mu sync.Mutex
	b  []byte
	*medium
}

func (s *small) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return copy(p, s.b[off:]), nil
}

func (s *small) WriteAt(p []byte, off int64) (int, error) {
	s.transfer(len(p))
	s.mu.Lock()
	defer s.mu.Unlock()
	return copy(s.b[off:], p), nil
}

// BenchmarkRotation measures a rotation on storage as slow as an eMMC under a
// coprocessor. It also reports the rate as a share of the limit: reading one mapping and
// writing the other a MiB at a time, unprotected.
func BenchmarkRotation(b *testing.B) {
	const mib = 1 << 20
	ctx := context.Background()
	for _, c := range []struct {
		mode Mode
		zone int64
	}{{Gap, mib}, {Gap, 4 * mib}, {Journal, mib}} {
		b.Run(fmt.Sprintf("%v, zones of %d MiB", c.mode, c.zone/mib), func(b *testing.B) {
			s := setup{mode: c.mode, direction: Forward, oldSector: 4096, newSector: 4096, zone: c.zone, data: 32 * mib}
			l := s.layout()
			var limit, ours time.Duration
			b.SetBytes(s.data)
			for b.Loop() {
				m := newMedium(l.End, 8*time.Millisecond, 20*time.Millisecond, 2*time.Millisecond)
				meta := &small{b: make([]byte, l.RecordOffset+RecordArea+l.JournalSize), medium: m}
				begun := time.Now()
				buf := make([]byte, mib)
				for off := int64(0); off < s.data; off += mib {
					_, _ = m.ReadAt(buf, off)
					_, _ = m.WriteAt(buf, off)
				}
				limit += time.Since(begun)

				begun = time.Now()
				e, err := NewEngine(Options{Layout: l, Binding: testBinding, Views: Views{Old: m, New: m, Raw: m, Meta: meta}})
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Begin(ctx); err != nil {
					b.Fatal(err)
				}
				if err := e.Run(ctx); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(begun)
			}
			b.ReportMetric(float64(limit)/float64(ours), "×limit")
		})
	}
}

// null is a view that costs nothing, to measure what the engine itself costs.
type null struct{}

func (null) ReadAt(p []byte, _ int64) (int, error)  { return len(p), nil }
func (null) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (null) Flush() error                           { return nil }

// BenchmarkEngine measures the engine's own cost for each zone of 1 MiB.
func BenchmarkEngine(b *testing.B) {
	s := setup{mode: Gap, direction: Forward, oldSector: 4096, newSector: 4096, zone: 1 << 20, data: 64 << 20}
	b.SetBytes(s.data)
	b.ReportAllocs()
	for b.Loop() {
		l := s.layout()
		meta := &small{b: make([]byte, l.RecordOffset+RecordArea), medium: newMedium(0, 0, 0, 0)}
		e, err := NewEngine(Options{Layout: l, Binding: testBinding, Views: Views{Old: null{}, New: null{}, Meta: meta}})
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Begin(context.Background()); err != nil {
			b.Fatal(err)
		}
		if err := e.Run(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
