// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
)

// Device is what a filesystem is on. A write is durable after Flush.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Flush() error
	Size() int64
}

// Begin writes the mark to a device that nothing else uses and that is still what the log
// was made from. stored is the log as it is in the file path, durably. From here on, only
// [Finish] makes the device a filesystem again.
func Begin(dev Device, stored []byte, path string) (Mark, error) {
	l, err := Decode(stored)
	if err != nil {
		return Mark{}, err
	}
	m := Mark{Log: sha256.Sum256(stored), Size: int64(len(stored)), Path: path}
	s, err := ReadSuper(dev)
	switch {
	case err != nil:
		return m, err
	case len(path) > MaxPath:
		return m, fmt.Errorf("the path of the log is longer than %d bytes: %q", MaxPath, path)
	case dev.Size() != l.Device || s.UUID != l.UUID || s.Block != l.Block || s.Blocks != l.OldBlocks:
		return m, fmt.Errorf("the device holds another filesystem than the log was made for")
	}
	return m, l.super(dev, nil, m.encode())
}

// Finish writes the log that the mark on the device names. It may be repeated.
func Finish(dev Device, m Mark, stored []byte) error {
	l, err := Decode(stored)
	switch {
	case err != nil:
		return err
	case !m.Names(stored):
		return fmt.Errorf("the log is not the one that is being written")
	case dev.Size() < l.OldBlocks*l.Block: // it may have grown, beyond everything that is written
		return fmt.Errorf("the device has %d bytes, and had %d when the log was made", dev.Size(), l.Device)
	}
	// The mark may be only in a cache.
	if err := dev.Flush(); err != nil {
		return err
	}
	mark, at := m.encode(), superOffset/l.Block
	for _, r := range l.runs {
		data := r.data
		if b := at - r.first; b >= 0 && b*l.Block < int64(len(data)) {
			data = bytes.Clone(data)
			copy(data[b*l.Block+superOffset%l.Block:], mark)
		}
		if _, err := dev.WriteAt(data, r.first*l.Block); err != nil {
			return err
		}
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	if err := l.compare(dev, mark); err != nil {
		return err
	}
	return l.super(dev, l.block(at), nil)
}

// compare reads back what was written, with the mark instead of the superblock's first
// sector: as long as the mark is there, the log can be written again.
func (l *Log) compare(dev Device, mark []byte) error {
	for _, r := range l.runs {
		b := make([]byte, len(r.data))
		if _, err := dev.ReadAt(b, r.first*l.Block); err != nil {
			return err
		}
		if at := superOffset - r.first*l.Block; at >= 0 && at < int64(len(b)) {
			if !bytes.Equal(b[at:at+markSize], mark) {
				return fmt.Errorf("byte %d does not read back as it was written", superOffset)
			}
			copy(b[at:at+markSize], r.data[at:])
		}
		if !bytes.Equal(b, r.data) {
			return fmt.Errorf("the %d bytes at byte %d do not read back as they were written", len(b), r.first*l.Block)
		}
	}
	return nil
}

// super writes the block with the superblock, durably: block, or the one on the device if
// block is nil, with first as the superblock's first sector. Only that sector differs
// from what is on the device, so the change is there or not.
func (l *Log) super(dev Device, block, first []byte) error {
	at := superOffset / l.Block * l.Block
	if block == nil {
		block = make([]byte, l.Block)
		if _, err := dev.ReadAt(block, at); err != nil {
			return err
		}
	}
	copy(block[superOffset-at:], first)
	if _, err := dev.WriteAt(block, at); err != nil {
		return err
	}
	return dev.Flush()
}
