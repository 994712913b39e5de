// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The format, with all numbers little-endian (Linux,
// Documentation/admin-guide/device-mapper/log-writes.rst and
// drivers/md/dm-log-writes.c). The first sector holds {magic, version, number of
// entries: u64; sector size: u32}. Entries follow. Each has a sector with {sector,
// number of sectors, flags, length of the mark: u64} and, for a mark, its text; then,
// except for discards, the data.
const (
	logMagic   = 0x6a736677736872
	logVersion = 1
	headSize   = 28
	entrySize  = 32

	flagFlush    = 1 << 0
	flagFUA      = 1 << 1
	flagDiscard  = 1 << 2
	flagMark     = 1 << 3
	flagMetadata = 1 << 4
	flagsKnown   = flagFlush | flagFUA | flagDiscard | flagMark | flagMetadata
)

// ErrLog is wrapped by every error about bytes that are not a log.
var ErrLog = errors.New("not a log of dm-log-writes")

// Entry is one operation of a log.
type Entry struct {
	Off, Length int64 // in bytes
	// Flush: everything before it is durable when this operation begins.
	Flush bool
	// FUA: this write is durable when it ends.
	FUA bool
	// Discard: there is no data.
	Discard bool
	// Mark is a text that a program put into the log. Such an entry has nothing else.
	Mark string
	// Data is what was written. It is part of the log's own bytes.
	Data []byte
}

func (e Entry) String() string {
	switch {
	case e.Mark != "":
		return fmt.Sprintf("mark %q", e.Mark)
	case e.Discard:
		return fmt.Sprintf("discard %#x+%#x", e.Off, e.Length)
	case e.Length == 0:
		return "flush"
	}
	return fmt.Sprintf("write %#x+%#x flush=%v fua=%v", e.Off, e.Length, e.Flush, e.FUA)
}

// Log is what was done to one disk, in the order of completion.
type Log struct {
	SectorSize int64 // bytes
	Entries    []Entry
}

// Parse reads a log. It ignores entries beyond the number in the first sector, because
// their writer had not finished them. Errors wrap [ErrLog].
func Parse(b []byte) (*Log, error) {
	bad := func(format string, args ...any) (*Log, error) {
		return nil, fmt.Errorf("%w: %s", ErrLog, fmt.Sprintf(format, args...))
	}
	if len(b) < headSize {
		return bad("%d bytes", len(b))
	}
	if m, v := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]); m != logMagic || v != logVersion {
		return bad("magic %#x, version %d", m, v)
	}
	count := binary.LittleEndian.Uint64(b[16:])
	size := int64(binary.LittleEndian.Uint32(b[24:]))
	if size < 512 || size > 1<<16 || size&(size-1) != 0 {
		return bad("sectors of %d bytes", size)
	}
	if int64(len(b)) < size {
		return bad("%d bytes", len(b))
	}
	l := &Log{SectorSize: size}
	rest := b[size:]
	for n := range count {
		if int64(len(rest)) < size {
			return bad("%d entries, where there should be %d", n, count)
		}
		e, length, err := parseEntry(rest[:size], size)
		if err != nil {
			return bad("entry %d: %v", n, err)
		}
		rest = rest[size:]
		if int64(len(rest)) < length {
			return bad("entry %d: %d bytes of data of %d", n, len(rest), length)
		}
		if length > 0 {
			e.Data = rest[:length:length]
		}
		l.Entries = append(l.Entries, e)
		rest = rest[length:]
	}
	return l, nil
}

// parseEntry reads an entry's own sector, and returns the number of bytes of data that
// follow it.
func parseEntry(b []byte, size int64) (e Entry, length int64, err error) {
	at, n := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	flags, mark := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	if flags&^flagsKnown != 0 {
		return e, 0, fmt.Errorf("flags %#x", flags)
	}
	if flags&flagMark != 0 {
		if mark > uint64(size-entrySize) || n != 0 {
			return e, 0, fmt.Errorf("a mark of %d bytes and %d sectors", mark, n)
		}
		e.Mark = string(bytes.TrimRight(b[entrySize:entrySize+mark], "\x00"))
		if e.Mark == "" {
			return e, 0, errors.New("a mark without a text")
		}
		return e, 0, nil
	}
	// Far more than any disk has, and small enough to prevent overflow.
	const limit = 1 << 40
	if at > limit || n > limit {
		return e, 0, fmt.Errorf("%d sectors at %d", n, at)
	}
	e = Entry{
		Off: int64(at) * size, Length: int64(n) * size,
		Flush: flags&flagFlush != 0, FUA: flags&flagFUA != 0, Discard: flags&flagDiscard != 0,
	}
	if e.Discard {
		return e, 0, nil
	}
	return e, e.Length, nil
}
