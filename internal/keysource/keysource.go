// SPDX-License-Identifier: Apache-2.0

// Package keysource is the table of what a volume may be encrypted with, by where
// its key comes from. The configuration is checked against it, and so is a header
// before it is opened.
package keysource

import (
	"slices"
	"strings"
)

// Names of key sources. Auto stands for one of those that are bound to hardware, in a
// configuration only.
const (
	Auto    = "auto"
	CAAM    = "caam"
	Trusted = "trusted"
	Dev     = "dev"
)

// Protected is the name in this package's tables of trusted keys that only the CAAM sees
// (Linux 6.19, protected keys): of source trusted, and never what auto stands for.
const Protected = "protected"

// Kind is the name of a source's keys in the tables.
func Kind(source string, protected bool) string {
	if source == Trusted && protected {
		return Protected
	}
	return source
}

// Chosen is what a configuration with source auto says of the key. Empty members leave
// it to the source.
type Chosen struct {
	Wrap, Trust, Cipher string
	KeySize             int
}

// Fitting lists the sources that auto may stand for, the preferred one first: with
// the CAAM's black keys, the kernel has no key in clear.
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

// Complete is c with the defaults of a source.
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

// Wraps reports whether the kernel has a source's keys, or those of Protected, encrypted
// in one of two ways, ccm and ecb.
func Wraps(source string) bool { return source == CAAM || source == Protected }

// Cipher is one that a source's keys may be used with.
type Cipher struct {
	// Name is the cipher in dm-crypt's notation.
	Name string
	// KeySizes are those of the plain key in bytes; the last is the default.
	KeySizes []int
}

// Ciphers lists what a source's keys, or those of Protected, may be used with; the first
// is the default. It is empty for a source that does not exist.
//
// The IV modes that are left out for the CAAM hash or use the bytes that the kernel
// is given as the key. A black key's differ at each boot, so data encrypted that way
// would be lost at the next one.
func Ciphers(source string) []Cipher {
	aes := []int{16, 24, 32} // what the kernel's tk() takes, and cbc(aes)
	switch source {
	case CAAM:
		return []Cipher{{"capi:tk(cbc(aes))-plain64", aes}, {"capi:tk(cbc(aes))-plain", aes}, {"capi:tk(cbc(aes))-eboiv", aes}}
	case Trusted:
		// The kernel makes trusted keys of 32 to 128 bytes. Adiantum is for processors
		// without instructions for AES.
		return []Cipher{{"aes-xts-plain64", []int{32, 64}}, {Adiantum, []int{32}}, {"aes-cbc-essiv:sha256", []int{32}}, {CBC, []int{32}}}
	case Protected:
		return []Cipher{{"capi:cbc(paes)-plain64", []int{32}}} // the kernel's only size
	case Dev:
		// XTS takes two AES keys: AES-128 and AES-256.
		return []Cipher{{"aes-xts-plain64", []int{32, 64}}, {CBC, aes}}
	}
	return nil
}

// Adiantum is the cipher of trusted keys for processors without instructions for AES.
const Adiantum = "capi:adiantum(xchacha12,aes)-plain64"

// CBC is the cipher of trusted keys in volumes that were made by hand, or by Toradex' layer.
// Who takes it says which source: auto stands for none with it.
const CBC = "aes-cbc-plain64"

// CBCPlain is the same up to 2 TiB, where its numbers begin again.
const CBCPlain = "aes-cbc-plain"

// Defaults are the ciphers one of which a volume has where the configuration names none:
// provisioning chooses, and the header says which it is.
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

// Canonical is the name that [Ciphers] has for a cipher which dm-crypt takes in another
// spelling too, with the same bytes on the disk; any other cipher is unchanged. (Linux
// 6.12, drivers/md/dm-crypt.c: both of its notations end in the same name of the kernel's
// crypto API. aes-xts-plain is none of them: it numbers sectors otherwise beyond 2 TiB.)
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

// KeySizes are those that a source's keys may have with a cipher; with a cipher that
// is not the source's, those of its default.
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

// SectorSizes are dm-crypt's, in bytes.
func SectorSizes() []int { return []int{512, 1024, 2048, MaxSector} }

// MaxSector is the largest of [SectorSizes].
const MaxSector = 4096

// An IV of eboiv is encrypted itself: with a key that only hardware knows that is
// one more job of the hardware for each sector, which dm-crypt waits for.

// FitsSector reports whether a cipher for hardware keys may be used with sectors of
// a size.
func FitsSector(cipher string, size int) bool { return !isEboiv(cipher) || size == MaxSector }

// FitsFlag reports whether a cipher for hardware keys may be used with a flag of
// dm-crypt. Without the workqueue, reads complete where nothing may wait.
func FitsFlag(cipher, flag string) bool { return !isEboiv(cipher) || flag != "no_read_workqueue" }

// isEboiv takes a cipher or its IV mode alone.
func isEboiv(cipher string) bool {
	return cipher == "eboiv" || strings.HasSuffix(cipher, "-eboiv")
}
