// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// A recovery passphrase is 128 random bits as eight words of five letters: consonant,
// vowel, consonant, vowel, consonant. That makes 16 × 4 × 16 × 4 × 16 = 2¹⁶ words
// (proquints, arXiv:0901.4016). They can be read aloud and need no word list.
const (
	passphraseWords = 8
	consonants      = "bdfghjklmnprstvz"
	vowels          = "aiou"
)

// No one guesses 128 random bits, however fast, so scrypt's work has no purpose here. Its
// memory, 128·8·2ⁿ bytes, must fit on a board: 16 MiB. Reading accepts age's own default,
// and no header can ask for more memory.
const (
	passphraseWork    = 14
	maxPassphraseWork = 18
)

// drawPassphrase draws a recovery passphrase.
func drawPassphrase(random io.Reader) (string, error) {
	var raw [2 * passphraseWords]byte
	defer clear(raw[:])
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("draw a passphrase: %w", err)
	}
	var b strings.Builder
	for i := range passphraseWords {
		n := binary.BigEndian.Uint16(raw[2*i:])
		if i > 0 {
			b.WriteByte('-')
		}
		for _, letter := range []byte{consonants[n>>12], vowels[n>>10&3], consonants[n>>6&15], vowels[n>>4&3], consonants[n&15]} {
			b.WriteByte(letter)
		}
	}
	return b.String(), nil
}

// parsePassphrase accepts a recovery passphrase as people write it. Its errors say which
// word is wrong, not what it is.
func parsePassphrase(text string) (string, error) {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return strings.ContainsRune("- \t\r\n", r) })
	if len(words) != passphraseWords {
		return "", fault.Newf(fault.Usage, "a recovery passphrase has %d words, not %d", passphraseWords, len(words))
	}
	for i, w := range words {
		fits := len(w) == 5
		for at := 0; fits && at < len(w); at++ {
			fits = strings.IndexByte([]string{consonants, vowels}[at%2], w[at]) >= 0
		}
		if !fits {
			return "", fault.Newf(fault.Usage, "word %d is not a word of a recovery passphrase: those have five letters, as in lusab", i+1)
		}
	}
	return strings.Join(words, "-"), nil
}

// sealWithPassphrase makes a copy of a red key for the holder of the words.
func sealWithPassphrase(red *secret.Buffer, uuid string, generation int, words string) ([]byte, error) {
	to, err := age.NewScryptRecipient(words)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(passphraseWork)
	return sealTo(red, uuid, generation, to)
}

// passphraseIdentity opens what sealWithPassphrase made.
func passphraseIdentity(text string) (age.Identity, error) {
	words, err := parsePassphrase(text)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(words)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(maxPassphraseWork)
	return id, nil
}

// sealTo makes an age file of a red key, bound to its volume.
func sealTo(red *secret.Buffer, uuid string, generation int, to ...age.Recipient) ([]byte, error) {
	prefix := recoveryPrefix(uuid, generation)
	plain, err := secret.New(len(prefix) + red.Len())
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("seal the recovery copy: %w", err)
	}
	return sealed.Bytes(), nil
}
