// SPDX-License-Identifier: Apache-2.0

// Package header handles what a volume has on the disk: imxcrypt's dialect of LUKS2.
//
// A [Header] is the LUKS2 header (package luks2) with its token, check and segment
// parsed, or two of each while a rotation is under way. The package converts between
// bytes and that form, and compares it with the configuration. It opens no key and makes
// no mapping.
//
//	token.go      the token: source, phase, generation, blob
//	check.go      the digest that distinguishes a wrong key from the right one
//	layout.go     where things are on the device
//	rotation.go   the second key, the layout and the records of a rotation
//	eraserecord.go, recovery.go, image.go, report.go
package header

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/ext4shrink"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/keysource"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/spec"
)

// segmentID is the number of the segment, the token and the digest of a volume that is
// not being rotated.
const segmentID = "0"

// Header is a volume's parsed LUKS2 header.
type Header struct {
	LUKS    *luks2.Header
	Copies  luks2.Copies
	Token   Token
	Check   Check
	Segment luks2.Segment
	// Next is the same volume under the key that a rotation is moving it to; nil if no
	// rotation is under way.
	Next *Header
	// Seen is the filesystem's superblock as it was read to prove the key; nil if
	// something else proved it.
	Seen *fsprobe.Superblock
	// Moved is where the first bytes of a plaintext segment are kept, as many as the
	// header area is long, because the header area is in their place. It is 0 if they are
	// in front of the rest.
	Moved int64
	// plaintext says which side of the data, beside this key's, is not encrypted; empty
	// if none is.
	plaintext string
	// boundMoved is the value of Moved for that side.
	boundMoved int64
	// reached is the highest generation in the records of rotations in the header area; 0
	// if there are none.
	reached uint64
}

// Binding returns what this header's check must be tied to.
func (h *Header) Binding() Binding {
	return Binding{
		UUID: h.LUKS.UUID, Label: h.LUKS.Label, Generation: h.Token.Generation,
		Segment: boundSegment{
			Offset: h.Segment.Offset, Size: h.Segment.Size, IVTweak: h.Segment.IVTweak,
			Cipher: h.Segment.Encryption, SectorSize: h.Segment.SectorSize,
		},
		Recipients: h.Token.Recovery.Recipients, Plaintext: h.plaintext, Moved: h.boundMoved,
	}
}

// UnderRotation reports whether the header names two keys, or a key and plaintext.
func (h *Header) UnderRotation() bool { return len(h.LUKS.Metadata.Segments) > 1 }

// InPlaintext reports whether the segment is in plaintext.
func (h *Header) InPlaintext() bool { return h.Segment.Type == luks2.SegmentLinear }

// Encrypting reports whether plaintext is being moved under the volume's first key.
func (h *Header) Encrypting() bool { return h.InPlaintext() && h.Next != nil }

// Decrypting reports whether the data is being moved out of its key.
func (h *Header) Decrypting() bool { return h.Next != nil && h.Next.InPlaintext() }

// KeySide returns the header or, if its data is still in plaintext, that of its first key.
func (h *Header) KeySide() *Header {
	if h.Encrypting() {
		return h.Next
	}
	return h
}

// New makes the header of a fresh volume, not yet written anywhere.
func New(s spec.Volume, uuid string, l Layout, t Token) (*Header, error) {
	lh, err := luks2.New(luks2.Options{UUID: uuid, Label: s.Name, Subsystem: Subsystem, HeaderArea: s.HeaderSize, Detached: s.Detached()})
	if err != nil {
		return nil, err
	}
	lh.Require(Requirement)
	h := &Header{LUKS: lh, Token: t, Segment: luks2.Segment{
		Type: luks2.SegmentCrypt, Offset: l.DataOffset, Size: l.DataSize,
		Encryption: s.Cipher, SectorSize: s.SectorSize,
	}}
	h.Check.Segments = []string{segmentID}
	if !s.Detached() {
		h.Check.Offset, h.Check.Size = CheckOffset(t.Generation), CheckAreaSize
	}
	return h, h.Store()
}

// Store puts the parsed members back into the LUKS2 metadata.
func (h *Header) Store() error {
	md := &h.LUKS.Metadata
	md.Tokens, md.Digests, md.Segments = map[string]luks2.Token{}, map[string]luks2.Digest{}, map[string]luks2.Segment{}
	if err := h.put(segmentID); err != nil {
		return err
	}
	h.LUKS.Unrequire(RequirementPlaintext)
	if h.Next == nil {
		h.LUKS.Unrequire(RequirementRotate)
		h.LUKS.Unrequire(RequirementRotateSource)
		return nil
	}
	h.LUKS.Require(RequirementRotate)
	switch {
	case h.Encrypting() || h.Decrypting():
		h.LUKS.Require(RequirementPlaintext)
	case h.otherSource():
		h.LUKS.Require(RequirementRotateSource)
	}
	if h.Moved > 0 {
		return h.Next.put(thirdID)
	}
	return h.Next.put(nextID)
}

// put stores one key's token, digest and segment under the same number. A plaintext side
// has only the segment.
func (h *Header) put(id string) error {
	if h.InPlaintext() {
		h.putPlain(id)
		return nil
	}
	h.Token.Segments, h.Check.Segments = []string{id}, []string{id}
	token, err := h.Token.luks()
	if err != nil {
		return err
	}
	digest, err := h.Check.luks()
	if err != nil {
		return err
	}
	md := &h.LUKS.Metadata
	md.Tokens[id], md.Digests[id], md.Segments[id] = token, digest, h.Segment
	return nil
}

// Write stores and writes both copies, crash-safely.
func (h *Header) Write(dev Device) error {
	if err := h.Store(); err != nil {
		return err
	}
	return h.LUKS.Write(dev)
}

// Read reads and parses a volume's header. If there is something other than a header of
// ours, the error's code says what: not-provisioned, provisioning-unfinished,
// plaintext-filesystem, foreign-header, header-damaged, header-invalid, header-version,
// header-requirement or erase-unfinished.
func Read(c *Storage) (*Header, error) {
	h, err := FindHeader(c)
	return h, c.ExplainErased(err)
}

// FindHeader is [Read] without the explanation of an erased volume.
func FindHeader(c *Storage) (*Header, error) {
	dev, release := readAhead(c.Header)
	defer release()
	var lh *luks2.Header
	var copies luks2.Copies
	var err error
	var version *luks2.VersionError
	if c.Detached() {
		lh, copies, err = luks2.ReadDetached(dev, dev.Size(), c.Data.Size())
	} else {
		lh, copies, err = luks2.Read(dev, dev.Size())
	}
	if !c.Detached() && (err != nil || !copies.Intact()) {
		if begun := interruptedStart(dev, err); begun != nil {
			return nil, begun
		}
	}
	switch {
	case err == nil:
		h, err := Understand(lh, copies, dev.Path())
		if err == nil && (h.Encrypting() || h.Decrypting()) && c.Detached() == (h.moved() > 0) {
			err = fault.Newf(fault.HeaderInvalid, "the header on %s says that the data beside it is in plain text", dev.Path())
		}
		if err == nil {
			err = h.nextFits(c)
		}
		if err == nil {
			err = h.ReadReached(dev)
		}
		return h, err
	case errors.Is(err, luks2.ErrNotLUKS):
		return nil, NotAHeader(dev)
	case errors.As(err, &version) && version.Version < 2:
		return nil, fault.New(fault.ForeignHeader, dev.Path()+" holds a LUKS volume that is not imxcrypt's", err)
	}
	if invalid := (*luks2.InvalidError)(nil); errors.As(err, &invalid) && invalid.Rule == luks2.RuleSegmentBounds {
		if shrunk := shrunkDevice(c, dev); shrunk != nil {
			return nil, shrunk
		}
	}
	if torn, tornErr := tornFormat(c, dev); tornErr == nil && torn {
		return nil, fault.Newf(fault.ProvisioningStarted, "%s: provisioning was interrupted before the header was complete", dev.Path())
	}
	return nil, fmt.Errorf("header on %s: %w", dev.Path(), err)
}

// nextFits checks that the place a rotation moves the data to is on the device. Package
// luks2 does not check that, since it is a backup segment.
func (h *Header) nextFits(c *Storage) error {
	if h.Next == nil {
		return nil
	}
	end := h.Next.Segment.Offset + h.Next.Segment.Size
	if at := h.Next.Moved; at > 0 { // and the sector behind it
		end = max(end, at+h.LUKS.Area()+BlockAlign)
	}
	if end > c.Data.Size() {
		return fault.Newf(fault.HeaderInvalid, "the rotation under way moves the data to where it ends at %d, and %s has %d bytes (segment-bounds)", end, c.Data.Path(), c.Data.Size())
	}
	return nil
}

// shrunkDevice explains a sound header whose data extends beyond the device; nil for any
// other header.
func shrunkDevice(c *Storage, dev Device) error {
	const unbounded = 1 << 62
	lh, copies, err := luks2.Read(dev, unbounded)
	if c.Detached() {
		lh, copies, err = luks2.ReadDetached(dev, dev.Size(), unbounded)
	}
	if err != nil {
		return nil
	}
	h, err := Understand(lh, copies, dev.Path())
	if err != nil {
		return nil
	}
	end := h.Segment.Offset + h.Segment.Size
	if h.Next != nil {
		end = max(end, h.Next.Segment.Offset+h.Next.Segment.Size)
	}
	if at := h.moved(); at > 0 {
		end = max(end, at+h.LUKS.Area())
	}
	return fault.Newf(fault.PartitionShrunk, "%s has %d bytes, and the volume %q on it (uuid %q) ends at byte %d: the partition is smaller than when the volume was made",
		c.Data.Path(), c.Data.Size(), h.LUKS.Label, h.LUKS.UUID, end)
}

// blankBehind is how many bytes behind a header are blank when its first copy is written:
// provisioning has found the device empty, or wiped it.
const blankBehind = 8 * MiB

// tornFormat reports whether a storage holds what an interrupted first write of a header
// leaves. If a header was ever whole, encrypted data follows it, whatever happened to its
// copies.
func tornFormat(c *Storage, dev Device) (bool, error) {
	area, unfinished, err := luks2.Unfinished(dev, dev.Size())
	if err != nil || !unfinished {
		return false, err
	}
	if c.Erased != nil {
		// The record of an erase stays until a new header is whole: what follows the
		// header area is what was erased.
		if r, ok, err := c.Erased(); err == nil && ok && r.State == EraseDone {
			return true, nil
		}
	}
	if c.Detached() {
		area = 0
	}
	behind, err := blockdev.SampleFrom(c.Data, area, min(c.Data.Size(), blankBehind))
	return behind.Empty, err
}

// aheadSize is how many bytes are read at once at a header's start: both copies of the
// default size and the records of a rotation.
const aheadSize = 64 * KiB

// ahead is a device whose first bytes have already been read.
type ahead struct {
	Device
	first []byte
}

func (a ahead) ReadAt(p []byte, off int64) (int, error) {
	if off >= 0 && off+int64(len(p)) <= int64(len(a.first)) {
		return copy(p, a.first[off:]), nil
	}
	return a.Device.ReadAt(p, off)
}

// readAhead saves requests. If something cannot be read, this shows only when it is asked
// for. release frees the memory, which during boot no garbage collector does.
func readAhead(dev Device) (_ Device, release func()) {
	first, err := unix.Mmap(-1, 0, int(min(aheadSize, dev.Size())), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return dev, func() {}
	}
	release = func() { _ = unix.Munmap(first) }
	if n, err := dev.ReadAt(first, 0); err != nil || n != len(first) {
		return dev, release
	}
	return ahead{dev, first}, release
}

// ReadReached looks for what rotations have left; see NotRolledBack.
func (h *Header) ReadReached(dev interface {
	io.ReaderAt
	Size() int64
}) error {
	if h.LUKS.Area() < RotationJournalOffset || dev.Size() < RotationJournalOffset {
		return nil
	}
	b, err := h.RotationBinding(0)
	if err != nil {
		return err
	}
	h.reached, err = reencrypt.Reached(dev, RotationRecordOffset, b.UUID)
	return err
}

// RotationBinding ties the records to this volume and the new key's generation.
func (h *Header) RotationBinding(generation int) (reencrypt.Binding, error) {
	b := reencrypt.Binding{Generation: uint64(generation)}
	raw, err := hex.DecodeString(strings.ReplaceAll(h.LUKS.UUID, "-", ""))
	if err != nil || copy(b.UUID[:], raw) != len(b.UUID) {
		return b, fault.Newf(fault.HeaderInvalid, "uuid %q of the header is not valid", h.LUKS.UUID)
	}
	return b, nil
}

// NotRolledBack refuses an old copy of the header: one that does not know a key to which
// a rotation has moved data. Through its key the data would be noise, except for the part
// that the rotation has not reached.
func (h *Header) NotRolledBack() error {
	if newest := max(h.Token.Generation, h.nextGeneration()); h.reached > uint64(newest) {
		return fault.Newf(fault.HeaderRolledBack, "the header of uuid %q has the key of generation %d, and a rotation has moved data to that of generation %d: an old copy of the header was restored",
			h.LUKS.UUID, newest, h.reached)
	}
	return nil
}

func (h *Header) nextGeneration() int {
	if h.Next == nil {
		return 0
	}
	return h.Next.Token.Generation
}

// Understand parses our members of a valid LUKS2 header.
func Understand(lh *luks2.Header, copies luks2.Copies, path string) (*Header, error) {
	if !lh.Requires(Requirement) || lh.Subsystem != Subsystem {
		return nil, fault.Newf(fault.ForeignHeader, "%s holds a LUKS2 volume that is not imxcrypt's: label %q, subsystem %q, uuid %q",
			path, lh.Label, lh.Subsystem, lh.UUID)
	}
	if err := lh.CheckRequirements(Requirement, RequirementRotate, RequirementRotateSource, RequirementPlaintext); err != nil {
		return nil, fmt.Errorf("header on %s: %w", path, err)
	}
	h, err := understandMembers(lh)
	if err != nil {
		return nil, fault.New(fault.HeaderInvalid, fmt.Sprintf("header on %s", path), err)
	}
	h.Copies = copies
	if h.Next != nil {
		h.Next.Copies = copies
	}
	return h, nil
}

// understandMembers parses one token, digest and segment, or two of each if a rotation is
// under way. A plaintext side has only a segment.
func understandMembers(lh *luks2.Header) (*Header, error) {
	md, want := lh.Metadata, 1
	if lh.Requires(RequirementRotate) {
		want = 2
	}
	keys := want
	if lh.Requires(RequirementPlaintext) {
		keys--
	}
	segments := want
	if keys < want && len(md.Segments) == want+1 {
		segments++ // the first part has been moved
	}
	if len(md.Tokens) != keys || len(md.Digests) != keys || len(md.Segments) != segments || len(md.Keyslots) != 0 {
		return nil, fmt.Errorf("%d tokens, %d digests, %d segments, %d keyslots instead of %d, %d, %d and none",
			len(md.Tokens), len(md.Digests), len(md.Segments), len(md.Keyslots), keys, keys, segments)
	}
	if keys < want {
		if want == 1 {
			return nil, errors.New("plain text without a record of where it ends")
		}
		return understandPlain(lh)
	}
	h, err := understandKey(lh, segmentID)
	if err != nil {
		return nil, err
	}
	if want == 1 {
		return h, nil
	}
	if h.Next, err = understandKey(lh, nextID); err != nil {
		return nil, fmt.Errorf("the rotation's: %w", err)
	}
	return h, h.checkRotation()
}

// understandKey parses the token, the digest and the segment of one key.
func understandKey(lh *luks2.Header, id string) (_ *Header, err error) {
	h := &Header{LUKS: lh}
	md := lh.Metadata
	if h.Token, err = parseToken(md.Tokens[id]); err != nil {
		return nil, err
	}
	if h.Check, err = parseCheck(md.Digests[id], lh.Area()); err != nil {
		return nil, err
	}
	h.Segment = md.Segments[id]
	if h.Segment.Type != luks2.SegmentCrypt || !slices.Equal(h.Token.Segments, []string{id}) || !slices.Equal(h.Check.Segments, []string{id}) {
		return nil, errors.New("token, digest and segment do not belong together")
	}
	if err := knownMembers(h.Segment); err != nil {
		return nil, err
	}
	if h.Segment.Size == luks2.SizeDynamic {
		return nil, errors.New("the segment has no fixed size")
	}
	if rotating := h.Token.Phase == PhaseRotating; rotating != (id != segmentID) {
		return nil, fmt.Errorf("token %s has the phase %q", id, h.Token.Phase)
	}
	return h, nil
}

// NotAHeader returns an error that says what is on a device instead of a header.
func NotAHeader(dev Device) error {
	// Check this before all signatures: while the superblock is away, an older one may
	// show.
	if m, found, err := ext4shrink.FindMark(dev); err == nil && found {
		return fault.Newf(fault.ShrinkStarted, "the filesystem on %s was being made smaller when that was interrupted; the log %q has what is missing", dev.Path(), m.Path)
	}
	what, err := fsprobe.Signature(dev, dev.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	switch what {
	case "":
		return fault.Newf(fault.NotProvisioned, "%s holds no imxcrypt volume", dev.Path())
	case "luks1", "luks2":
		return fault.Newf(fault.ForeignHeader, "%s holds a %s volume that is not imxcrypt's", dev.Path(), what)
	}
	return fault.Newf(fault.PlaintextFound, "%s holds an unencrypted %s where an encrypted volume is expected", dev.Path(), what)
}

// Plaintext returns an error if a device with a detached header holds something that is
// not ours. A filesystem counts only if its checksum or its second superblock proves it:
// ciphertext sometimes shows a magic number of two bytes.
func Plaintext(dev Device) error {
	what, err := fsprobe.Signature(dev, dev.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	if what == "luks1" || what == "luks2" {
		return NotAHeader(dev)
	}
	sb, err := fsprobe.Read(dev, dev.Size())
	if err == nil && sb.Verified {
		return NotAHeader(dev)
	}
	if _, found, err := ext4shrink.FindMark(dev); err == nil && found {
		return NotAHeader(dev)
	}
	return nil
}

// Matches compares the header with the configuration, which is authoritative. The error
// names every difference.
func (h *Header) Matches(s spec.Volume) error {
	s = s.For(h.Token.Source, h.Segment.Encryption)
	var differences []string
	differ := func(what string, header, configured any) {
		differences = append(differences, fmt.Sprintf("%s is %q in the header and %q in the configuration", what, fmt.Sprint(header), fmt.Sprint(configured)))
	}
	if h.LUKS.Label != s.Name {
		differ("name", h.LUKS.Label, s.Name)
	}
	if s.UUID != "" && h.LUKS.UUID != s.UUID {
		differ("uuid", h.LUKS.UUID, s.UUID)
	}
	if h.Token.Source != s.Source {
		differ("source", h.Token.Source, s.Source)
	}
	if h.Token.Source == s.Source && h.Token.Protected() != s.Protected {
		differ("protected", h.Token.Protected(), s.Protected)
	} else if keysource.Wraps(s.Keys()) && string(h.Token.Wrap) != s.Wrap {
		differ("wrap", h.Token.Wrap, s.Wrap)
	}
	if s.Trusted.Source != "" && h.Token.Trust() != s.Trusted.Source {
		differ("trust source", h.Token.Trust(), s.Trusted.Source)
	}
	if h.Token.KeySize != s.KeySize {
		differ("key_size", h.Token.KeySize, s.KeySize)
	}
	if h.Segment.Encryption != s.Cipher {
		differ("cipher", h.Segment.Encryption, s.Cipher)
	}
	if h.Segment.SectorSize != s.SectorSize {
		differ("sector_size", h.Segment.SectorSize, s.SectorSize)
	}
	if h.Check.InHeader() == s.Detached() {
		differ("check", map[bool]string{true: "in the header area", false: "the filesystem"}[h.Check.InHeader()], "header: "+s.Header)
	}
	if !s.Detached() && h.Segment.Offset < h.LUKS.Area() {
		differ("segment offset", h.Segment.Offset, fmt.Sprintf("behind the header of %d bytes", h.LUKS.Area()))
	}
	if h.Segment.IVTweak != 0 {
		differ("iv_tweak", h.Segment.IVTweak, 0)
	}
	if len(differences) == 0 {
		return nil
	}
	why := strings.Join(differences, "; ")
	if as := h.SpecAsStored(s); h.DescribeChanges(s) != "" && h.DescribeChanges(as) == "" && h.Matches(as) == nil {
		why += fmt.Sprintf(" (imxcrypt rotate %s converts the volume to the configuration, and gives it a new key)", s.Name)
	}
	return fault.Newf(fault.HeaderMismatch, "the header is not the one the configuration describes: %s", why)
}

// MatchesRotating compares the headers of a rotation under way with the configuration:
// the new key must be as configured.
func (h *Header) MatchesRotating(s spec.Volume) error {
	if h.Next == nil || h.Decrypting() {
		return h.Matches(s)
	}
	if h.Encrypting() {
		return h.Next.Matches(s)
	}
	return errors.Join(h.Next.Matches(s), h.Matches(h.SpecAsStored(s)))
}

// SpecOfKey returns the configuration for this header's key. With source auto it has the
// key's own source. During a rotation the older key's source and cipher may differ from
// the configuration; [Header.MatchesRotating] has allowed that.
func (h *Header) SpecOfKey(s spec.Volume) spec.Volume {
	if h.Next == nil {
		return s.For(h.Token.Source, h.Segment.Encryption)
	}
	return h.SpecAsStored(s)
}

// knownMembers refuses a segment with members that are not ours. With the integrity
// member, which cryptsetup knows, the data is elsewhere than the table would say.
func knownMembers(g luks2.Segment) error {
	if len(g.Extra) == 0 {
		return nil
	}
	return fmt.Errorf("the segment has members that are not known: %q", slices.Sorted(maps.Keys(g.Extra)))
}
