// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
)

// Log is what makes a filesystem smaller: the blocks that get new content. Its stored
// form, with little-endian numbers:
//
//	 0  16  "IMXCRYPT-RESIZE\0"
//	16   4  version 1
//	20   4  size of a block in bytes: 1024, 2048 or 4096
//	24   8  size of the device in bytes
//	32   8  blocks that the filesystem has
//	40   8  blocks that it is going to have
//	48  16  UUID of the filesystem
//	64   8  number of runs
//	72      runs, in ascending order: first block (8), number of blocks (8), the blocks
//	    32  SHA-256 of all before
type Log struct {
	Block, Device     int64
	OldBlocks, Blocks int64
	UUID              [16]byte
	runs              []run
}

// run is a run of consecutive blocks.
type run struct {
	first int64
	data  []byte
}

const (
	logMagic   = "IMXCRYPT-RESIZE\x00"
	logVersion = 1
	logHead    = 72
	runHead    = 16
	// MaxLog is the largest log in bytes that is read.
	MaxLog = 512 << 20
)

// add appends a block to those that are there.
func (l *Log) add(b int64, data []byte) {
	if n := len(l.runs); n > 0 {
		if r := &l.runs[n-1]; r.first+int64(len(r.data))/l.Block == b {
			r.data = append(r.data, data...)
			return
		}
	}
	l.runs = append(l.runs, run{b, bytes.Clone(data)})
}

// Bytes returns how many bytes of the filesystem get new content.
func (l *Log) Bytes() (n int64) {
	for _, r := range l.runs {
		n += int64(len(r.data))
	}
	return n
}

// Encode returns the log as it is stored.
func (l *Log) Encode() []byte {
	b := make([]byte, logHead, int64(logHead+sha256.Size+runHead*len(l.runs))+l.Bytes())
	copy(b, logMagic)
	le.PutUint32(b[16:], logVersion)
	le.PutUint32(b[20:], uint32(l.Block))
	for i, n := range []int64{l.Device, l.OldBlocks, l.Blocks} {
		le.PutUint64(b[24+8*i:], uint64(n))
	}
	copy(b[48:], l.UUID[:])
	le.PutUint64(b[64:], uint64(len(l.runs)))
	for _, r := range l.runs {
		b = le.AppendUint64(b, uint64(r.first))
		b = le.AppendUint64(b, uint64(int64(len(r.data))/l.Block))
		b = append(b, r.data...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Decode reads a log. What it returns refers to b.
func Decode(b []byte) (*Log, error) {
	if len(b) < logHead+sha256.Size || !bytes.HasPrefix(b, []byte(logMagic)) {
		return nil, fmt.Errorf("no log of a filesystem made smaller")
	}
	b, stored := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(b); !bytes.Equal(sum[:], stored) {
		return nil, fmt.Errorf("the log is damaged")
	}
	if v := le.Uint32(b[16:]); v != logVersion {
		return nil, fmt.Errorf("the log is of version %d: use a newer imxcrypt", v)
	}
	number := func(at int) int64 { return int64(min(le.Uint64(b[at:]), math.MaxInt64)) }
	l := &Log{Block: int64(le.Uint32(b[20:])), Device: number(24), OldBlocks: number(32), Blocks: number(40), UUID: [16]byte(b[48:64])}
	bad := func(what string) (*Log, error) { return nil, fmt.Errorf("the log makes no sense: %s", what) }
	switch {
	case l.Block != 1024 && l.Block != 2048 && l.Block != 4096:
		return bad("size of a block")
	case l.OldBlocks > l.Device/l.Block || l.Blocks >= l.OldBlocks || l.Blocks <= 0:
		return bad("size of the filesystem")
	}
	count, next, rest := number(64), int64(0), b[logHead:]
	for ; count > 0; count-- {
		if len(rest) < runHead {
			return bad("number of runs")
		}
		first, n := int64(le.Uint64(rest)), int64(le.Uint64(rest[8:]))
		rest = rest[runHead:]
		if first < next || first >= l.Blocks || n <= 0 || n > l.Blocks-first || n > int64(len(rest))/l.Block {
			return bad("place of a run")
		}
		l.runs = append(l.runs, run{first, rest[:n*l.Block]})
		next, rest = first+n, rest[n*l.Block:]
	}
	if len(rest) > 0 {
		return bad("bytes behind the last run")
	}
	super := l.block(superOffset / l.Block)
	if super == nil {
		return bad("no superblock")
	}
	if s, err := parseSuper(super[superOffset%l.Block:]); err != nil || s.Block != l.Block || s.Blocks != l.Blocks || s.UUID != l.UUID {
		return bad("the superblock is another one")
	}
	return l, nil
}

// block returns the new content of a block, or nil if the block keeps its own.
func (l *Log) block(b int64) []byte {
	for _, r := range l.runs {
		if at := (b - r.first) * l.Block; at >= 0 && at < int64(len(r.data)) {
			return r.data[at : at+l.Block]
		}
	}
	return nil
}
