// SPDX-License-Identifier: Apache-2.0

package header

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"imxcrypt/caam"
	"imxcrypt/internal/keysource"
	"imxcrypt/luks2"
	"imxcrypt/volume/spec"
)

// Requirement is the mandatory requirement of every header of ours. It keeps cryptsetup
// from removing the token, which holds the only blob.
const Requirement = "imxcrypt-v1"

// Subsystem is the header's subsystem field.
const Subsystem = "imxcrypt"

const (
	tokenType  = "imxcrypt"
	digestType = "imxcrypt-check"
)

// Phase says how far provisioning went.
type Phase string

// A volume in PhaseProvisioning holds no data yet; a volume in PhaseReady is
// never formatted again.
const (
	PhaseProvisioning Phase = "provisioning"
	PhaseReady        Phase = "ready"
	// PhaseErasing: erase has begun, and nothing opens the volume any more.
	PhaseErasing Phase = "erasing"
	// PhaseRotating is the phase of the token whose key a rotation is moving the data to;
	// the old key's token stays ready.
	PhaseRotating Phase = "rotating"
	// PhaseEncrypting and PhaseDecrypting are reported by status for a volume that is
	// partly in plaintext; no token has them.
	PhaseEncrypting Phase = "encrypting"
	PhaseDecrypting Phase = "decrypting"
)

// Token is the LUKS2 token that holds a volume's sealed key and what is needed to use it.
// Numbers are strings in JSON, as LUKS2 requires.
type Token struct {
	Source string
	Phase  Phase
	// Generation counts the volume's keys, from 1.
	Generation int
	// Blob is the sealed key; empty for the dev source.
	Blob []byte
	// Wrap is how the key is encrypted in the kernel. With source trusted it is set for a
	// protected key, and otherwise empty.
	Wrap caam.Wrap
	// KeySize is the red key's size in bytes.
	KeySize int
	// State is the chip's security state when the key was made.
	State    caam.SecurityState
	Segments []string
	Created  time.Time
	// Filesystem is what mkfs made; empty before that, and if there is none.
	Filesystem FilesystemID
	// Recovery is a copy of the red key for the holders of a recovery identity. By
	// default there is none.
	Recovery Recovery
}

// FilesystemID is how a filesystem is recognized.
type FilesystemID struct {
	Type string `json:"type"`
	UUID string `json:"uuid,omitempty"`
}

type tokenJSON struct {
	Source     string        `json:"source"`
	Phase      Phase         `json:"phase"`
	Generation string        `json:"generation"`
	Blob       string        `json:"blob,omitempty"`
	Trust      string        `json:"trust,omitempty"`
	Wrap       string        `json:"wrap,omitempty"`
	KeySize    int           `json:"key_size"`
	State      string        `json:"state"`
	Segments   []string      `json:"segments"`
	Created    string        `json:"created"`
	Filesystem *FilesystemID `json:"filesystem,omitempty"`
	Recovery   *recoveryJSON `json:"recovery,omitempty"`
}

// luks returns the token as it is stored in the header.
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
	j.Trust = t.Trust()
	out := luks2.Token{Type: tokenType, Keyslots: []string{}}
	return out, out.Extra.Set(j)
}

// Trust returns the trust source that sealed a trusted key; empty for keys of other
// sources.
func (t Token) Trust() string {
	if t.Source != spec.SourceTrusted {
		return ""
	}
	return keysource.TrustOf(t.Blob, t.KeySize)
}

// Protected reports whether the key is a trusted key that only the CAAM sees. The
// hardware is not asked for such a key before something is read.
func (t Token) Protected() bool { return t.Source == spec.SourceTrusted && t.Wrap != "" }

// Keys returns the name that package keysource has for the token's key.
func (t Token) Keys() string { return keysource.Kind(t.Source, t.Protected()) }

// maxGeneration is the largest generation accepted from a header; no volume is rotated a
// million times.
const maxGeneration = 1_000_000

// parseToken reads a token of type imxcrypt. Everything in it comes from the disk, so
// everything is checked. An unknown member is an error, since a later version would have
// added a requirement for anything that must be understood.
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
	if j.Trust != "" && j.Source != spec.SourceTrusted {
		return bad("trust", j.Trust)
	}
	switch j.Source {
	case spec.SourceCAAM:
		parsed, err := caam.ParseBlob(blob)
		if err != nil {
			return Token{}, fmt.Errorf("token: %w", err)
		}
		blob = parsed
		if _, err := caam.ParseWrap(j.Wrap); err != nil {
			return bad("wrap", j.Wrap)
		}
	case spec.SourceTrusted:
		if is := keysource.TrustOf(blob, j.KeySize); is == "" || is != j.Trust {
			return bad("trust", j.Trust)
		}
		if _, err := caam.ParseWrap(j.Wrap); err != nil && j.Wrap != "" {
			return bad("wrap", j.Wrap)
		}
		if j.Wrap != "" && j.Trust != keysource.TrustCAAM {
			return bad("trust", j.Trust)
		}
	case spec.SourceDev:
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
