// SPDX-License-Identifier: Apache-2.0

package blockdev

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sort"

	"imxcrypt/internal/blank"
)

const (
	// edge is how much is read completely at either end: headers, tables, backups of both
	// and the superblocks of all filesystems in use are there.
	edge = 1 << 20
	// sampleBlock is the size of one sample, the page that filesystems and
	// dm-crypt volumes are written in.
	sampleBlock = 4096
	// samples is the number of samples taken in even steps, and again at pseudo-random
	// places: data that repeats with a period (block groups, stripes) can escape the
	// first, but not both.
	samples = 1024
	// wholeBelow is the size up to which everything is read: in runs of a MiB that takes
	// no longer than the samples, each of which is a request.
	wholeBelow = 64 << 20
)

// Emptiness is the result of sampling a device.
type Emptiness struct {
	// Empty means that all bytes that were read have one value, 0x00 or 0xFF.
	Empty bool
	// Fill is the value that the device is filled with, as far as found.
	Fill byte
	// Offset in bytes of the first byte found that is not Fill, and its Value; both are
	// meaningless if Empty.
	Offset int64
	Value  byte
	// Read is the number of bytes that were read.
	Read int64
}

func (e Emptiness) String() string {
	if e.Empty {
		return fmt.Sprintf("empty: %d bytes sampled, all 0x%02x", e.Read, e.Fill)
	}
	return fmt.Sprintf("not empty: 0x%02x at byte %d", e.Value, e.Offset)
}

// Sample reports whether a device of size bytes is empty: the first and last MiB and
// some 2000 blocks spread over the rest are all 0x00, or all 0xFF. The absence of a
// known signature would prove nothing: a plain dm-crypt volume has none. The blocks
// depend only on the size, so results are reproducible.
func Sample(r io.ReaderAt, size int64) (Emptiness, error) { return SampleFrom(r, 0, size) }

// SampleFrom is Sample without the first from bytes, for a caller that recognised its own
// earlier, interrupted run there.
func SampleFrom(r io.ReaderAt, from, size int64) (Emptiness, error) {
	e := Emptiness{Empty: true}
	if from < 0 || size < 0 {
		return Emptiness{}, fmt.Errorf("sample from %d to %d: %w", from, size, ErrRange)
	}
	if from >= size {
		return e, nil
	}
	buf := make([]byte, edge)
	if size-from <= wholeBelow {
		if err := e.scan(r, buf, from, size); err != nil {
			return Emptiness{}, err
		}
		return e, nil
	}
	for _, run := range sampleRuns(from, size) {
		if err := e.scan(r, buf, run[0], run[1]); err != nil {
			return Emptiness{}, err
		}
		if !e.Empty {
			return e, nil
		}
	}
	return e, nil
}

// sampleRuns returns the ranges to read, [start, end), in ascending order.
func sampleRuns(from, size int64) [][2]int64 {
	lo, hi := from+edge, size-edge-sampleBlock
	rng := rand.New(rand.NewPCG(uint64(size), uint64(from)))
	starts := make([]int64, 0, 2*samples)
	for i := range int64(samples) {
		starts = append(starts, lo+(hi-lo)/samples*i, lo+rng.Int64N(hi-lo))
	}
	for i := range starts {
		starts[i] -= starts[i] % sampleBlock
	}
	sort.Slice(starts, func(i, j int) bool { return starts[i] < starts[j] })
	starts = slices.Compact(starts)
	runs := [][2]int64{{from, from + edge}}
	for _, s := range starts {
		runs = append(runs, [2]int64{s, s + sampleBlock})
	}
	return append(runs, [2]int64{size - edge, size})
}

// scan examines the bytes from..to. The first byte ever examined decides between 0x00 and
// 0xFF.
func (e *Emptiness) scan(r io.ReaderAt, buf []byte, from, to int64) error {
	for from < to {
		p := buf[:min(to-from, int64(len(buf)))]
		n, err := r.ReadAt(p, from)
		if n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("sample %d bytes at %d: %w", len(p), from, err)
		}
		if e.Read == 0 {
			e.Fill = p[0]
			if p[0] != 0x00 && p[0] != 0xff {
				e.Fill = 0x00
			}
		}
		e.Read += int64(len(p))
		if i := firstOther(p, e.Fill); i >= 0 {
			e.Empty, e.Offset, e.Value = false, from+int64(i), p[i]
			return nil
		}
		from += int64(len(p))
	}
	return nil
}

// firstOther returns the index of the first byte of p that is not fill, or -1.
func firstOther(p []byte, fill byte) int {
	if blank.Filled(p, fill) { // the case that must be fast
		return -1
	}
	for i, b := range p {
		if b != fill {
			return i
		}
	}
	return -1
}

// Zero overwrites the bytes from..to with zeros.
func Zero(ctx context.Context, w io.WriterAt, from, to int64) error {
	zeros := make([]byte, 256<<10)
	for at := from; at < to; at += int64(len(zeros)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.WriteAt(zeros[:min(int64(len(zeros)), to-at)], at); err != nil {
			return err
		}
	}
	return nil
}
