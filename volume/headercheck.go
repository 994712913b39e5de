// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
)

// HeaderReport is the verdict over what may be a LUKS2 header.
type HeaderReport struct {
	Path string `json:"path"`
	// Valid by the LUKS2 specification and, for a volume of ours, by what
	// imxcrypt demands of its own headers.
	Valid bool `json:"valid"`
	// Rule is the first rule that is broken, in package luks2's words, empty
	// where none is; "imxcrypt" where the header is sound LUKS2 and its
	// imxcrypt members are not.
	Rule string `json:"rule"`
	// Imxcrypt tells whether the header says it is one of ours.
	Imxcrypt     bool           `json:"imxcrypt"`
	UUID         string         `json:"uuid"`
	Label        string         `json:"label"`
	Subsystem    string         `json:"subsystem"`
	Sequence     uint64         `json:"sequence"`
	Detached     bool           `json:"detached"`
	Requirements []string       `json:"requirements"`
	Copies       []HeaderCopy   `json:"copies"`
	Problems     []string       `json:"problems"`
	Volume       *HeaderContent `json:"volume"`
}

// HeaderCopy is one of the two copies as it was found.
type HeaderCopy struct {
	Offset   int64  `json:"offset"`
	State    string `json:"state"`
	Sequence uint64 `json:"sequence"`
	Problem  string `json:"problem"`
}

// HeaderContent is what a header of ours says of its volume.
type HeaderContent struct {
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
}

// Rules beside those of luks2: ruleImxcrypt is broken by a sound LUKS2 header
// whose imxcrypt members are wrong, ruleRequirement by one with a mandatory
// requirement that neither the specification, nor cryptsetup, nor imxcrypt
// knows.
const (
	ruleImxcrypt    = "imxcrypt"
	ruleRequirement = "unknown-requirement"
)

// knownRequirements are those of the LUKS2 specification (config.requirements),
// those that cryptsetup has added to it since, and ours.
func knownRequirements() []string {
	return []string{
		"offline-reencrypt", "online-reencrypt", "online-reencrypt-v2", "online-reencrypt-v3", "inline-hw-tags", "opal",
		Requirement, RequirementRotate,
	}
}

// CheckHeader judges any LUKS2 header, cryptsetup's too, by the specification,
// at the start of a device, an image or a file. The report is filled in as far
// as possible with an error too; the error is of code header-damaged,
// header-invalid or header-version where the header is not valid, of code
// header-requirement where it demands what no known program knows, and what
// opening or reading gave otherwise.
func (m *Manager) CheckHeader(path string) (r HeaderReport, err error) {
	r = HeaderReport{Path: path, Requirements: []string{}, Copies: []HeaderCopy{}, Problems: []string{}}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if err := r.judge(dev); err != nil {
		var rule *luks2.InvalidError
		if r.Rule == "" && errors.As(err, &rule) {
			r.Rule = string(rule.Rule)
		}
		return r, fmt.Errorf("header on %s: %w", path, err)
	}
	r.Valid = true
	return r, nil
}

func (r *HeaderReport) judge(dev Device) error {
	report, err := luks2.Check(dev, dev.Size(), -1)
	for _, c := range []luks2.Copy{report.Copies.Primary, report.Copies.Secondary} {
		out := HeaderCopy{Offset: c.Offset, State: string(c.State), Sequence: c.SeqID}
		if c.Err != nil {
			out.Problem = c.Err.Error()
		}
		r.Copies = append(r.Copies, out)
	}
	r.Problems = append(r.Problems, report.Problems...)
	if errors.Is(err, luks2.ErrNotLUKS) {
		r.Rule = string(luks2.RuleMagic)
		if found, ok, readErr := readEraseRecord(dev); readErr == nil && ok {
			r.Problems = append(r.Problems, found.String())
		}
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
	// A file as long as the header area is a backup, or a detached header; of
	// everything else that has its data behind it the end is known.
	if !r.Detached && dev.Size() > lh.Area() {
		if err := lh.CheckData(dev.Size()); err != nil {
			return err
		}
	}
	r.Imxcrypt = lh.Requires(Requirement) && lh.Subsystem == Subsystem
	if err := lh.CheckRequirements(knownRequirements()...); err != nil {
		r.Rule = ruleRequirement
		return err
	}
	return r.ours(lh, report.Copies)
}

// ours adds what the members of a volume of ours say.
func (r *HeaderReport) ours(lh *luks2.Header, copies luks2.Copies) error {
	if !r.Imxcrypt {
		return nil
	}
	h, err := understand(lh, copies, r.Path)
	if fault.Is(err, fault.HeaderRequirement) {
		r.Problems = append(r.Problems, err.Error())
		return nil
	}
	if err != nil {
		r.Rule = ruleImxcrypt
		return err
	}
	if h.underRotation() {
		r.Problems = append(r.Problems, fmt.Sprintf("a rotation to generation %d is under way: the data is under two keys", h.token.Generation+1))
	}
	r.Volume = &HeaderContent{
		Source: h.token.Source, Phase: h.token.Phase, Generation: h.token.Generation, Wrap: string(h.token.Wrap),
		KeySize: h.token.KeySize, Cipher: h.segment.Encryption, SectorSize: h.segment.SectorSize,
		DataOffset: h.segment.Offset, DataSize: h.segment.Size, SecurityState: string(h.token.State),
		Filesystem: h.token.Filesystem, Recipients: append([]string{}, h.token.Recovery.Recipients...),
	}
	return nil
}
