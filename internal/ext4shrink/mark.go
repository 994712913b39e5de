// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"bytes"
	"crypto/sha256"
	"io"
)

// Mark is in place of the superblock's start while a log is written: one sector, at byte
// 1024 of the device, with little-endian numbers:
//
//	  0  16  "IMXCRYPT-SHRINK\0"
//	 16   4  version 1
//	 20  44  zeros: here the magic numbers of ext4 and others would be
//	 64  32  SHA-256 of the log as it is stored
//	 96   8  its size in bytes
//	104   2  length of the path of its file
//	106      that path
//	480  32  SHA-256 of bytes 0 to 479
type Mark struct {
	Log  [sha256.Size]byte
	Size int64
	Path string
}

const (
	markMagic   = "IMXCRYPT-SHRINK\x00"
	markVersion = 1
	markSize    = 512
	markSum     = 480
	// MaxPath is how long the path of a log may be.
	MaxPath = markSum - 106
)

func (m Mark) encode() []byte {
	b := make([]byte, markSize)
	copy(b, markMagic)
	le.PutUint32(b[16:], markVersion)
	copy(b[64:], m.Log[:])
	le.PutUint64(b[96:], uint64(m.Size))
	le.PutUint16(b[104:], uint16(len(m.Path)))
	copy(b[106:markSum], m.Path)
	sum := sha256.Sum256(b[:markSum])
	copy(b[markSum:], sum[:])
	return b
}

// FindMark reports whether a log is being written to the device.
func FindMark(dev io.ReaderAt) (m Mark, found bool, err error) {
	b := make([]byte, markSize)
	if _, err := dev.ReadAt(b, superOffset); err != nil {
		return m, false, err
	}
	m, found = parseMark(b)
	return m, found, nil
}

func parseMark(b []byte) (m Mark, ok bool) {
	sum := sha256.Sum256(b[:markSum])
	length := int(le.Uint16(b[104:]))
	if !bytes.HasPrefix(b, []byte(markMagic)) || le.Uint32(b[16:]) != markVersion || !bytes.Equal(sum[:], b[markSum:markSize]) || length > MaxPath {
		return m, false
	}
	return Mark{Log: [sha256.Size]byte(b[64:]), Size: int64(le.Uint64(b[96:])), Path: string(b[106 : 106+length])}, true
}

// Names reports whether b is the log that is being written.
func (m Mark) Names(b []byte) bool { return int64(len(b)) == m.Size && sha256.Sum256(b) == m.Log }
