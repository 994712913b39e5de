// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"imxcrypt/caam"
	"imxcrypt/luks2"
)

// Requirement is the mandatory requirement of every header of ours: it keeps
// cryptsetup from removing the token, which holds the only blob.
const Requirement = "imxcrypt-v1"

// Subsystem is the header's subsystem field.
const Subsystem = "imxcrypt"

const (
	tokenType  = "imxcrypt"
	digestType = "imxcrypt-check"
)

// Phase tells how far provisioning went.
type Phase string

// A volume in PhaseProvisioning holds no data yet; a volume in PhaseReady is
// never formatted again.
const (
	PhaseProvisioning Phase = "provisioning"
	PhaseReady        Phase = "ready"
	// PhaseErasing: erase has begun, and nothing opens the volume any more.
	PhaseErasing Phase = "erasing"
	// PhaseRotating is that of the token whose key a rotation is moving the data
	// to; the old key's token stays ready.
	PhaseRotating Phase = "rotating"
)

// Token is the LUKS2 token that holds a volume's sealed key and what must be
// known to use it. Numbers are strings in JSON, as LUKS2 has it.
type Token struct {
	Source string
	Phase  Phase
	// Generation counts the volume's keys, from 1.
	Generation int
	// Blob is the sealed key; empty for the dev source.
	Blob []byte
	Wrap caam.Wrap
	// KeySize is the red key's size in bytes.
	KeySize int
	// State is the chip's security state when the key was made.
	State    caam.SecurityState
	Segments []string
	Created  time.Time
	// Filesystem is what mkfs made; empty before, and for none.
	Filesystem FilesystemID
	// Recovery is a copy of the red key for whoever has a recovery identity; by
	// default there is none.
	Recovery Recovery
}

// FilesystemID is how a filesystem is known again.
type FilesystemID struct {
	Type string `json:"type"`
	UUID string `json:"uuid,omitempty"`
}

type tokenJSON struct {
	Source     string        `json:"source"`
	Phase      Phase         `json:"phase"`
	Generation string        `json:"generation"`
	Blob       string        `json:"blob,omitempty"`
	Wrap       string        `json:"wrap,omitempty"`
	KeySize    int           `json:"key_size"`
	State      string        `json:"state"`
	Segments   []string      `json:"segments"`
	Created    string        `json:"created"`
	Filesystem *FilesystemID `json:"filesystem,omitempty"`
	Recovery   *recoveryJSON `json:"recovery,omitempty"`
}

// luks is the token as it stands in the header.
func (t Token) luks() (luks2.Token, error) {
	j := tokenJSON{
		Source: t.Source, Phase: t.Phase,
		Generation: strconv.Itoa(t.Generation), Blob: base64.StdEncoding.EncodeToString(t.Blob),
		Wrap: string(t.Wrap), KeySize: t.KeySize, State: string(t.State), Segments: t.Segments,
		Created: t.Created.UTC().Format(time.RFC3339),
	}
	if t.Filesystem.Type != "" {
		j.Filesystem = &t.Filesystem
	}
	j.Recovery = t.Recovery.json()
	out := luks2.Token{Type: tokenType, Keyslots: []string{}}
	return out, out.Extra.Set(j)
}

// maxGeneration bounds what is believed of a header; nobody rotates a million
// times.
const maxGeneration = 1_000_000

// parseToken reads a token of type imxcrypt. Everything in it comes from the
// disk, so everything is checked; a member it does not know is an error, since
// a later version would have added a requirement for what must be understood.
func parseToken(raw luks2.Token) (Token, error) {
	var j tokenJSON
	if err := raw.Extra.DecodeStrict(&j); err != nil {
		return Token{}, fmt.Errorf("token: %w", err)
	}
	bad := func(field string, value any) (Token, error) {
		return Token{}, fmt.Errorf("token: %s %q is not valid", field, fmt.Sprint(value))
	}
	if raw.Type != tokenType || len(raw.Keyslots) != 0 {
		return bad("type", raw.Type)
	}
	switch j.Phase {
	case PhaseProvisioning, PhaseReady, PhaseErasing, PhaseRotating:
	default:
		return bad("phase", j.Phase)
	}
	generation, err := strconv.Atoi(j.Generation)
	if err != nil || generation < 1 || generation > maxGeneration || strconv.Itoa(generation) != j.Generation {
		return bad("generation", j.Generation)
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(j.Blob)
	if err != nil {
		return bad("blob", "(not base64)")
	}
	switch j.Source {
	case SourceCAAM:
		parsed, err := caam.ParseBlob(blob)
		if err != nil {
			return Token{}, fmt.Errorf("token: %w", err)
		}
		blob = parsed
		if w := caam.Wrap(j.Wrap); w != caam.ECB && w != caam.CCM {
			return bad("wrap", j.Wrap)
		}
	case SourceDev:
		if len(blob) != 0 || j.Wrap != "" {
			return bad("blob", "(a dev key has none)")
		}
	default:
		return bad("source", j.Source)
	}
	if j.KeySize < 16 || j.KeySize > 64 || j.KeySize%8 != 0 {
		return bad("key_size", j.KeySize)
	}
	switch caam.SecurityState(j.State) {
	case caam.Open, caam.Closed, caam.Unknown:
	default:
		return bad("state", j.State)
	}
	if len(j.Segments) != 1 {
		return bad("segments", j.Segments)
	}
	created, err := time.Parse(time.RFC3339, j.Created)
	if err != nil {
		return bad("created", j.Created)
	}
	t := Token{
		Source: j.Source, Phase: j.Phase, Generation: generation, Blob: blob, Wrap: caam.Wrap(j.Wrap),
		KeySize: j.KeySize, State: caam.SecurityState(j.State), Segments: j.Segments, Created: created,
	}
	if j.Filesystem != nil {
		if j.Filesystem.Type == "" || len(j.Filesystem.Type) > 16 || len(j.Filesystem.UUID) > 64 {
			return bad("filesystem", j.Filesystem.Type)
		}
		t.Filesystem = *j.Filesystem
	}
	if t.Recovery, err = parseRecovery(j.Recovery, j.Source); err != nil {
		return Token{}, fmt.Errorf("token: recovery: %w", err)
	}
	return t, nil
}
