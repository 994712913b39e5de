// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Copy is a copy of a filesystem's metadata, with holes in place of the data, that is
// going to be resized.
type Copy struct {
	file   File
	super  Super
	before map[int64][sha256.Size]byte // of the blocks that are not zeros
	free   blockSet
}

// File is the file that a copy is in.
type File interface {
	io.ReaderAt
	Fd() uintptr
}

// blockSet has one bit per block.
type blockSet []uint64

func newBlockSet(blocks int64) blockSet { return make(blockSet, blocks/64+1) }

func (s blockSet) has(b int64) bool { return s[b/64]&(1<<(b%64)) != 0 }

// add adds the blocks from first to last, as far as the set has room for them.
func (s blockSet) add(first, last int64) {
	for b := first; b <= last && b/64 < int64(len(s)); b++ {
		s[b/64] |= 1 << (b % 64)
	}
}

// parseRun reads "12-34" or "56".
func parseRun(word string) (first, last int64, ok bool) {
	from, to, isRange := strings.Cut(word, "-")
	if !isRange {
		to = from
	}
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	return first, last, err == nil && err2 == nil && first >= 0 && last >= first
}

// freeBlocks reads what dumpe2fs says about the groups: lines "Free blocks: 12-34, 56".
func freeBlocks(output []byte, blocks int64) (blockSet, error) {
	s, lines := newBlockSet(blocks), 0
	for _, line := range strings.Split(string(output), "\n") {
		list, ok := strings.CutPrefix(line, "  Free blocks:")
		if !ok {
			continue
		}
		lines++
		for _, word := range strings.Split(strings.TrimSpace(list), ", ") {
			if word == "" {
				continue
			}
			first, last, ok := parseRun(word)
			if !ok || last >= blocks {
				return nil, fmt.Errorf("dumpe2fs says %q of a filesystem of %d blocks", word, blocks)
			}
			s.add(first, last)
		}
	}
	if lines == 0 {
		return nil, errors.New("dumpe2fs names no free blocks")
	}
	return s, nil
}

// Backups returns where, according to dumpe2fs, superblocks, group descriptors and the
// blocks reserved for them are: the first and last block of each run. e2image leaves out
// the backups, and resize2fs writes them.
func Backups(output []byte) (runs [][2]int64) {
	for _, line := range strings.Split(string(output), "\n") {
		for _, what := range []string{"superblock at ", "Group descriptors at ", "Reserved GDT blocks at "} {
			if _, rest, found := strings.Cut(line, what); found {
				word, _, _ := strings.Cut(rest, ",")
				if first, last, ok := parseRun(strings.TrimSpace(word)); ok {
					runs = append(runs, [2]int64{first, last})
				}
			}
		}
	}
	return runs
}

// NewCopy examines a copy before it is resized. dumped is what dumpe2fs says about it.
func NewCopy(file File, dumped []byte) (c *Copy, err error) {
	c = &Copy{file: file, before: map[int64][sha256.Size]byte{}}
	if c.super, err = ReadSuper(file); err != nil {
		return nil, err
	}
	if c.free, err = freeBlocks(dumped, c.super.Blocks); err != nil {
		return nil, err
	}
	zeros, block := make([]byte, c.super.Block), make([]byte, c.super.Block)
	data, err := c.data(c.super.Blocks)
	if err != nil {
		return nil, err
	}
	for b := range c.super.Blocks {
		if !data.has(b) {
			continue
		}
		if _, err := file.ReadAt(block, b*c.super.Block); err != nil {
			return nil, err
		}
		if !bytes.Equal(block, zeros) {
			c.before[b] = sha256.Sum256(block)
		}
	}
	return c, nil
}

// data returns the blocks of the file that are not holes.
func (c *Copy) data(blocks int64) (blockSet, error) {
	s, end := newBlockSet(blocks), blocks*c.super.Block
	for at := int64(0); at < end; {
		from, err := unix.Seek(int(c.file.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			return s, nil
		case err != nil:
			return nil, fmt.Errorf("find the holes of the copy: %w", err)
		}
		to, err := unix.Seek(int(c.file.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find the holes of the copy: %w", err)
		}
		s.add(from/c.super.Block, (min(to, end)-1)/c.super.Block)
		at = to
	}
	return s, nil
}

// Moved checks that resize2fs has moved only what was copied: the blocks from copied on,
// and metadata. output is what it wrote with -d 2.
func Moved(output []byte, copied int64) error {
	for _, line := range strings.Split(string(output), "\n") {
		// "Moving 3 blocks 95->20"
		_, blocks, found := strings.Cut(line, " blocks ")
		if !found || !strings.HasPrefix(line, "Moving ") {
			continue
		}
		from, _, _ := strings.Cut(blocks, "->")
		if at, _, ok := parseRun(from); !ok || at < copied {
			return fmt.Errorf("resize2fs would move what did not have to move: %s", line)
		}
	}
	return nil
}

// Log returns the difference that resizing has made, for the device of size bytes that
// the copy was made from. dumped is what dumpe2fs says about the copy now. The blocks
// from the new end on must have been copied.
func (c *Copy) Log(dev io.ReaderAt, size int64, dumped []byte) (*Log, error) {
	now, err := ReadSuper(c.file)
	if err != nil {
		return nil, err
	}
	if now.Blocks >= c.super.Blocks || now.Block != c.super.Block || now.UUID != c.super.UUID {
		return nil, fmt.Errorf("resize2fs has left %d blocks of %d", now.Blocks, c.super.Blocks)
	}
	free, err := freeBlocks(dumped, now.Blocks)
	if err != nil {
		return nil, err
	}
	data, err := c.data(now.Blocks)
	if err != nil {
		return nil, err
	}
	l := &Log{Block: now.Block, Device: size, OldBlocks: c.super.Blocks, Blocks: now.Blocks, UUID: now.UUID}
	after, was := make([]byte, now.Block), make([]byte, now.Block)
	nothing := sha256.Sum256(was)
	for b := range now.Blocks {
		before, known := c.before[b]
		freed, taken := !c.free.has(b) && free.has(b), c.free.has(b) && !free.has(b)
		if !known && !data.has(b) && !freed && !taken || c.free.has(b) && free.has(b) {
			continue
		}
		if !known {
			before = nothing
		}
		if _, err := c.file.ReadAt(after, b*now.Block); err != nil {
			return nil, err
		}
		changed := sha256.Sum256(after) != before
		if !changed && !freed && !taken {
			continue
		}
		if _, err := dev.ReadAt(was, b*now.Block); err != nil {
			return nil, err
		}
		// What resizing has read must be what the device holds: of data, the copy has
		// only zeros.
		if !taken && sha256.Sum256(was) != before {
			return nil, fmt.Errorf("resize2fs has used block %d, of which there is no copy", b)
		}
		if !freed && !bytes.Equal(was, after) {
			l.add(b, after)
		}
	}
	if l.block(superOffset/l.Block) == nil {
		return nil, errors.New("resize2fs has not changed the superblock")
	}
	return l, nil
}
