// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// Recovery is the red key of a volume, sealed to age recipients (X25519,
// age-encryption.org/v1). Whoever has the identity of one of them opens the
// volume off its board; that is its purpose, and why there is none by default.
type Recovery struct {
	// Recipients are "age1…", as they were given. They are not secret.
	Recipients []string
	// Sealed is the age file. Its plaintext is a line
	// "imxcrypt-recovery-v1 UUID GENERATION" and the key's bytes.
	Sealed []byte
}

// Made tells whether there is a recovery copy.
func (r Recovery) Made() bool { return len(r.Sealed) > 0 }

type recoveryJSON struct {
	Recipients []string `json:"recipients"`
	Sealed     string   `json:"sealed"`
}

// Bounds of what is believed of a header. An age file of so small a plaintext
// has some 200 bytes, and 100 for each recipient.
const (
	maxRecipients = 8
	maxSealed     = 4096
	maxRecipient  = 128
)

func (r Recovery) json() *recoveryJSON {
	if !r.Made() {
		return nil
	}
	return &recoveryJSON{Recipients: r.Recipients, Sealed: base64.StdEncoding.EncodeToString(r.Sealed)}
}

func parseRecovery(j *recoveryJSON, sourceName string) (Recovery, error) {
	if j == nil {
		return Recovery{}, nil
	}
	if sourceName != SourceCAAM {
		return Recovery{}, fmt.Errorf("a key of source %q has none", sourceName)
	}
	if len(j.Recipients) == 0 || len(j.Recipients) > maxRecipients {
		return Recovery{}, fmt.Errorf("%d recipients", len(j.Recipients))
	}
	for _, text := range j.Recipients {
		if _, err := parseRecipient(text); err != nil {
			return Recovery{}, err
		}
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(j.Sealed)
	if err != nil || len(sealed) == 0 || len(sealed) > maxSealed {
		return Recovery{}, fmt.Errorf("sealed key of %d characters is not valid", len(j.Sealed))
	}
	return Recovery{Recipients: j.Recipients, Sealed: sealed}, nil
}

func parseRecipient(text string) (age.Recipient, error) {
	if len(text) > maxRecipient {
		return nil, fmt.Errorf("recipient of %d characters is not an age X25519 recipient", len(text))
	}
	r, err := age.ParseX25519Recipient(text)
	if err != nil {
		return nil, fmt.Errorf("recipient %q is not an age X25519 recipient (age1…): %w", text, err)
	}
	return r, nil
}

// checkRecipients judges what was given on the command line.
func checkRecipients(s Spec, recipients []string) error {
	if len(recipients) == 0 {
		return nil
	}
	if s.Source != SourceCAAM {
		return refuse(fault.Usage, "a recovery copy is for keys of source caam; that of source %s lies in a file", s.Source)
	}
	if len(recipients) > maxRecipients {
		return refuse(fault.Usage, "%d recipients, at most %d are possible", len(recipients), maxRecipients)
	}
	for i, text := range recipients {
		if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
			// Not quoted: it is a secret.
			return refuse(fault.Usage, "recipient %d is an identity, which is secret; give its public key, age1… (age-keygen -y)", i+1)
		}
		if _, err := parseRecipient(text); err != nil {
			return fault.New(fault.Usage, "--recipient", err)
		}
	}
	return nil
}

// recoveryPrefix binds a sealed key to its volume, so that one that was moved
// to another header is recognised.
func recoveryPrefix(uuid string, generation int) string {
	return fmt.Sprintf("imxcrypt-recovery-v1 %s %d\n", uuid, generation)
}

// seal makes the recovery copy of a red key, which stays the caller's.
func seal(red *secret.Buffer, uuid string, generation int, recipients []string) (Recovery, error) {
	var to []age.Recipient
	for _, text := range recipients {
		r, err := parseRecipient(text)
		if err != nil {
			return Recovery{}, err
		}
		to = append(to, r)
	}
	prefix := recoveryPrefix(uuid, generation)
	plain, err := secret.New(len(prefix) + red.Len())
	if err != nil {
		return Recovery{}, err
	}
	defer plain.Wipe()
	copy(plain.Bytes()[copy(plain.Bytes(), prefix):], red.Bytes())
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to...)
	if err == nil {
		_, err = w.Write(plain.Bytes())
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return Recovery{}, fmt.Errorf("seal the recovery copy: %w", err)
	}
	return Recovery{Recipients: recipients, Sealed: sealed.Bytes()}, nil
}

// maxIdentities bounds an identity file, in bytes.
const maxIdentities = 1 << 20

// parseIdentities reads an identity file as age.ParseIdentities does, of the one
// kind that recipients here can be of: the library's function would bring all
// other kinds along, half a megabyte of them.
func parseIdentities(r io.Reader) (ids []age.Identity, err error) {
	text, err := io.ReadAll(io.LimitReader(r, maxIdentities+1))
	defer clear(text)
	if err != nil {
		return nil, err
	}
	if len(text) > maxIdentities {
		return nil, errors.New("too long")
	}
	for line := range bytes.Lines(text) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 || line[0] == '#' {
			continue
		}
		id, err := age.ParseX25519Identity(string(line))
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("no identities")
	}
	return ids, nil
}

// unseal opens the recovery copy of a header with identities in age's format.
// The caller wipes the key. The library's own buffers cannot be locked or
// wiped: the process ends soon after, and nothing else goes on in it.
func (h *header) unseal(identities io.Reader) (_ *secret.Buffer, err error) {
	if h.next != nil {
		return nil, refuse(fault.Busy, "a rotation is under way: the data is under two keys, and one alone would read noise; finish it on its board")
	}
	if !h.token.Recovery.Made() {
		return nil, refuse(fault.RecoveryMissing, "the volume %q has no recovery copy of its key", h.luks.Label)
	}
	ids, err := parseIdentities(identities)
	if err != nil {
		// Not wrapped: the library's error may quote the line, which is secret.
		return nil, refuse(fault.Usage, "the identity file holds no age identity (AGE-SECRET-KEY-1…, one a line; one that is protected with a passphrase is opened with age first)")
	}
	wrong := func(err error) error {
		return fault.New(fault.IdentityWrong, "the identity does not open the recovery copy, which was sealed to "+strings.Join(h.token.Recovery.Recipients, ", "), err)
	}
	r, err := age.Decrypt(bytes.NewReader(h.token.Recovery.Sealed), ids...)
	if err != nil {
		if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
			err = nil // its text lists each stanza
		}
		return nil, wrong(err)
	}
	prefix := recoveryPrefix(h.luks.UUID, h.token.Generation)
	plain, err := secret.New(len(prefix) + h.token.KeySize)
	if err != nil {
		return nil, err
	}
	defer plain.Wipe()
	var more [1]byte
	if _, err := io.ReadFull(r, plain.Bytes()); err != nil {
		return nil, wrong(err)
	}
	if n, err := r.Read(more[:]); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return nil, wrong(errors.New("it holds more than a key"))
	}
	if !bytes.HasPrefix(plain.Bytes(), []byte(prefix)) {
		return nil, refuse(fault.HeaderMismatch, "the recovery copy in the header is that of another volume or generation")
	}
	red, err := secret.New(h.token.KeySize)
	if err != nil {
		return nil, err
	}
	copy(red.Bytes(), plain.Bytes()[len(prefix):])
	return red, nil
}

// drawRed draws a key without a zero byte: drivers up to Linux 5.10 take a key
// that is given to them for a C string, and cut it there. What that costs is
// 0.006 bits of each byte, less than two bits of 256.
func drawRed(random io.Reader, size int) (*secret.Buffer, error) {
	red, err := secret.New(size)
	if err != nil {
		return nil, err
	}
	b := red.Bytes()
	for i := range b {
		for b[i] == 0 {
			if _, err := io.ReadFull(random, b[i:i+1]); err != nil {
				red.Wipe()
				return nil, fmt.Errorf("draw a key: %w", err)
			}
		}
	}
	return red, nil
}

// createFrom has the chip seal a key that is given.
func (c chipSource) createFrom(ctx context.Context, r keyRequest, red *secret.Buffer) (liveKey, []byte, error) {
	with, ok := c.chip.(importer)
	if !ok {
		return nil, nil, refuse(fault.CAAMBadArgument, "this engine does not import plain keys: they would be seen in its arguments")
	}
	black, blob, err := with.CreateFrom(ctx, r.wrap, red)
	if err != nil {
		return nil, nil, err
	}
	if black.RedKeyLen() != r.keySize || black.Wrap() != r.wrap {
		defer black.Wipe()
		return nil, nil, refuse(fault.KeyLengthMismatch, "the chip made a %s key of %d bytes of one of %d", black.Wrap(), black.RedKeyLen(), r.keySize)
	}
	return &logonKey{payload: black.Bytes(), release: black.Wipe, ring: c.ring}, blob, nil
}

// importing is a source that takes a key that is given.
type importing interface {
	createFrom(ctx context.Context, r keyRequest, red *secret.Buffer) (liveKey, []byte, error)
}

// newKey makes a key of a generation: in the chip alone or, with recipients,
// with a recovery copy sealed to them. red is the plain key then, nil otherwise;
// the caller wipes both.
func newKey(ctx context.Context, src source, random io.Reader, r keyRequest, recipients []string) (key liveKey, blob []byte, copied Recovery, red *secret.Buffer, err error) {
	if len(recipients) == 0 {
		key, blob, err = src.create(ctx, r)
		return key, blob, copied, nil, err
	}
	into, ok := src.(importing)
	if !ok {
		return nil, nil, copied, nil, refuse(fault.Usage, "a recovery copy is for keys of source caam")
	}
	if red, err = drawRed(random, r.keySize); err != nil {
		return nil, nil, copied, nil, err
	}
	if copied, err = seal(red, r.uuid, r.generation, recipients); err == nil {
		key, blob, err = into.createFrom(ctx, r, red)
	}
	if err != nil {
		red.Wipe()
		return nil, nil, copied, nil, err
	}
	return key, blob, copied, red, nil
}

// plainCipher is the cipher that reads, with the red key, what tk() wrote with
// the black one: the same algorithm without the hardware.
func plainCipher(cipher string) string { return strings.Replace(cipher, "tk(cbc(aes))", "cbc(aes)", 1) }

var _ importing = chipSource{}
