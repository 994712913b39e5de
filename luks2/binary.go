// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"slices"

	"imxcrypt/internal/blank"
)

// The binary header (specification, section 2.1), all numbers big-endian.
const (
	binarySize = 4096 // bytes; the JSON area follows
	sectorSize = 512  // bytes: device-mapper's unit
	maxSector  = 4096 // bytes: dm-crypt's largest
	headerUsed = 512  // bytes of the binary header that have a meaning

	offMagic     = 0x000
	offVersion   = 0x006
	offSize      = 0x008 // of the copy, including the JSON area
	offSeqID     = 0x010
	offLabel     = 0x018
	offAlgorithm = 0x048
	offSalt      = 0x068
	offUUID      = 0x0a8
	offSubsystem = 0x0d0
	offOffset    = 0x100 // of the copy on its device
	offPadding   = 0x108
	offChecksum  = 0x1c0

	lenLabel     = 48
	lenAlgorithm = 32
	lenSalt      = 64
	lenUUID      = 40
	lenChecksum  = 64

	magicPrimary   = "LUKS\xba\xbe"
	magicSecondary = "SKUL\xba\xbe"
	algorithm      = "sha256"
	version        = 2
)

// MaxLabel is the maximum length in bytes of a label or subsystem.
const MaxLabel = lenLabel - 1

// headerSizes are the sizes in bytes that one copy may have. The second copy is right
// behind the first, so they are also the places to look for it.
var headerSizes = [...]int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}

// binaryHeader is what the first 4096 bytes of a copy say.
type binaryHeader struct {
	size             int64
	seqID            uint64
	label, subsystem string
	uuid             string
	salt             [lenSalt]byte
}

func magicOf(secondary bool) string {
	if secondary {
		return magicSecondary
	}
	return magicPrimary
}

// copySize checks as much of a binary header as is necessary before its JSON area is
// read, and returns the size of the copy. bin has at least 512 bytes.
func copySize(bin []byte, offset int64) (int64, error) {
	if string(bin[:6]) != magicOf(offset != 0) {
		return 0, invalid(RuleMagic, "no magic number at byte %d", offset)
	}
	if v := binary.BigEndian.Uint16(bin[offVersion:]); v != version {
		return 0, &VersionError{Version: v}
	}
	if at := binary.BigEndian.Uint64(bin[offOffset:]); at != uint64(offset) {
		return 0, invalid(RuleHeaderOffset, "the copy at byte %d says it lies at %d", offset, at)
	}
	size := binary.BigEndian.Uint64(bin[offSize:])
	if size > 1<<62 || !slices.Contains(headerSizes[:], int64(size)) || (offset != 0 && int64(size) != offset) {
		return 0, invalid(RuleHeaderSize, "the copy at byte %d says it has %d bytes", offset, size)
	}
	return int64(size), nil
}

// verify checks a whole copy's checksum.
func verify(buf []byte) error {
	field := buf[offAlgorithm : offAlgorithm+lenAlgorithm]
	if name, ok := textField(field); !ok || name != algorithm {
		return invalid(RuleChecksumAlgorithm, "checksum algorithm %q", bytes.TrimRight(field, "\x00"))
	}
	sum := checksum(buf)
	if subtle.ConstantTimeCompare(sum[:], buf[offChecksum:offChecksum+len(sum)]) != 1 {
		return invalid(RuleChecksum, "the checksum does not fit")
	}
	return nil
}

// checksum returns the checksum of a copy with its checksum field taken as zero.
func checksum(buf []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(buf[:offChecksum])
	h.Write(make([]byte, lenChecksum))
	h.Write(buf[offChecksum+lenChecksum:])
	h.Sum(sum[:0])
	return sum
}

// onlyVersionDamaged reports whether a copy of another version is one of ours with
// flipped bits in its version field: with the version corrected its checksum matches.
// This distinguishes damage from a LUKS1 header, or a future one, that was made where an
// old second copy still is.
func onlyVersionDamaged(buf []byte) bool {
	fixed := slices.Clone(buf)
	binary.BigEndian.PutUint16(fixed[offVersion:], version)
	return verify(fixed) == nil
}

// parseBinary validates the content of a binary header whose checksum matches.
func parseBinary(bin []byte) (binaryHeader, error) {
	h := binaryHeader{
		size:  int64(binary.BigEndian.Uint64(bin[offSize:])),
		seqID: binary.BigEndian.Uint64(bin[offSeqID:]),
		salt:  [lenSalt]byte(bin[offSalt : offSalt+lenSalt]),
	}
	for _, f := range []struct {
		name     string
		off, len int
		to       *string
	}{
		{"label", offLabel, lenLabel, &h.label},
		{"subsystem", offSubsystem, lenLabel, &h.subsystem},
		{"UUID", offUUID, lenUUID, &h.uuid},
	} {
		text, ok := textField(bin[f.off : f.off+f.len])
		if !ok {
			return h, invalid(RuleText, "%s is not a terminated text: %q", f.name, bin[f.off:f.off+f.len])
		}
		*f.to = text
	}
	if !validUUID(h.uuid) {
		return h, invalid(RuleUUID, "%q is not a UUID", h.uuid)
	}
	if !blank.Zero(bin[offPadding:offChecksum]) || !blank.Zero(bin[headerUsed:binarySize]) ||
		!blank.Zero(bin[offChecksum+sha256.Size:offChecksum+lenChecksum]) {
		return h, invalid(RulePadding, "unused bytes of the binary header are not zero")
	}
	return h, nil
}

// textField returns a field's text up to the zero byte. It is not ok if there is none, or
// if something follows it.
func textField(field []byte) (string, bool) {
	text, rest, found := bytes.Cut(field, []byte{0})
	return string(text), found && blank.Zero(rest)
}

// ValidUUID reports whether s has the form of a header's UUID: 8-4-4-4-12 hexadecimal
// digits.
func ValidUUID(s string) bool { return validUUID(s) }

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// encodeCopy builds one whole copy, including the checksum.
func encodeCopy(h binaryHeader, text []byte, secondary bool) []byte {
	buf := make([]byte, h.size)
	copy(buf[offMagic:], magicOf(secondary))
	binary.BigEndian.PutUint16(buf[offVersion:], version)
	binary.BigEndian.PutUint64(buf[offSize:], uint64(h.size))
	binary.BigEndian.PutUint64(buf[offSeqID:], h.seqID)
	copy(buf[offLabel:], h.label)
	copy(buf[offAlgorithm:], algorithm)
	copy(buf[offSalt:], h.salt[:])
	copy(buf[offUUID:], h.uuid)
	copy(buf[offSubsystem:], h.subsystem)
	if secondary {
		binary.BigEndian.PutUint64(buf[offOffset:], uint64(h.size))
	}
	copy(buf[binarySize:], text)
	sum := checksum(buf)
	copy(buf[offChecksum:], sum[:])
	return buf
}
