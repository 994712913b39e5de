// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/blank"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
)

// seamSample is how many bytes of a volume are searched for seams.
const seamSample = 1 << 20

// seamless distinguishes the right sector size and IV mode from wrong ones when a
// superblock cannot: in CBC only the first 16 bytes of a sector depend on them, so a
// superblock that is wholly inside a sector shows nothing.
//
// Much of a filesystem is zeros. If the bytes after a possible sector boundary are zero,
// the bytes at the boundary usually are, too. Decrypted with the preceding ciphertext or
// an encrypted number as the IV, they are noise; with another plain number, they are the
// difference of the two numbers. Each spacing of boundaries is checked separately.
func seamless(d header.Device, r recipe) error {
	sample := make([]byte, min(seamSample, d.Size()))
	if _, err := d.ReadAt(sample, 0); err != nil {
		return err
	}
	if !strings.Contains(r.cipher, "cbc") {
		return structured(sample)
	}
	const iv = 16
	zero, odd := map[int]int{}, map[int]int{}
	for at := 0; at+header.SectorBytes <= len(sample); at += header.SectorBytes {
		spacing := at & -at // the largest power of two that divides at
		if at == 0 || spacing > header.BlockAlign {
			spacing = header.BlockAlign
		}
		head := sample[at : at+iv]
		switch {
		case !blank.Zero(sample[at+iv : at+8*iv]):
		case blank.Zero(head):
			zero[spacing]++
		case distinct(head) >= iv/2 || r.misnumbered(head, at):
			odd[spacing]++
		}
	}
	for spacing, n := range odd {
		if n > zero[spacing] {
			return fmt.Errorf("a superblock was found, but the data is broken every %d bytes: the sector size or the IV mode is wrong", spacing)
		}
	}
	return nil
}

// structured is seamless for ciphers in which the whole sector depends on its number and
// size: a superblock in the first sector shows nothing about the others, and a sector
// decrypted with another number is noise. Filesystems have zeros in the first MiB, in
// each 512-byte piece of the largest sector; with a wrong size only some of these pieces
// are right.
func structured(sample []byte) error {
	const run = 64 // noise never has this many zeros in a row
	var right [header.BlockAlign / header.SectorBytes]bool
	for at := header.BlockAlign; at+run <= len(sample); at += run {
		if blank.Zero(sample[at : at+run]) {
			right[at%header.BlockAlign/header.SectorBytes] = true
		}
	}
	if slices.Contains(right[:], false) {
		return errors.New("a superblock was found, but only noise after it: the sector size, or the numbering of the sectors, is wrong")
	}
	return nil
}

// misnumbered reports whether the head of a sector is what zeros become under r
// if the sectors were numbered the other way (iv_large_sectors).
func (r recipe) misnumbered(head []byte, at int) bool {
	if r.sectorSize == header.SectorBytes || at%r.sectorSize != 0 {
		return false
	}
	var difference [16]byte
	binary.LittleEndian.PutUint64(difference[:], uint64(at/header.SectorBytes)^uint64(at/r.sectorSize))
	return bytes.Equal(head, difference[:])
}

// distinct counts the different values in b.
func distinct(b []byte) int {
	seen := map[byte]bool{}
	for _, c := range b {
		seen[c] = true
	}
	return len(seen)
}

// candidate is one guess at how a volume was made.
type candidate struct {
	recipe
	note string
}

// candidates returns the recipes that people use, for the given offset and size. plain
// and plain64 are the same below 2 TiB, so one of them is enough; beyond that, the bytes
// that are examined do not distinguish them.
func candidates(keys string, given recipe, deviceSize int64) []candidate {
	var list []candidate
	for _, c := range keysource.Ciphers(keys) {
		if strings.HasSuffix(c.Name, "-plain") || !slices.Contains(c.KeySizes, given.sealedSize) {
			continue
		}
		cipher := c.Name
		if cipher == keysource.CBC || strings.HasSuffix(cipher, "cbc(aes))-plain64") {
			other := "or -plain, which is the same below 2 TiB"
			if (recipe{cipher: cipher, size: given.size}).wraps() {
				other = "or -plain: here they differ, and only how the volume is opened today shows which it is"
			}
			cipher += " (" + other + ")"
		}
		for _, size := range keysource.SectorSizes() {
			for _, large := range []bool{false, true} {
				r := recipe{cipher: c.Name, sectorSize: size, offset: given.offset, size: given.size, large: large}.fit()
				// eboiv is never mapped with smaller sectors: see dmcrypt.
				if large && size == header.SectorBytes || !keysource.FitsSector(c.Name, size) || r.size <= 0 || r.offset+r.size > deviceSize {
					continue
				}
				note := fmt.Sprintf("cipher %s, sector size %d", cipher, size)
				if large {
					note += ", iv_large_sectors"
				}
				list = append(list, candidate{r, note})
			}
		}
	}
	return list
}

// guess tries other parameters, read-only. Its error says which of them fit. cause is the
// error with the given ones.
func (a *adopting) guess(ctx context.Context, h *header.Header, key source.Key, cause error) error {
	if !noFilesystem(cause) {
		return cause
	}
	given := fmt.Sprintf("with cipher %s and sector size %d no valid filesystem was found on %s from byte %d",
		a.recipe.cipher, a.recipe.sectorSize, a.data.Path(), a.recipe.offset)
	a.recipe.sealedSize = a.sealed.keySize
	for _, c := range candidates(a.s.Keys(), a.recipe, a.data.Size()) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.TrimSuffix(c.cipher, "64") == strings.TrimSuffix(a.recipe.cipher, "64") && c.sectorSize == a.recipe.sectorSize && c.large == a.recipe.large {
			continue
		}
		sb, err := a.look(ctx, h, key, c.recipe)
		if err != nil && !noFilesystem(err) {
			return errors.Join(cause, err)
		}
		if err != nil {
			continue
		}
		found := fmt.Sprintf("%s; it fits with %s: %s filesystem, label %q, uuid %q", given, c.note, sb.Type, sb.Label, sb.UUID)
		if c.large {
			found += "; " + largeReason
		}
		return fault.New(fault.AdoptMismatch, found, cause)
	}
	return fault.New(fault.AdoptMismatch, given+", nor with the other ciphers of source "+a.s.Source+" and sectors of 512 to 4096 bytes: the blob opens on this chip, but it is not this data's, or the data begins elsewhere", cause)
}

// noFilesystem reports whether err means that the device shows no filesystem, rather than
// that it cannot be read or mapped.
func noFilesystem(err error) bool {
	var errno unix.Errno
	return !errors.As(err, &errno) && fault.CodeOf(err) != fault.IOFailed
}
