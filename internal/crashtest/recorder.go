// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Kind is what an operation does.
type Kind uint8

// Kinds of operations.
const (
	Write Kind = iota
	Flush
	Discard
)

func (k Kind) String() string { return [...]string{"write", "flush", "discard"}[k] }

// Op is one operation of the log.
type Op struct {
	Kind   Kind
	Disk   *Disk
	Off    int64 // in bytes; 0 for a flush of the whole disk
	Length int64 // in bytes; the disk's size for a flush of the whole disk
	data   []byte
	// through means durable when it is done, like a write with FUA.
	through bool
	// durable means that it is through, and done at the cut in question.
	durable bool
	// number identifies a write for a flush.
	number int
	// missed holds, for a flush, the writes that had not returned when it began.
	missed map[int]bool
}

func (op Op) String() string {
	if op.Kind == Flush && op.Length == op.Disk.Size() {
		return fmt.Sprintf("flush %s", op.Disk.name)
	}
	return fmt.Sprintf("%s %s %#x+%#x", op.Kind, op.Disk.name, op.Off, op.Length)
}

// content returns the n bytes from off on as they are after the operation.
func (op Op) content(off, n int64) []byte {
	if op.Kind == Discard {
		return slices.Repeat(op.Disk.base.empty[:1], int(n))
	}
	return op.data[off-op.Off : off-op.Off+n]
}

// Recorder logs what is done to its disks, in one order for all of them.
type Recorder struct {
	// Before, if set, is called before each operation, with its number in the log. If it
	// returns an error, the program gets that error and the operation is not done. Set it
	// before the run.
	Before func(n int, op Op) error

	mu     sync.Mutex
	disks  []*Disk
	log    []Op
	epochs int
	writes int
	flying map[int]bool // writes that were begun and have not returned
}

// Disk is a recorded disk.
type Disk struct {
	name string
	rec  *Recorder
	base *Image
	live *Image
}

// Record returns a recorder with one disk over that image.
func Record(base *Image) (*Recorder, *Disk) {
	r := &Recorder{}
	return r, r.Disk("disk", base)
}

// Disk adds a disk whose content before the first operation is base, which
// cannot be written to any more.
func (r *Recorder) Disk(name string, base *Image) *Disk {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &Disk{name: name, rec: r, base: base, live: base.Overlay()}
	r.disks = append(r.disks, d)
	return d
}

// Log returns what was done so far.
func (r *Recorder) Log() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Epochs returns the number of cuts so far: what is flushed now is there in every state
// whose [State.Epoch] is not smaller.
func (r *Recorder) Epochs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epochs
}

// do logs and carries out one operation.
func (r *Recorder) do(op Op, run func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Before != nil {
		if err := r.Before(len(r.log), op); err != nil {
			return err
		}
	}
	if err := run(); err != nil {
		return err
	}
	r.log = append(r.log, op)
	if op.Kind == Flush || op.through {
		r.epochs++
	}
	return nil
}

// BeginWrite logs a write that takes time. From then on it may be on the disk; only a
// flush that begins after returned was called makes it durable. Writes that overlap
// others in flight are beyond the model.
func (d *Disk) BeginWrite(b []byte, off int64) (returned func(), err error) {
	r := d.rec
	r.mu.Lock()
	r.writes++
	n := r.writes
	if r.flying == nil {
		r.flying = map[int]bool{}
	}
	r.flying[n] = true
	r.mu.Unlock()
	returned = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.flying, n)
	}
	op := Op{Kind: Write, Disk: d, Off: off, Length: int64(len(b)), data: slices.Clone(b), number: n}
	err = r.do(op, func() error {
		_, err := d.live.WriteAt(b, off)
		return err
	})
	if err != nil {
		returned()
		return nil, err
	}
	return returned, nil
}

// BeginFlush begins a flush that takes time: returned logs it. It makes durable what had
// returned when it began.
func (d *Disk) BeginFlush() (returned func() error) {
	r := d.rec
	r.mu.Lock()
	missed, begun := maps.Clone(r.flying), r.writes
	r.mu.Unlock()
	return func() error {
		r.mu.Lock()
		for n := begun + 1; n <= r.writes; n++ {
			if missed == nil {
				missed = map[int]bool{}
			}
			missed[n] = true
		}
		r.mu.Unlock()
		return r.do(Op{Kind: Flush, Disk: d, Length: d.Size(), missed: missed}, func() error { return nil })
	}
}

// Name returns the disk's name.
func (d *Disk) Name() string { return d.name }

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.base.size }

// ReadAt reads what the program has written, flushed or not.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) { return d.live.ReadAt(b, off) }

// WriteAt logs the write. Empty writes are not logged.
func (d *Disk) WriteAt(b []byte, off int64) (int, error) { return d.write(b, off, false) }

// WriteThrough logs a write that is durable by itself, once it is done (FUA). It
// says nothing about the writes before it.
func (d *Disk) WriteThrough(b []byte, off int64) (int, error) { return d.write(b, off, true) }

func (d *Disk) write(b []byte, off int64, through bool) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	op := Op{Kind: Write, Disk: d, Off: off, Length: int64(len(b)), data: slices.Clone(b), through: through}
	err := d.rec.do(op, func() error {
		_, err := d.live.WriteAt(b, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Flush logs the flush.
func (d *Disk) Flush() error { return d.FlushRange(0, d.Size()) }

// FlushRange logs a flush of a part of the disk, like that of a file or a folder: what
// was written elsewhere may still be lost. No write may be partly in the range.
func (d *Disk) FlushRange(off, length int64) error {
	return d.rec.do(Op{Kind: Flush, Disk: d, Off: off, Length: length}, func() error { return nil })
}

// Discard logs the discard of length bytes at off; see the package's model.
func (d *Disk) Discard(off, length int64, _ bool) error {
	if length == 0 {
		return nil
	}
	op := Op{Kind: Discard, Disk: d, Off: off, Length: length}
	return d.rec.do(op, func() error {
		_, err := d.live.WriteAt(op.content(off, length), off)
		return err
	})
}

// Live returns the disk as the program left it: what a killed process leaves. Afterwards
// the recorder can only enumerate.
func (d *Disk) Live() *Image { return d.live.Overlay() }
