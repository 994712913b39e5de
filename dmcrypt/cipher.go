// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"strings"
)

// Cipher is dm-crypt's cipher string, in one of its two notations
// (Documentation/admin-guide/device-mapper/dm-crypt.rst):
//
//	capi:tk(cbc(aes))-plain64     an algorithm of the kernel's crypto API
//	aes-xts-plain64               cipher-chainmode-ivmode[:ivopts]
//
// The string itself is on-disk format (LUKS2 stores it) and what the kernel echoes, so it
// is kept as written.
type Cipher string

// CipherSpec is a parsed Cipher.
type CipherSpec struct {
	// Algorithm is the crypto API's name, the same for both notations: "tk(cbc(aes))",
	// "xts(aes)".
	Algorithm string
	// IV is the mode that makes a sector's initialization vector.
	IV string
	// IVOptions is what follows the mode after a colon (essiv's hash).
	IVOptions string
}

// Wrapped reports whether the bytes given to setkey are not the key but a wrapping of it,
// which differs at every boot (CAAM's tk) or at every export (paes). The drivers' own
// names ("tk-cbc-aes-caam") count as well.
func (s CipherSpec) Wrapped() bool {
	return strings.HasPrefix(s.Algorithm, "tk(") || strings.HasPrefix(s.Algorithm, "tk-") || strings.Contains(s.Algorithm, "paes")
}

// The IV modes that depend only on the sector's number, plus eboiv, which runs the number
// through the data cipher itself. All others hash the bytes given to setkey (essiv, lmk,
// tcw, elephant), or are unsuitable for data that must be readable again (random) or
// secret (null).
var (
	ivsForWrapped = []string{"plain", "plain64", "eboiv"}
	ivsForPlain   = []string{"plain", "plain64", "plain64be", "benbi", "eboiv", "essiv"}
)

// maxCipher limits a cipher string: two crypto API names (CRYPTO_MAX_ALG_NAME is 128)
// cannot be longer.
const maxCipher = 255

// Parse parses the string. It refuses what cannot be a dm-crypt cipher, key counts and
// AEAD. Validate checks whether the cipher is safe.
func (c Cipher) Parse() (CipherSpec, error) {
	var s CipherSpec
	text := string(c)
	if len(text) == 0 || len(text) > maxCipher || !printable(text) {
		return s, fmt.Errorf("cipher %q: empty, too long or not printable", clip(text))
	}
	rest, api := strings.CutPrefix(text, "capi:")
	var iv string
	if api {
		// The kernel splits at the last '-' (crypt_ctr_cipher_new): an
		// algorithm may be called by its driver's name, "tk-cbc-aes-caam".
		i := strings.LastIndexByte(rest, '-')
		if i < 0 {
			return s, fmt.Errorf("cipher %q: no initialisation vector mode", text)
		}
		s.Algorithm, iv = rest[:i], rest[i+1:]
	} else {
		parts := strings.SplitN(rest, "-", 3)
		if len(parts) != 3 {
			return s, fmt.Errorf("cipher %q: not of the form cipher-chainmode-ivmode", text)
		}
		if strings.ContainsAny(parts[0], ":()") || strings.ContainsAny(parts[1], ":()") || parts[0] == "" || parts[1] == "" {
			return s, fmt.Errorf("cipher %q: key counts and templates are not supported in this notation", text)
		}
		s.Algorithm, iv = parts[1]+"("+parts[0]+")", parts[2]
	}
	s.IV, s.IVOptions, _ = strings.Cut(iv, ":")
	if s.Algorithm == "" || s.IV == "" {
		return s, fmt.Errorf("cipher %q: algorithm or initialisation vector mode is empty", text)
	}
	if !balanced(s.Algorithm) {
		return s, fmt.Errorf("cipher %q: parentheses do not match", text)
	}
	return s, nil
}

// Validate checks that data encrypted with the cipher can be read again with the same key
// after a reboot. A key source may allow fewer ciphers; that is checked elsewhere.
func (c Cipher) Validate() error {
	s, err := c.Parse()
	if err != nil {
		return err
	}
	if strings.HasPrefix(s.Algorithm, "authenc(") || strings.Contains(s.Algorithm, "gcm(") || strings.Contains(s.Algorithm, "ccm(") {
		return fmt.Errorf("cipher %q: authenticated modes need dm-integrity and are not supported", string(c))
	}
	allowed := ivsForPlain
	if s.Wrapped() {
		allowed = ivsForWrapped
	}
	if !slices.Contains(allowed, s.IV) {
		if s.Wrapped() {
			return fmt.Errorf("cipher %q: initialisation vector mode %s does not suit a hardware key: the bytes that it would hash differ at every boot, and the data would be lost at the next one (allowed: %s)",
				string(c), s.IV, strings.Join(allowed, ", "))
		}
		return fmt.Errorf("cipher %q: initialisation vector mode %s is not supported (allowed: %s)", string(c), s.IV, strings.Join(allowed, ", "))
	}
	if (s.IVOptions != "") != (s.IV == "essiv") {
		return fmt.Errorf("cipher %q: initialisation vector mode %s with options %q", string(c), s.IV, s.IVOptions)
	}
	return nil
}

// keySizes returns the payload sizes in bytes that an algorithm takes; nil if only the
// kernel knows. For tk they are those of the tagged black keys of 16, 24 and 32 byte AES
// keys: 20 bytes of header and, for ECB, the key in whole blocks (36, 52, 52) or, for
// CCM, the key with 12 bytes of nonce and tag (48, 56, 64).
func (s CipherSpec) keySizes() []int {
	switch s.Algorithm {
	case "tk(cbc(aes))", "tk(ecb(aes))":
		return []int{36, 48, 52, 56, 64}
	case "cbc(aes)":
		return []int{16, 24, 32}
	case "xts(aes)":
		return []int{32, 48, 64}
	case "adiantum(xchacha12,aes)":
		return []int{32}
	}
	return nil
}

func balanced(s string) bool {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth < 0 {
				return false
			}
		}
	}
	return depth == 0
}

// printable reports whether s is one word of a table line: ASCII, no white space, no
// control characters, and no backslash, which device-mapper uses for quoting
// (dm_split_args).
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// clip shortens foreign text for a message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
