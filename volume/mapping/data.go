// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"bytes"
	"context"
	"crypto/aes"

	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
)

// Shown is the result of looking at a volume's data through a key.
type Shown struct {
	// Proved means that a block, at byte At of the volume, is noise as stored but not
	// through the key.
	Proved bool
	At     int64
	// Noise means that something is stored that is noise through the key too.
	Noise bool
}

// lookAhead is how much is read at once, in bytes.
const lookAhead = 256 * header.KiB

// SeeData looks at a volume's first limit bytes through a mapping of its data, until a
// block proves the key: under a wrong key what is stored stays noise. It is possible that
// only a part of the data is under the key; the caller knows about rotations. What cannot
// be read proves nothing.
func SeeData(ctx context.Context, h *header.Header, c *header.Storage, a *Private, limit int64) (s Shown, err error) {
	limit = min(limit, h.Segment.Size)
	stored, clear := make([]byte, lookAhead), make([]byte, lookAhead)
	err = WithDevice(a, false, func(d header.Device) error {
		for at := int64(0); at < limit && !s.Proved; at += lookAhead {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(lookAhead, limit-at)
			if _, err := c.Data.ReadAt(stored[:n], h.Segment.Offset+at); err != nil {
				continue
			}
			if _, err := d.ReadAt(clear[:n], at); err != nil {
				continue
			}
			s.compare(stored[:n], clear[:n], at)
		}
		return nil
	})
	return s, err
}

// SeeAhead looks at the data that is next to be moved, by a record, through the mapping
// of the new side: if it proves the new key, the record is older than the data. Only mode
// Journal with a new key shows that: in mode Gap copies come before their record, and
// nothing proves plain text, to which a journal leads backward. If programs write there
// meanwhile, nothing is proved.
func (k *Stack) SeeAhead(c *header.Storage, r reencrypt.Record) (s Shown) {
	at := r.Position
	if r.Phase == reencrypt.Journaled {
		at += r.Zone // recovery settles it
	}
	n := min(header.MiB, k.Layout.DataSize-at)
	if k.Layout.Mode != reencrypt.Journal || k.Layout.Direction == reencrypt.Backward || n <= 0 {
		return s
	}
	stored, seen, after := make([]byte, n), make([]byte, n), make([]byte, n)
	_ = WithDevice(&Private{K: k.Kernel, Num: k.New}, false, func(d header.Device) error {
		_, err := c.Data.ReadAt(stored, k.Layout.NewOffset+at)
		if err == nil {
			_, err = d.ReadAt(seen, at)
		}
		if err == nil {
			_, err = c.Data.ReadAt(after, k.Layout.NewOffset+at)
		}
		if err == nil && bytes.Equal(stored, after) {
			s.compare(stored, seen, at)
		}
		return err // what cannot be read proves nothing
	})
	return s
}

func (s *Shown) compare(stored, clear []byte, at int64) {
	for i := 0; i+header.BlockAlign <= len(stored); i += header.BlockAlign {
		switch {
		case !Noise(stored[i : i+header.BlockAlign]):
			// Blank, or not encrypted.
		case Noise(clear[i : i+header.BlockAlign]):
			s.Noise = true
		case repeats(stored[i : i+header.BlockAlign]):
			// What repeats as stored is not noise through a wrong key either.
		default:
			s.Proved, s.At = true, at+int64(i)
			return
		}
	}
}

// repeats reports whether a cipher block of 16 bytes is in b more than once. Plaintext
// with a counter that cancels that of the IV makes such sectors; in CBC all of them are.
func repeats(b []byte) bool {
	seen := map[[aes.BlockSize]byte]bool{}
	for i := 0; i+aes.BlockSize <= len(b); i += aes.BlockSize {
		block := [aes.BlockSize]byte(b[i:])
		if seen[block] {
			return true
		}
		seen[block] = true
	}
	return false
}

// Noise reports whether a block looks random: no byte occurs in it four times as often as
// on average. Fewer than one in 10^16 random blocks does not look random.
func Noise(b []byte) bool {
	var count [256]int
	for _, x := range b {
		if count[x]++; count[x] > len(b)/64 {
			return false
		}
	}
	return true
}
