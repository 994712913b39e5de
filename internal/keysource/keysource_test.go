// SPDX-License-Identifier: Apache-2.0

package keysource_test

import (
	"slices"
	"strings"
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/keysource"
)

// dm-crypt's own rules allow everything that the table allows: a volume that the
// configuration accepts can be opened.
func TestTheTableIsWithinDMCryptsRules(t *testing.T) {
	t.Parallel()
	for _, source := range []string{keysource.CAAM, keysource.Dev} {
		for _, c := range keysource.Ciphers(source) {
			if err := dmcrypt.Cipher(c.Name).Validate(); err != nil {
				t.Error(err)
			}
			if !slices.Equal(keysource.KeySizes(source, c.Name), c.KeySizes) || len(c.KeySizes) == 0 {
				t.Errorf("%s: key sizes %v", c.Name, keysource.KeySizes(source, c.Name))
			}
			for _, size := range keysource.SectorSizes() {
				key := c.KeySizes[len(c.KeySizes)-1]
				if source == keysource.CAAM {
					key = 64 // the black key of 32 bytes, with CCM
				}
				options := []string{}
				if size > 512 {
					options = append(options, "sector_size:"+map[int]string{1024: "1024", 2048: "2048", 4096: "4096"}[size])
				}
				crypt := dmcrypt.Crypt{
					Length: 64, Cipher: dmcrypt.Cipher(c.Name), Device: dmcrypt.Number{Major: 8, Minor: 1}, Options: options,
					Key: dmcrypt.KeyRef{Size: key, Type: "logon", Description: "x:y"},
				}
				if err := (dmcrypt.Table{crypt}).Validate(); (err == nil) != keysource.FitsSector(c.Name, size) {
					t.Errorf("%s with sectors of %d bytes: %v", c.Name, size, err)
				}
			}
		}
	}
}

// Two spellings are the same cipher only if dm-crypt makes the same of both.
func TestSpellingsOfACipher(t *testing.T) {
	t.Parallel()
	for spelled, want := range map[string]string{
		"capi:xts(aes)-plain64": "aes-xts-plain64", "xchacha12,aes-adiantum-plain64": keysource.Adiantum,
		"capi:cbc(aes)-essiv:sha256": "aes-cbc-essiv:sha256", "capi:cbc(aes)-plain64": keysource.CBC,
	} {
		if got := keysource.Canonical(spelled); got != want || !slices.Contains(keysource.CipherNames(keysource.Trusted), want) {
			t.Errorf("%s is taken for %s", spelled, got)
		}
		one, err := dmcrypt.Cipher(spelled).Parse()
		other, err2 := dmcrypt.Cipher(want).Parse()
		if one != other || err != nil || err2 != nil {
			t.Errorf("%s is not the same as %s: %+v, %v, %+v, %v", spelled, want, one, err, other, err2)
		}
	}
	// Not one of our ciphers: whether it is equivalent to one depends on the size of the
	// device.
	if got := keysource.Canonical("capi:cbc(aes)-plain"); got != keysource.CBCPlain || slices.Contains(keysource.CipherNames(keysource.Trusted), got) {
		t.Errorf("capi:cbc(aes)-plain is taken for %s", got)
	}
	for _, other := range []string{
		"aes-xts-plain", "aes-cbc-plain", "capi:cbc(aes)-plain64be", "capi:ecb(aes)-plain64", "aes-xts-plain64be", "capi:xts(aes)-plain", "capi:xts(aes)-essiv:sha256", "aes-cbc-essiv:sha1", "aes-cbc-plain64",
		"xchacha20,aes-adiantum-plain64", "xchacha12,aes-adiantum-plain", "capi:adiantum(xchacha20,aes)-plain64", "serpent-xts-plain64", "",
	} {
		if got := keysource.Canonical(other); got != other {
			t.Errorf("%q is taken for %s", other, got)
		}
	}
	for _, source := range []string{keysource.CAAM, keysource.Trusted, keysource.Protected, keysource.Dev} {
		for _, name := range keysource.CipherNames(source) {
			if got := keysource.Canonical(name); got != name {
				t.Errorf("%s is taken for %s", name, got)
			}
		}
	}
}

func TestHardwareKeysAreUsedWithPlainIVs(t *testing.T) {
	t.Parallel()
	for _, name := range keysource.CipherNames(keysource.CAAM) {
		for _, mode := range []string{"essiv", "lmk", "tcw"} {
			if strings.Contains(name, mode) || !strings.Contains(name, "tk(") {
				t.Errorf("%s: its IVs would differ at the next boot", name)
			}
		}
	}
	if keysource.Ciphers("tpm2") != nil || keysource.KeySizes("", "aes-xts-plain64") != nil {
		t.Error("a source that does not exist has ciphers")
	}
}

// The form of a blob shows what sealed it, and the forms do not overlap.
func TestATrustSourceIsKnownByItsBlob(t *testing.T) {
	t.Parallel()
	blob := func(size int, first byte) []byte { return append([]byte{first}, make([]byte, size-1)...) }
	for _, n := range []int{32, 64} {
		for want, b := range map[string][]byte{
			keysource.TrustCAAM: blob(n+48, 0x7f), keysource.TrustDCP: blob(n+53, 1), keysource.TrustTEE: blob(n+33, 0),
			keysource.TrustTPM: blob(236+n-32, 0x30),
		} {
			if got := keysource.TrustOf(b, n); got != want {
				t.Errorf("%d bytes for a key of %d: %q, expected %q", len(b), n, got, want)
			}
		}
		for _, b := range [][]byte{nil, blob(n, 0), blob(n+53, 2), blob(n+33, 1), blob(513, 0x30)} {
			if got := keysource.TrustOf(b, n); got != "" {
				t.Errorf("%d bytes for a key of %d are said to be of %q", len(b), n, got)
			}
		}
	}
}
