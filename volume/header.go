// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
	"imxcrypt/reencrypt"
)

// segmentID is the number of the segment, the token and the digest of a volume
// that is not being rotated.
const segmentID = "0"

// header is a volume's LUKS2 header, understood.
type header struct {
	luks    *luks2.Header
	copies  luks2.Copies
	token   Token
	check   Check
	segment luks2.Segment
	// next is the same volume under the key that a rotation is moving it to;
	// nil where none is under way.
	next *header
	// seen is the filesystem's superblock as the proof of the key read it; nil
	// where something else proved it.
	seen *fsprobe.Superblock
	// reached is the highest generation that the records of rotations in the
	// header area tell of; 0 for none.
	reached uint64
}

// binding is what this header's check must be tied to.
func (h *header) binding() binding {
	return binding{
		UUID: h.luks.UUID, Label: h.luks.Label, Generation: h.token.Generation,
		Segment: boundSegment{
			Offset: h.segment.Offset, Size: h.segment.Size, IVTweak: h.segment.IVTweak,
			Cipher: h.segment.Encryption, SectorSize: h.segment.SectorSize,
		},
		Recipients: h.token.Recovery.Recipients,
	}
}

// newHeader makes the header of a fresh volume, not yet written anywhere.
func newHeader(s Spec, uuid string, l Layout, t Token) (*header, error) {
	lh, err := luks2.New(luks2.Options{UUID: uuid, Label: s.Name, Subsystem: Subsystem, HeaderArea: s.HeaderSize, Detached: s.Detached()})
	if err != nil {
		return nil, err
	}
	lh.Require(Requirement)
	h := &header{luks: lh, token: t, segment: luks2.Segment{
		Type: luks2.SegmentCrypt, Offset: l.DataOffset, Size: l.DataSize,
		Encryption: s.Cipher, SectorSize: s.SectorSize,
	}}
	h.check.Segments = []string{segmentID}
	if !s.Detached() {
		h.check.Offset, h.check.Size = checkOffset(t.Generation), checkAreaSize
	}
	return h, h.store()
}

// store puts what was understood back into the LUKS2 metadata.
func (h *header) store() error {
	md := &h.luks.Metadata
	md.Tokens, md.Digests, md.Segments = map[string]luks2.Token{}, map[string]luks2.Digest{}, map[string]luks2.Segment{}
	if err := h.put(segmentID); err != nil {
		return err
	}
	if h.next == nil {
		h.luks.Unrequire(RequirementRotate)
		return nil
	}
	h.luks.Require(RequirementRotate)
	return h.next.put(nextID)
}

// put stores one key's token, digest and segment under the same number.
func (h *header) put(id string) error {
	h.token.Segments, h.check.Segments = []string{id}, []string{id}
	token, err := h.token.luks()
	if err != nil {
		return err
	}
	digest, err := h.check.luks()
	if err != nil {
		return err
	}
	md := &h.luks.Metadata
	md.Tokens[id], md.Digests[id], md.Segments[id] = token, digest, h.segment
	return nil
}

// write stores and writes both copies, crash-safely.
func (h *header) write(dev Device) error {
	if err := h.store(); err != nil {
		return err
	}
	return h.luks.Write(dev)
}

// readHeader reads and understands a volume's header. What is not a header of
// ours is an error whose code tells what it is instead: not-provisioned,
// provisioning-unfinished, plaintext-filesystem, foreign-header,
// header-damaged, header-invalid, header-version, header-requirement or
// erase-unfinished.
func readHeader(c *container) (*header, error) {
	h, err := findHeader(c)
	return h, c.explainErased(err)
}

func findHeader(c *container) (*header, error) {
	dev, release := readAhead(c.header)
	defer release()
	var lh *luks2.Header
	var copies luks2.Copies
	var err error
	var version *luks2.VersionError
	if c.detached() {
		lh, copies, err = luks2.ReadDetached(dev, dev.Size(), c.data.Size())
	} else {
		lh, copies, err = luks2.Read(dev, dev.Size())
	}
	switch {
	case err == nil:
		h, err := understand(lh, copies, dev.Path())
		if err == nil {
			err = h.readReached(dev)
		}
		return h, err
	case errors.Is(err, luks2.ErrNotLUKS):
		return nil, notAHeader(dev)
	case errors.As(err, &version) && version.Version < 2:
		return nil, fault.New(fault.ForeignHeader, dev.Path()+" holds a LUKS volume that is not ours", err)
	}
	if _, unfinished, tornErr := luks2.Unfinished(dev, dev.Size()); tornErr == nil && unfinished {
		return nil, refuse(fault.ProvisioningStarted, "%s: provisioning was interrupted before the header was complete", dev.Path())
	}
	return nil, fmt.Errorf("header on %s: %w", dev.Path(), err)
}

// aheadSize is what is read at once at a header's start, in bytes: both copies of
// the default size and the records of a rotation.
const aheadSize = 64 * kib

// ahead is a device whose first bytes have been read already.
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

// readAhead saves requests; what cannot be read shows when it is asked for. release
// gives the memory back, which at boot no garbage collector does.
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

// readReached looks for what rotations have left: see notRolledBack.
func (h *header) readReached(dev Device) error {
	if h.luks.Area() < rotationJournalOffset || dev.Size() < rotationJournalOffset {
		return nil
	}
	b, err := h.rotationBinding(0)
	if err != nil {
		return err
	}
	h.reached, err = reencrypt.Reached(dev, rotationRecordOffset, b.UUID)
	return err
}

// notRolledBack refuses an old copy of the header: one that does not know of a
// key to which a rotation has moved data. What it opens would be noise but for
// what the rotation had not come to.
func (h *header) notRolledBack() error {
	if newest := max(h.token.Generation, h.nextGeneration()); h.reached > uint64(newest) {
		return refuse(fault.HeaderRolledBack, "the header of uuid %q has the key of generation %d, and a rotation has moved data to that of generation %d: an old copy of the header was brought back",
			h.luks.UUID, newest, h.reached)
	}
	return nil
}

func (h *header) nextGeneration() int {
	if h.next == nil {
		return 0
	}
	return h.next.token.Generation
}

// understand reads the members that are ours out of a valid LUKS2 header.
func understand(lh *luks2.Header, copies luks2.Copies, path string) (*header, error) {
	if !lh.Requires(Requirement) || lh.Subsystem != Subsystem {
		return nil, refuse(fault.ForeignHeader, "%s holds a LUKS2 volume that is not ours: label %q, subsystem %q, uuid %q",
			path, lh.Label, lh.Subsystem, lh.UUID)
	}
	if err := lh.CheckRequirements(Requirement, RequirementRotate); err != nil {
		return nil, fmt.Errorf("header on %s: %w", path, err)
	}
	h, err := understandMembers(lh)
	if err != nil {
		return nil, fault.New(fault.HeaderInvalid, fmt.Sprintf("header on %s", path), err)
	}
	h.copies = copies
	if h.next != nil {
		h.next.copies = copies
	}
	return h, nil
}

// understandMembers reads one token, digest and segment, or two of each where a
// rotation is under way.
func understandMembers(lh *luks2.Header) (*header, error) {
	md, want := lh.Metadata, 1
	if lh.Requires(RequirementRotate) {
		want = 2
	}
	if len(md.Tokens) != want || len(md.Digests) != want || len(md.Segments) != want || len(md.Keyslots) != 0 {
		return nil, fmt.Errorf("%d tokens, %d digests, %d segments, %d keyslots instead of %d, %d, %d and none",
			len(md.Tokens), len(md.Digests), len(md.Segments), len(md.Keyslots), want, want, want)
	}
	h, err := understandKey(lh, segmentID)
	if err != nil {
		return nil, err
	}
	if want == 1 {
		return h, nil
	}
	if h.next, err = understandKey(lh, nextID); err != nil {
		return nil, fmt.Errorf("the rotation's: %w", err)
	}
	return h, h.checkRotation()
}

// understandKey reads the token, the digest and the segment of one key.
func understandKey(lh *luks2.Header, id string) (_ *header, err error) {
	h := &header{luks: lh}
	md := lh.Metadata
	if h.token, err = parseToken(md.Tokens[id]); err != nil {
		return nil, err
	}
	if h.check, err = parseCheck(md.Digests[id], lh.Area()); err != nil {
		return nil, err
	}
	h.segment = md.Segments[id]
	if h.segment.Type != luks2.SegmentCrypt || !slices.Equal(h.token.Segments, []string{id}) || !slices.Equal(h.check.Segments, []string{id}) {
		return nil, errors.New("token, digest and segment do not belong together")
	}
	if h.segment.Size == luks2.SizeDynamic {
		return nil, errors.New("the segment has no fixed size")
	}
	if rotating := h.token.Phase == PhaseRotating; rotating != (id == nextID) {
		return nil, fmt.Errorf("token %s has the phase %q", id, h.token.Phase)
	}
	return h, nil
}

// notAHeader says what lies on a device instead of a header.
func notAHeader(dev Device) error {
	what, err := fsprobe.Signature(dev, dev.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	switch what {
	case "":
		return refuse(fault.NotProvisioned, "%s holds no volume of ours", dev.Path())
	case "luks1", "luks2":
		return refuse(fault.ForeignHeader, "%s holds a %s volume that is not ours", dev.Path(), what)
	}
	return refuse(fault.PlaintextFound, "%s holds an unencrypted %s where an encrypted volume is expected", dev.Path(), what)
}

// plaintext tells whether a device that lies under a detached header shows
// something that is not ours. A filesystem counts only if its checksum or its
// second superblock proves it: ciphertext shows a magic number of two bytes once
// in a while.
func plaintext(dev Device) error {
	what, err := fsprobe.Signature(dev, dev.Size())
	if err != nil {
		return fault.New(fault.IOFailed, "read "+dev.Path(), err)
	}
	if what == "luks1" || what == "luks2" {
		return notAHeader(dev)
	}
	sb, err := fsprobe.Read(dev, dev.Size())
	if err == nil && sb.Verified {
		return notAHeader(dev)
	}
	return nil
}

// matches compares the header with the configuration, which is the authority.
// The error names every difference.
func (h *header) matches(s Spec) error {
	var differences []string
	differ := func(what string, header, configured any) {
		differences = append(differences, fmt.Sprintf("%s is %q in the header and %q in the configuration", what, fmt.Sprint(header), fmt.Sprint(configured)))
	}
	if h.luks.Label != s.Name {
		differ("name", h.luks.Label, s.Name)
	}
	if s.UUID != "" && h.luks.UUID != s.UUID {
		differ("uuid", h.luks.UUID, s.UUID)
	}
	if h.token.Source != s.Source {
		differ("source", h.token.Source, s.Source)
	}
	if string(h.token.Wrap) != s.Wrap && s.Source == SourceCAAM {
		differ("wrap", h.token.Wrap, s.Wrap)
	}
	if h.token.KeySize != s.KeySize {
		differ("key_size", h.token.KeySize, s.KeySize)
	}
	if h.segment.Encryption != s.Cipher {
		differ("cipher", h.segment.Encryption, s.Cipher)
	}
	if h.segment.SectorSize != s.SectorSize {
		differ("sector_size", h.segment.SectorSize, s.SectorSize)
	}
	if h.check.InHeader() == s.Detached() {
		differ("check", map[bool]string{true: "in the header area", false: "the filesystem"}[h.check.InHeader()], "header: "+s.Header)
	}
	if !s.Detached() && h.segment.Offset < h.luks.Area() {
		differ("segment offset", h.segment.Offset, fmt.Sprintf("behind the header of %d bytes", h.luks.Area()))
	}
	if h.segment.IVTweak != 0 {
		differ("iv_tweak", h.segment.IVTweak, 0)
	}
	if len(differences) == 0 {
		return nil
	}
	why := strings.Join(differences, "; ")
	if as := h.changeable(s); h.changes(s) != "" && h.changes(as) == "" && h.matches(as) == nil {
		why += fmt.Sprintf(" (imxcrypt rotate %s makes the volume as it is configured, and gives it a new key)", s.Name)
	}
	return refuse(fault.HeaderMismatch, "the header is not the one the configuration describes: %s", why)
}
