// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"fmt"
	"math"

	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// Report is the result of checking what may be a LUKS2 header.
type Report struct {
	Path string `json:"path"`
	// Valid by the LUKS2 specification and, for a volume of ours, by what imxcrypt
	// demands of its own headers.
	Valid bool `json:"valid"`
	// Rule is the first broken rule, as package luks2 names it; empty if none is broken.
	// It is "imxcrypt" if the header is sound LUKS2 but its imxcrypt members are not.
	Rule string `json:"rule"`
	// Imxcrypt reports whether the header says that it is one of ours.
	Imxcrypt     bool     `json:"imxcrypt"`
	UUID         string   `json:"uuid"`
	Label        string   `json:"label"`
	Subsystem    string   `json:"subsystem"`
	Sequence     uint64   `json:"sequence"`
	Detached     bool     `json:"detached"`
	Requirements []string `json:"requirements"`
	Copies       []Copy   `json:"copies"`
	Problems     []string `json:"problems"`
	Volume       *Content `json:"volume"`
}

// Copy is one of the two copies as it was found.
type Copy struct {
	Offset   int64  `json:"offset"`
	State    string `json:"state"`
	Sequence uint64 `json:"sequence"`
	Problem  string `json:"problem"`
}

// Content is what a header of ours says about its volume.
type Content struct {
	Source        string       `json:"source"`
	Phase         Phase        `json:"phase"`
	Generation    int          `json:"generation"`
	Wrap          string       `json:"wrap"`
	KeySize       int          `json:"key_size"`
	Cipher        string       `json:"cipher"`
	SectorSize    int          `json:"sector_size"`
	DataOffset    int64        `json:"data_offset"`
	DataSize      int64        `json:"data_size"`
	SecurityState string       `json:"security_state"`
	Filesystem    FilesystemID `json:"filesystem"`
	Recipients    []string     `json:"recovery_recipients"`
	Passphrase    bool         `json:"recovery_passphrase"`
	Fingerprint   string       `json:"recovery_fingerprint"`
}

// Rules in addition to those of luks2: ruleImxcrypt is broken by a sound LUKS2 header
// whose imxcrypt members are wrong, ruleRequirement by one with a mandatory requirement
// that neither the specification, nor cryptsetup, nor imxcrypt knows.
const (
	ruleImxcrypt    = "imxcrypt"
	ruleRequirement = "unknown-requirement"
)

// knownRequirements returns those of the LUKS2 specification (config.requirements), those
// that cryptsetup has added since, and ours.
func knownRequirements() []string {
	return []string{
		"offline-reencrypt", "online-reencrypt", "online-reencrypt-v2", "online-reencrypt-v3", "inline-hw-tags", "opal",
		Requirement, RequirementRotate, RequirementRotateSource, RequirementPlaintext,
	}
}

// Check validates the header on dev and fills in the report. Its error says why the
// header is not valid.
func (r *Report) Check(dev Device) error {
	report, err := luks2.Check(dev, dev.Size(), -1)
	if err != nil {
		// A header that is not ours is checked no more strictly than by its own program.
		if foreign, err2 := luks2.CheckForeign(dev, dev.Size(), -1); err2 == nil && !isOurs(foreign.Header) {
			report, err = foreign, nil
		}
	}
	for _, c := range []luks2.Copy{report.Copies.Primary, report.Copies.Secondary} {
		out := Copy{Offset: c.Offset, State: string(c.State), Sequence: c.SeqID}
		if c.Err != nil {
			out.Problem = c.Err.Error()
		}
		r.Copies = append(r.Copies, out)
	}
	r.Problems = append(r.Problems, report.Problems...)
	if errors.Is(err, luks2.ErrNotLUKS) {
		r.Rule = string(luks2.RuleMagic)
		if found, ok, readErr := ReadEraseRecord(dev); readErr == nil && ok {
			r.Problems = append(r.Problems, found.String())
		}
	}
	if err != nil || !report.Copies.Intact() {
		if begun := interruptedStart(dev, nil); begun != nil {
			r.Problems = append(r.Problems, begun.Error())
			if err == nil { // only the first copy is there
				return begun
			}
		}
	}
	if errors.Is(err, luks2.ErrNotLUKS) {
		return fault.New(fault.HeaderInvalid, "not valid ("+string(luks2.RuleMagic)+")", err)
	}
	if err != nil {
		return err
	}
	lh := report.Header
	r.UUID, r.Label, r.Subsystem, r.Sequence = lh.UUID, lh.Label, lh.Subsystem, lh.SeqID
	r.Requirements = append(r.Requirements, lh.Metadata.Config.Mandatory...)
	for _, s := range lh.Metadata.Segments {
		r.Detached = r.Detached || s.Offset < lh.Area()
	}
	r.Imxcrypt = isOurs(lh)
	// A file as long as the header area is a backup or a detached header; a foreign
	// backup ends at the latest where the data begins. In all other cases with the data
	// behind the header, it is known where the data ends.
	end := lh.Area()
	if !r.Imxcrypt {
		end = max(end, dataBegins(lh))
	}
	if !r.Detached && dev.Size() > end {
		err := lh.CheckData(dev.Size())
		if err != nil && r.Imxcrypt {
			return err
		}
		if err != nil { // cryptsetup reports this when it opens the volume
			r.Problems = append(r.Problems, err.Error())
		}
	}
	if err := lh.CheckRequirements(knownRequirements()...); err != nil {
		r.Rule = ruleRequirement
		return err
	}
	return r.addMembers(lh, report.Copies)
}

// isOurs reports whether a header says that it is one of imxcrypt's.
func isOurs(lh *luks2.Header) bool { return lh.Requires(Requirement) && lh.Subsystem == Subsystem }

// dataBegins returns where the first segment begins.
func dataBegins(lh *luks2.Header) int64 {
	begin := int64(math.MaxInt64)
	for _, s := range lh.Metadata.Segments {
		begin = min(begin, s.Offset)
	}
	return begin
}

// addMembers adds what the members of a volume of ours say.
func (r *Report) addMembers(lh *luks2.Header, copies luks2.Copies) error {
	if !r.Imxcrypt {
		return nil
	}
	h, err := Understand(lh, copies, r.Path)
	if fault.Is(err, fault.HeaderRequirement) {
		r.Problems = append(r.Problems, err.Error())
		return nil
	}
	if err != nil {
		r.Rule = ruleImxcrypt
		return err
	}
	switch {
	case h.Encrypting():
		r.Problems = append(r.Problems, "the volume is being encrypted: a part of the data is in plain text")
		h = h.KeySide()
	case h.Decrypting():
		r.Problems = append(r.Problems, "the volume is being decrypted: a part of the data is in plain text")
	case h.UnderRotation():
		r.Problems = append(r.Problems, fmt.Sprintf("a rotation to generation %d is under way: the data is under two keys", h.Token.Generation+1))
	}
	r.Volume = &Content{
		Source: h.Token.Source, Phase: h.Token.Phase, Generation: h.Token.Generation, Wrap: string(h.Token.Wrap),
		KeySize: h.Token.KeySize, Cipher: h.Segment.Encryption, SectorSize: h.Segment.SectorSize,
		DataOffset: h.Segment.Offset, DataSize: h.Segment.Size, SecurityState: string(h.Token.State),
		Filesystem: h.Token.Filesystem, Recipients: append([]string{}, h.Token.Recovery.Recipients...),
		Passphrase: h.Token.Recovery.ByPassphrase(), Fingerprint: h.Fingerprint(),
	}
	return nil
}
