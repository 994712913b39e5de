// SPDX-License-Identifier: Apache-2.0

// Package keysource is the table of what a volume may be encrypted with, for each source
// of its key. Configurations are checked against it, and so are headers before they are
// opened.
package keysource

import (
	"slices"
	"strings"
)

// Names of key sources. Auto occurs only in a configuration, and stands for one of the
// sources that are bound to hardware.
const (
	Auto    = "auto"
	CAAM    = "caam"
	Trusted = "trusted"
	Dev     = "dev"
)

// Protected is the name that this package's tables use for trusted keys that only the
// CAAM sees (Linux 6.19, protected keys). Their source is trusted, and auto never stands
// for them.
const Protected = "protected"

// Kind returns the name of a source's keys in the tables.
func Kind(source string, protected bool) string {
	if source == Trusted && protected {
		return Protected
	}
	return source
}

// Chosen is what a configuration with source auto says about the key. Empty members leave
// the choice to the source.
type Chosen struct {
	Wrap, Trust, Cipher string
	KeySize             int
}

// Fitting lists the sources that auto may stand for, the preferred one first. The CAAM is
// preferred because with its black keys the kernel has no plaintext key.
func (c Chosen) Fitting() []string {
	var list []string
	for _, source := range []string{CAAM, Trusted} {
		switch {
		case c.Wrap != "" && source != CAAM, c.Trust != "" && source != Trusted:
		case c.Cipher != "" && !slices.Contains(CipherNames(source), c.Cipher), c.Cipher == CBC:
		case c.KeySize != 0 && !slices.Contains(KeySizes(source, c.Cipher), c.KeySize):
		default:
			list = append(list, source)
		}
	}
	return list
}

// Complete returns c with the defaults of a source filled in.
func (c Chosen) Complete(source string) Chosen {
	if c.Wrap == "" && Wraps(source) {
		c.Wrap = "ccm"
	}
	if c.Cipher == "" {
		c.Cipher = Ciphers(source)[0].Name
	}
	if sizes := KeySizes(source, c.Cipher); c.KeySize == 0 {
		c.KeySize = sizes[len(sizes)-1]
	}
	return c
}

// Wraps reports whether the kernel has the keys of a source, or of Protected, encrypted
// in one of two ways, ccm or ecb.
func Wraps(source string) bool { return source == CAAM || source == Protected }

// Cipher is a cipher that a source's keys may be used with.
type Cipher struct {
	// Name is the cipher in dm-crypt's notation.
	Name string
	// KeySizes are the sizes of the plain key in bytes; the last is the default.
	KeySizes []int
}

// Ciphers lists the ciphers that the keys of a source, or of Protected, may be used with.
// The first is the default. The list is empty for a source that does not exist.
//
// The IV modes that are left out for the CAAM hash or use the bytes that the kernel is
// given as the key. The bytes of a black key differ at every boot, so data encrypted that
// way would be lost at the next boot.
func Ciphers(source string) []Cipher {
	aes := []int{16, 24, 32} // the sizes that the kernel's tk() and cbc(aes) accept
	switch source {
	case CAAM:
		return []Cipher{{"capi:tk(cbc(aes))-plain64", aes}, {"capi:tk(cbc(aes))-plain", aes}, {"capi:tk(cbc(aes))-eboiv", aes}}
	case Trusted:
		// The kernel makes trusted keys of 32 to 128 bytes. Adiantum is for processors
		// without AES instructions.
		return []Cipher{{"aes-xts-plain64", []int{32, 64}}, {Adiantum, []int{32}}, {"aes-cbc-essiv:sha256", []int{32}}, {CBC, []int{32}}}
	case Protected:
		return []Cipher{{"capi:cbc(paes)-plain64", []int{32}}} // the kernel's only size
	case Dev:
		// XTS takes two AES keys, so these are for AES-128 and AES-256.
		return []Cipher{{"aes-xts-plain64", []int{32, 64}}, {CBC, aes}}
	}
	return nil
}

// Adiantum is the cipher of trusted keys for processors without AES instructions.
const Adiantum = "capi:adiantum(xchacha12,aes)-plain64"

// CBC is the cipher of trusted keys in volumes that were made by hand, or by Toradex's
// layer. A configuration with it must name the source: auto stands for none.
const CBC = "aes-cbc-plain64"

// CBCPlain is the same up to 2 TiB, where its sector numbers wrap around.
const CBCPlain = "aes-cbc-plain"

// Defaults lists the ciphers that a volume may have if the configuration names none.
// Provisioning chooses one, and the header says which.
func Defaults(source string) []string {
	list := Ciphers(source)
	switch {
	case len(list) == 0:
		return nil
	case source == Trusted:
		return []string{list[0].Name, Adiantum}
	}
	return []string{list[0].Name}
}

// CipherNames lists the names of [Ciphers].
func CipherNames(source string) []string {
	var names []string
	for _, c := range Ciphers(source) {
		names = append(names, c.Name)
	}
	return names
}

// Canonical returns the name that this package uses for a cipher that dm-crypt also
// accepts in another spelling, with the same bytes on the disk. Any other cipher is
// returned unchanged. (Linux 6.12, drivers/md/dm-crypt.c: both of its notations end in
// the same name of the kernel's crypto API. aes-xts-plain is not one of the spellings: it
// numbers sectors differently beyond 2 TiB.)
func Canonical(cipher string) string {
	switch cipher {
	case "capi:xts(aes)-plain64":
		return "aes-xts-plain64"
	case "xchacha12,aes-adiantum-plain64":
		return Adiantum
	case "capi:cbc(aes)-essiv:sha256":
		return "aes-cbc-essiv:sha256"
	case "capi:cbc(aes)-plain64":
		return CBC
	case "capi:cbc(aes)-plain":
		return CBCPlain
	}
	return cipher
}

// KeySizes lists the sizes that a source's keys may have with a cipher. For a cipher that
// the source does not have, it lists those of the default cipher.
func KeySizes(source, cipher string) []int {
	list := Ciphers(source)
	for _, c := range list {
		if c.Name == cipher {
			return c.KeySizes
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[0].KeySizes
}

// SectorSizes lists dm-crypt's sector sizes in bytes.
func SectorSizes() []int { return []int{512, 1024, 2048, MaxSector} }

// MaxSector is the largest of [SectorSizes].
const MaxSector = 4096

// The IV of eboiv is itself encrypted. With a key that only hardware knows, that is one
// more hardware job for each sector, which dm-crypt waits for.

// FitsSector reports whether a cipher for hardware keys may be used with sectors of that
// size.
func FitsSector(cipher string, size int) bool { return !isEboiv(cipher) || size == MaxSector }

// FitsFlag reports whether a cipher for hardware keys may be used with a dm-crypt flag.
// Without the read workqueue, reads complete in a context that must not wait.
func FitsFlag(cipher, flag string) bool { return !isEboiv(cipher) || flag != "no_read_workqueue" }

// isEboiv takes a cipher or only its IV mode.
func isEboiv(cipher string) bool {
	return cipher == "eboiv" || strings.HasSuffix(cipher, "-eboiv")
}
