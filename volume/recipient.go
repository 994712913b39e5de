// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// copies are the recovery copies that a new key gets.
type copies struct {
	recipients []string
	// passphrase, if not nil, asks for a copy that opens with a passphrase, and receives
	// its words before anything is written.
	passphrase func(words string) error
}

func (c copies) any() bool { return len(c.recipients) > 0 || c.passphrase != nil }

// asIn reports whether r has copies of the same kinds, for the same recipients.
func (c copies) asIn(r header.Recovery) bool {
	return slices.Equal(c.recipients, r.Recipients) && (c.passphrase != nil) == r.ByPassphrase()
}

// String says whom the copies are for.
func (c copies) String() string {
	r := header.Recovery{Recipients: c.recipients}
	if c.passphrase != nil {
		r.WithPassphrase = []byte{0}
	}
	return r.String()
}

// permitted checks what was given on the command line.
func (c copies) permitted(s spec.Volume) error {
	if !c.any() {
		return nil
	}
	recipients := c.recipients
	if s.Source != spec.SourceCAAM {
		why := "is in a file"
		if s.Source == spec.SourceTrusted {
			why = "never leaves the kernel, which accepts no key from outside: back up the data instead, or, with the header in a file, decrypt the volume in place (`imxcrypt decrypt`) before the chip changes its state and encrypt it after"
		}
		return fault.Newf(fault.Usage, "only keys of source caam can have a recovery copy; a key of source %s %s", s.Source, why)
	}
	if len(recipients) > header.MaxRecipients {
		return fault.Newf(fault.Usage, "%d recipients, at most %d are possible", len(recipients), header.MaxRecipients)
	}
	for i, text := range recipients {
		if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
			// Not quoted: it is a secret.
			return fault.Newf(fault.Usage, "recipient %d is an identity, which is secret; give its public key, age1… (age-keygen -y)", i+1)
		}
		if _, err := header.ParseRecipient(text); err != nil {
			return fault.New(fault.Usage, "--recipient", err)
		}
	}
	return nil
}

// recoveryPrefix binds a sealed key to its volume, so that one moved to another header is
// recognised.
func recoveryPrefix(uuid string, generation int) string {
	return fmt.Sprintf("imxcrypt-recovery-v1 %s %d\n", uuid, generation)
}

// seal makes the recovery copies of a red key, which stays the caller's. words is the
// passphrase if one of the copies opens with one.
func (c copies) seal(red *secret.Buffer, random io.Reader, uuid string, generation int) (r header.Recovery, words string, err error) {
	if len(c.recipients) > 0 {
		var to []age.Recipient
		for _, text := range c.recipients {
			one, err := header.ParseRecipient(text)
			if err != nil {
				return r, "", err
			}
			to = append(to, one)
		}
		r.Recipients = c.recipients
		if r.Sealed, err = sealTo(red, uuid, generation, to...); err != nil {
			return r, "", err
		}
	}
	if c.passphrase == nil {
		return r, "", nil
	}
	if words, err = drawPassphrase(random); err != nil {
		return r, "", err
	}
	r.WithPassphrase, err = sealWithPassphrase(red, uuid, generation, words)
	return r, words, err
}

// maxIdentities bounds an identity file, in bytes.
const maxIdentities = 1 << 20

// parseIdentities reads an identity file as age.ParseIdentities does, but only the one
// kind that recipients here can have: the library's function would add half a megabyte
// for all other kinds.
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

// Opener opens a recovery copy without the board that the volume was made on.
type Opener struct {
	// Identities is an age identity file. It is read at most once.
	Identities io.Reader
	// Passphrase, if not nil, asks for the recovery passphrase. Otherwise Identities is
	// used.
	Passphrase func() (string, error)
}

// identities returns the identities to use and the sealed copy that they are to open.
func (o Opener) identities(h *header.Header) (ids []age.Identity, sealed []byte, err error) {
	r := h.Token.Recovery
	if o.Passphrase == nil {
		if len(r.Sealed) == 0 {
			return nil, nil, fault.Newf(fault.RecoveryMissing, "the recovery copy of the volume %q opens with a passphrase only", h.LUKS.Label)
		}
		if ids, err = parseIdentities(o.Identities); err != nil {
			// Not wrapped: the library's error may quote the line, which is secret.
			return nil, nil, fault.Newf(fault.Usage, "the identity file holds no age identity (AGE-SECRET-KEY-1…, one a line; one that is protected with a passphrase is opened with age first)")
		}
		return ids, r.Sealed, nil
	}
	if !r.ByPassphrase() {
		return nil, nil, fault.Newf(fault.RecoveryMissing, "the volume %q has no recovery copy that opens with a passphrase", h.LUKS.Label)
	}
	text, err := o.Passphrase()
	if err != nil {
		return nil, nil, err
	}
	id, err := passphraseIdentity(text)
	return []age.Identity{id}, r.WithPassphrase, err
}

// unseal opens a recovery copy of a header. The caller wipes the key. The library's own
// buffers cannot be locked or wiped, but the process ends soon after and does nothing
// else.
func (o Opener) unseal(h *header.Header) (_ *secret.Buffer, err error) {
	if h.Next != nil {
		return nil, fault.Newf(fault.RotationUnderWay, "a rotation is under way: the data is under two keys, and one alone would read noise; finish it on its board")
	}
	if !h.Token.Recovery.Made() {
		return nil, fault.Newf(fault.RecoveryMissing, "the volume %q has no recovery copy of its key", h.LUKS.Label)
	}
	ids, sealed, err := o.identities(h)
	if err != nil {
		return nil, err
	}
	wrong := func(err error) error {
		if o.Passphrase != nil {
			return fault.New(fault.IdentityWrong, "the passphrase does not open the recovery copy", err)
		}
		return fault.New(fault.IdentityWrong, "the identity does not open the recovery copy, which was sealed to "+strings.Join(h.Token.Recovery.Recipients, ", "), err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
			err = nil // its text lists each stanza
		}
		return nil, wrong(err)
	}
	prefix := recoveryPrefix(h.LUKS.UUID, h.Token.Generation)
	plain, err := secret.New(len(prefix) + h.Token.KeySize)
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
		return nil, fault.Newf(fault.HeaderMismatch, "the recovery copy in the header is that of another volume or generation")
	}
	red, err := secret.New(h.Token.KeySize)
	if err != nil {
		return nil, err
	}
	copy(red.Bytes(), plain.Bytes()[len(prefix):])
	return red, nil
}

// drawRed draws a key without a zero byte: drivers up to Linux 5.10 treat a key that is
// given to them as a C string and cut it there. This costs 0.006 bits of each byte, less
// than two bits of 256.
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

// newKey makes a key of a generation, in the chip alone or with recovery copies. With
// copies red is the plain key, otherwise nil. The caller wipes both. A passphrase is
// shown here, before any header has the copy: the last one that was shown is the right
// one.
func (m *Manager) newKey(ctx context.Context, src source.Source, r source.Request, want copies) (key source.Key, blob []byte, copied header.Recovery, red *secret.Buffer, err error) {
	if err := m.sys.Harden(); err != nil {
		return nil, nil, copied, nil, err
	}
	if !want.any() {
		key, blob, err = src.Create(ctx, r)
		return key, blob, copied, nil, err
	}
	into, ok := src.(source.Importer)
	if !ok {
		return nil, nil, copied, nil, fault.Newf(fault.Usage, "only keys of source caam can have a recovery copy")
	}
	if red, err = drawRed(m.sys.Rand, r.KeySize); err != nil {
		return nil, nil, copied, nil, err
	}
	copied, words, err := want.seal(red, m.sys.Rand, r.UUID, r.Generation)
	if err == nil {
		key, blob, err = into.CreateFrom(ctx, r, red)
	}
	if err == nil && want.passphrase != nil {
		if err = want.passphrase(words); err != nil {
			key.Wipe()
			err = fmt.Errorf("show the recovery passphrase: %w", err)
		}
	}
	if err != nil {
		red.Wipe()
		return nil, nil, copied, nil, err
	}
	return key, blob, copied, red, nil
}
