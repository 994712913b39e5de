// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// writes are the contents of a cache, the newest last.
type writes []struct {
	off int64
	p   []byte
}

func (w *writes) add(p []byte, off int64) {
	*w = append(*w, struct {
		off int64
		p   []byte
	}{off, bytes.Clone(p)})
}

// over puts what is cached over what was read.
func (w writes) over(p []byte, off int64) {
	for _, x := range w {
		from, to := max(off, x.off), min(off+int64(len(p)), x.off+int64(len(x.p)))
		if from < to {
			copy(p[from-off:to-off], x.p[from-x.off:])
		}
	}
}

func (w writes) flushTo(dev Writer) error {
	for _, x := range w {
		if _, err := dev.WriteAt(x.p, x.off); err != nil {
			return err
		}
	}
	return dev.Flush()
}

// Data and header are on the same storage. One of its flushes fails and drops everything
// that was not durable, as an eMMC does that was reset; every flush after it succeeds.
// What is recorded afterwards is durable nevertheless.
func TestAFailedFlushDropsWhatWasNotDurable(t *testing.T) {
	t.Parallel()
	for _, s := range streamSetups() {
		if s.oldSector != s.newSector {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			base, want := started(t, s)
			failed, survived := 0, 0
			for at := 0; ; at++ {
				flushes := 0
				for seed := range uint64(12) {
					r := base.restarted(t)
					sched := newSchedule(seed)
					storage := &resetting{schedule: sched, at: at}
					raw, meta := storage.over(timed{sched, r.raw}), storage.over(timed{sched, r.meta})
					old, next := *r.old, *r.new
					old.dev, next.dev = raw, raw
					o := r.options()
					o.Views = Views{Old: &old, New: &next, Raw: raw, Meta: meta}
					o.Lanes, o.Unit = 2+int(seed%2), r.streamUnit()
					e := r.engine(t, o)
					var err error
					sched.run(t, func() { err = e.Run(context.Background()) })
					flushes = max(flushes, storage.flushes)
					switch {
					case err == nil:
						survived++
					case !errors.Is(err, unix.EIO):
						t.Fatalf("flush %d, seed %d: %v", at, seed, err)
					default:
						failed++
					}
					after := r.restarted(t) // what is durable
					if err := after.settle(after.options(), same(want)); err != nil {
						t.Fatalf("flush %d, seed %d: %v", at, seed, err)
					}
				}
				if flushes <= at {
					break
				}
			}
			t.Logf("%d rotations ended, %d continued", failed, survived)
			if failed == 0 || survived == 0 {
				t.Error("not all of that was tried")
			}
		})
	}
}

// resetting is storage of which one flush fails. All of its disks then lose what was not
// durable.
type resetting struct {
	*schedule
	mu      sync.Mutex
	at      int
	flushes int
	disks   []*cached
}

func (x *resetting) over(dev ReadWriter) *cached {
	c := &cached{ReadWriter: dev, storage: x}
	x.disks = append(x.disks, c)
	return c
}

// cached is a disk with a cache: what is written reaches the disk with a flush.
type cached struct {
	ReadWriter
	storage *resetting
	writes  writes
}

func (c *cached) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReadWriter.ReadAt(p, off)
	c.storage.mu.Lock()
	defer c.storage.mu.Unlock()
	c.writes.over(p, off)
	return n, err
}

func (c *cached) WriteAt(p []byte, off int64) (int, error) {
	c.storage.mu.Lock()
	defer c.storage.mu.Unlock()
	c.writes.add(p, off)
	return len(p), nil
}

// Flush writes back the cache of the whole storage.
func (c *cached) Flush() error {
	x := c.storage
	x.turn() // two flushes at the same time: either may be the first
	x.mu.Lock()
	x.flushes++
	fails := x.flushes-1 == x.at
	taken := make([]writes, len(x.disks))
	for i, d := range x.disks {
		taken[i], d.writes = d.writes, nil
	}
	x.mu.Unlock()
	if fails {
		return unix.EIO
	}
	for i, d := range x.disks {
		if err := taken[i].flushTo(d.ReadWriter); err != nil {
			return err
		}
	}
	return nil
}

// A file is read through the page cache. The cache shows a record that a killed process
// had not flushed, and one whose flush failed, after which the page counts as clean. What
// recovery relies on is durable nevertheless.
func TestARecordInThePageCacheIsMadeDurable(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Gap, Journal} {
		for _, lost := range []bool{false, true} {
			s := setup{mode: mode, direction: Forward, oldSector: 512, newSector: 512, zone: 3 * 512, data: 10 * 512}
			r, want := started(t, s)
			meta := &pageCache{ReadWriter: r.meta, lost: lost}
			recovered := 0
			for range 10 {
				h := newHolder(t)
				o := r.options()
				o.Views.Meta, o.CachedMeta, o.Hooks = meta, true, h.hooks()
				e := r.engine(t, o)
				before, err := e.Recover(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				// The process is killed, or gives up, while its last record is only in
				// the cache.
				meta.fails = true
				for err == nil {
					_, err = e.Step(context.Background())
					if e.Record().Done() > before.Done() || e.Record().Phase == Finished {
						break
					}
				}
				meta.fails = false
				next := r.options()
				next.Views.Meta, next.CachedMeta = meta, true
				rec, err := r.engine(t, next).Recover(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				durable, err := ReadRecord(r.meta, r.l.RecordOffset, testBinding)
				if err != nil || durable != rec {
					t.Fatalf("%v, lost %v: relied on %+v, durable is %+v, %v", mode, lost, rec, durable, err)
				}
				recovered++
				// Move one more zone, over storage that works.
				if _, err := r.engine(t, next).Step(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			after := r.restarted(t)
			if err := after.settle(after.options(), same(want)); err != nil {
				t.Fatal(err)
			}
			t.Logf("%v, lost %v: %d records", mode, lost, recovered)
		}
	}
}

// pageCache is a file's page cache: a flush writes what is dirty. While flushes fail,
// what was written stays in the cache, either dirty or clean and lost.
type pageCache struct {
	ReadWriter
	fails, lost   bool
	cached, dirty writes
}

func (c *pageCache) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReadWriter.ReadAt(p, off)
	c.cached.over(p, off)
	return n, err
}

func (c *pageCache) WriteAt(p []byte, off int64) (int, error) {
	c.cached.add(p, off)
	c.dirty.add(p, off)
	return len(p), nil
}

func (c *pageCache) Flush() error {
	if c.fails {
		if c.lost {
			c.dirty = nil
		}
		return unix.EIO
	}
	err := c.dirty.flushTo(c.ReadWriter)
	c.dirty = nil
	return err
}
