// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
)

// The one token, digest and segment of a volume that is not being rotated.
const (
	tokenID   = "0"
	digestID  = "0"
	segmentID = "0"
)

// header is a volume's LUKS2 header, understood.
type header struct {
	luks    *luks2.Header
	copies  luks2.Copies
	token   Token
	check   Check
	segment luks2.Segment
}

// binding is what this header's check must be tied to.
func (h *header) binding() binding {
	return binding{
		UUID: h.luks.UUID, Label: h.luks.Label, Generation: h.token.Generation,
		Segment: boundSegment{
			Offset: h.segment.Offset, Size: h.segment.Size, IVTweak: h.segment.IVTweak,
			Cipher: h.segment.Encryption, SectorSize: h.segment.SectorSize,
		},
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
	h.token.Segments = []string{segmentID}
	token, err := h.token.luks()
	if err != nil {
		return err
	}
	digest, err := h.check.luks()
	if err != nil {
		return err
	}
	h.luks.Metadata.Tokens = map[string]luks2.Token{tokenID: token}
	h.luks.Metadata.Digests = map[string]luks2.Digest{digestID: digest}
	h.luks.Metadata.Segments = map[string]luks2.Segment{segmentID: h.segment}
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
	dev := c.header
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
		return understand(lh, copies, dev.Path())
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

// understand reads the members that are ours out of a valid LUKS2 header.
func understand(lh *luks2.Header, copies luks2.Copies, path string) (*header, error) {
	if !lh.Requires(Requirement) || lh.Subsystem != Subsystem {
		return nil, refuse(fault.ForeignHeader, "%s holds a LUKS2 volume that is not ours: label %q, subsystem %q, uuid %q",
			path, lh.Label, lh.Subsystem, lh.UUID)
	}
	if err := lh.CheckRequirements(Requirement); err != nil {
		return nil, fmt.Errorf("header on %s: %w", path, err)
	}
	h := &header{luks: lh, copies: copies}
	invalid := func(err error) (*header, error) {
		return nil, fault.New(fault.HeaderInvalid, fmt.Sprintf("header on %s", path), err)
	}
	md := lh.Metadata
	if len(md.Tokens) != 1 || len(md.Digests) != 1 || len(md.Segments) != 1 || len(md.Keyslots) != 0 {
		return invalid(fmt.Errorf("%d tokens, %d digests, %d segments, %d keyslots instead of one, one, one and none",
			len(md.Tokens), len(md.Digests), len(md.Segments), len(md.Keyslots)))
	}
	var err error
	if h.token, err = parseToken(md.Tokens[tokenID]); err != nil {
		return invalid(err)
	}
	if h.check, err = parseCheck(md.Digests[digestID], lh.Area()); err != nil {
		return invalid(err)
	}
	h.segment = md.Segments[segmentID]
	if h.segment.Type != luks2.SegmentCrypt || !slices.Equal(h.token.Segments, []string{segmentID}) || !slices.Equal(h.check.Segments, []string{segmentID}) {
		return invalid(errors.New("token, digest and segment do not belong together"))
	}
	if h.segment.Size == luks2.SizeDynamic {
		return invalid(errors.New("the segment has no fixed size"))
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
	return refuse(fault.HeaderMismatch, "the header is not the one the configuration describes: %s", strings.Join(differences, "; "))
}
