// SPDX-License-Identifier: Apache-2.0

package header

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// Recovery is the red key of a volume, sealed to age recipients (X25519,
// age-encryption.org/v1). Anyone with the identity of one of them can open the volume off
// its board; that is its purpose, and why there is none by default.
type Recovery struct {
	// Recipients are "age1…" strings, as they were given. They are not secret.
	Recipients []string
	// Sealed is the age file for them. Its plaintext is a line
	// "imxcrypt-recovery-v1 UUID GENERATION" and the key's bytes.
	Sealed []byte
	// WithPassphrase is another age file with the same plaintext, which opens with a
	// passphrase: age allows no other recipient beside one.
	WithPassphrase []byte
}

// Made reports whether there is a recovery copy.
func (r Recovery) Made() bool { return len(r.Sealed) > 0 || r.ByPassphrase() }

// ByPassphrase reports whether there is a copy that opens with a passphrase.
func (r Recovery) ByPassphrase() bool { return len(r.WithPassphrase) > 0 }

// String names the recipients of the copies.
func (r Recovery) String() string {
	who := slices.Clone(r.Recipients)
	if r.ByPassphrase() {
		who = append(who, "a passphrase")
	}
	return strings.Join(who, ", ")
}

type recoveryJSON struct {
	Recipients     []string `json:"recipients,omitempty"`
	Sealed         string   `json:"sealed,omitempty"`
	WithPassphrase string   `json:"with_passphrase,omitempty"`
}

// Limits on what is accepted from a header. An age file with so small a plaintext has
// about 200 bytes, plus 100 for each recipient.
const (
	MaxRecipients = 8
	maxSealed     = 4096
	maxRecipient  = 128
)

func (r Recovery) json() *recoveryJSON {
	if !r.Made() {
		return nil
	}
	return &recoveryJSON{
		Recipients: r.Recipients, Sealed: base64.StdEncoding.EncodeToString(r.Sealed),
		WithPassphrase: base64.StdEncoding.EncodeToString(r.WithPassphrase),
	}
}

func parseRecovery(j *recoveryJSON, sourceName string) (Recovery, error) {
	if j == nil {
		return Recovery{}, nil
	}
	if sourceName != spec.SourceCAAM {
		return Recovery{}, fmt.Errorf("a key of source %q has none", sourceName)
	}
	if len(j.Recipients) > MaxRecipients || (len(j.Recipients) == 0) != (j.Sealed == "") || j.Sealed+j.WithPassphrase == "" {
		return Recovery{}, fmt.Errorf("%d recipients of a sealed key of %d characters", len(j.Recipients), len(j.Sealed))
	}
	for _, text := range j.Recipients {
		if _, err := ParseRecipient(text); err != nil {
			return Recovery{}, err
		}
	}
	r := Recovery{Recipients: j.Recipients}
	for _, file := range []struct {
		to   *[]byte
		text string
	}{{&r.Sealed, j.Sealed}, {&r.WithPassphrase, j.WithPassphrase}} {
		sealed, err := base64.StdEncoding.Strict().DecodeString(file.text)
		if err != nil || len(sealed) > maxSealed {
			return Recovery{}, fmt.Errorf("sealed key of %d characters is not valid", len(file.text))
		}
		*file.to = sealed
	}
	return r, nil
}

// ParseRecipient reads the public half of a recovery identity.
func ParseRecipient(text string) (age.Recipient, error) {
	if len(text) > maxRecipient {
		return nil, fmt.Errorf("recipient of %d characters is not an age X25519 recipient", len(text))
	}
	r, err := age.ParseX25519Recipient(text)
	if err != nil {
		return nil, fmt.Errorf("recipient %q is not an age X25519 recipient (age1…): %w", text, err)
	}
	return r, nil
}

// plainCipher returns the cipher that reads, with the red key, what tk() wrote with the
// black key: the same algorithm without the hardware.
func plainCipher(cipher string) string { return strings.Replace(cipher, "tk(cbc(aes))", "cbc(aes)", 1) }

// A recovery copy does not say who sealed it: the recipient is public. Anyone who can
// write to the storage can seal a key of their own to the recipient, with a matching
// header, check and filesystem. A board that accepts this key writes data that they can
// read. So the copy is identified by its fingerprint, which is noted where the volume is
// made and compared before a chip accepts the key.

// fingerprintSize is the size of a fingerprint in bytes. A forged copy would need the
// same fingerprint as a given one, which 128 bits make impossible; a chosen pair with the
// same fingerprint is of no use. So half a SHA-256 is enough, and it can be read out.
const fingerprintSize = 16

// Fingerprint returns the fingerprint of the recovery copy, in eight groups of four
// hexadecimal digits, or "" if there is no copy. It is the hash of the copy itself, as it
// is stored, with what it is bound to. The age file opens to one key only, so its hash
// stands for that key. Unlike a hash of the key it reveals nothing about it, and anyone
// with the header can compute it. Restoring a backup and resealing keep it; a rotation
// makes another copy, of another key.
func (h *Header) Fingerprint() string {
	if !h.Token.Recovery.Made() {
		return ""
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "imxcrypt-recovery-fingerprint-v1\x00%s\x00%d\x00", h.LUKS.UUID, h.Token.Generation)
	sum.Write(h.Token.Recovery.Sealed)
	if h.Token.Recovery.ByPassphrase() {
		sum.Write([]byte("\x00passphrase\x00"))
		sum.Write(h.Token.Recovery.WithPassphrase)
	}
	text := hex.EncodeToString(sum.Sum(nil)[:fingerprintSize])
	groups := make([]string, 0, len(text)/4)
	for ; text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return strings.Join(groups, "-")
}

// parseFingerprint accepts a fingerprint as people write it.
func parseFingerprint(text string) (string, error) {
	digits := strings.NewReplacer("-", "", " ", "", ":", "").Replace(strings.ToLower(strings.TrimSpace(text)))
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != fingerprintSize {
		return "", fault.Newf(fault.Usage, "%q is not a fingerprint of a recovery copy: that has eight groups of four hexadecimal digits", text)
	}
	return digits, nil
}

// MatchFingerprint enforces that the recovery copy has the noted fingerprint.
func (h *Header) MatchFingerprint(noted string) error {
	want, err := parseFingerprint(noted)
	if err != nil {
		return err
	}
	if has, err := parseFingerprint(h.Fingerprint()); err != nil || has != want {
		return fault.Newf(fault.FingerprintWrong, "the recovery copy in the header is not the one with the fingerprint %s", noted)
	}
	return nil
}

// WithRedKey returns the header as a machine without the hardware uses it, with the red
// key. It is never written.
func (h *Header) WithRedKey() *Header {
	p := *h
	p.Segment.Encryption = plainCipher(h.Segment.Encryption)
	return &p
}
