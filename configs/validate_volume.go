// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"imxcrypt/internal/keysource"
)

func (v *validator) volume(vol *Volume, at string) {
	v.name(vol, join(at, "name"))
	v.device(vol.Device, join(at, "device"))
	v.size(vol, join(at, "size"))
	v.crypt(vol, at)
	v.header(vol, at)
	v.filesystem(&vol.Filesystem, vol.Detached() && !v.spoilt(join(at, "header")), vol.SectorSize, join(at, "filesystem"))
	v.ephemeral(vol, at)
	v.grow(vol, at)
	v.onPlaintext(vol, at)
	v.mount(vol, join(at, "mount"))
	if vol.UUID != "" && !isUUID(vol.UUID) {
		v.problem(join(at, "uuid"), quote(vol.UUID)+" is not a UUID in small letters",
			uuidRemedy(vol.UUID))
	}
	if vol.Timeout > time.Hour {
		v.problem(join(at, "timeout"), vol.Timeout.String()+" is more than 1h", "write 1h or less")
	}
}

func (v *validator) name(vol *Volume, field string) {
	if !v.has(field) {
		v.problem(field, "is missing", "give the volume a name, as in name: data")
		return
	}
	if reason := nameProblem(vol.Name, maxName); reason != "" {
		v.problem(field, reason, "name it as in data or var-log")
	} else if mapping := v.config.MappingName(vol.Name); len(mapping) > maxMapping {
		v.problem(field, "with mapping_prefix it is "+quote(mapping)+" of "+strconv.Itoa(len(mapping))+" bytes, and a rotation has room for "+strconv.Itoa(maxMapping), "shorten the name, or mapping_prefix")
	} else if mapping == "control" {
		v.problem(field, "/dev/mapper/control is device-mapper's own", "choose another name")
	}
}

// crypt checks the fields that decide how the data is encrypted.
func (v *validator) crypt(vol *Volume, at string) {
	v.sectorSize(vol, at)
	v.flags(vol, at)
	if v.spoilt(join(at, "source")) {
		return // the rest depends on it
	}
	field := join(at, "source")
	switch {
	case !vol.Source.known():
		v.word(field, string(vol.Source), string(SourceAuto), string(SourceCAAM), string(SourceTrusted), string(SourceDev))
	}
	if !vol.Source.known() {
		return
	}
	v.protected(vol, join(at, "protected"))
	if vol.Source == SourceAuto {
		v.auto(vol, at)
		return
	}
	if keysource.Wraps(vol.keys()) {
		v.word(join(at, "wrap"), string(vol.Wrap), string(WrapCCM), string(WrapECB))
	} else if vol.Wrap != "" {
		v.problem(join(at, "wrap"), "has no meaning with source "+string(vol.Source), "leave it out")
	}
	if trust := join(at, "trusted"); vol.Trusted.Source != "" && vol.Source != SourceTrusted {
		v.problem(trust, "has no meaning with source "+string(vol.Source), "leave it out")
	} else if vol.Trusted.Source != "" {
		v.word(join(trust, "source"), vol.Trusted.Source, keysource.Trusts()...)
	}
	ciphers := keysource.CipherNames(vol.keys())
	if vol.cipherOpen() && vol.KeySize == 0 {
		return
	}
	if sizes := keysource.KeySizes(vol.keys(), vol.Cipher); !slices.Contains(sizes, vol.KeySize) {
		of := vol.keysShown()
		if vol.Cipher != ciphers[0] && slices.Contains(ciphers, vol.Cipher) {
			of = "cipher " + vol.Cipher
		}
		v.problem(join(at, "key_size"), strconv.Itoa(vol.KeySize)+" bytes is not a key size of "+of,
			"write "+oneOf(numbers(sizes))+keySizeHint(vol, sizes))
	}
	if reason := cipherProblem(vol); reason != "" && !vol.cipherOpen() {
		if vol.Cipher == "" {
			reason = "is empty"
		} else {
			reason = quote(vol.Cipher) + reason
		}
		v.problem(join(at, "cipher"), reason, "write "+oneOf(ciphers))
	}
}

// protected refuses protected keys with a source or trust source that does not have them.
// Source auto never means protected keys: they must be asked for.
func (v *validator) protected(vol *Volume, field string) {
	switch {
	case !vol.Protected:
	case vol.Source != SourceTrusted:
		v.problem(field, "is for source trusted, and the source is "+string(vol.Source), "write source: trusted, or leave it out")
	case vol.Trusted.Source != "" && vol.Trusted.Source != keysource.TrustCAAM:
		v.problem(field, "is for the trust source caam, and trusted.source is "+quote(vol.Trusted.Source), "leave one of them out")
	}
}

// auto checks the fields that narrow source auto.
func (v *validator) auto(vol *Volume, at string) {
	if vol.Wrap != "" {
		v.word(join(at, "wrap"), string(vol.Wrap), string(WrapCCM), string(WrapECB))
	}
	trust := join(at, "trusted")
	if vol.Trusted.Source != "" {
		v.word(join(trust, "source"), vol.Trusted.Source, keysource.Trusts()...)
	}
	chosen := keysource.Chosen{Wrap: string(vol.Wrap), Trust: vol.Trusted.Source}
	if len(chosen.Fitting()) == 0 {
		v.problem(trust, "is for source trusted, and wrap for source caam", "leave one of them out, or name the source")
		return
	}
	sources := chosen.Fitting()
	of := "source " + oneOf(sources)
	if chosen.Cipher = vol.Cipher; len(chosen.Fitting()) == 0 {
		reason := foreignCipher(Source(sources[0]), "source "+sources[0], vol.Cipher)
		if strings.HasSuffix(reason, " cannot be used with source "+sources[0]) {
			reason = " cannot be used with " + of
		}
		var list []string
		for _, s := range sources {
			list = append(list, keysource.CipherNames(s)...)
		}
		if last := len(list) - 1; list[last] == keysource.CBC { // which auto never means
			list = list[:last]
		}
		v.problem(join(at, "cipher"), quote(vol.Cipher)+reason, "write "+oneOf(list))
		return
	}
	sources = chosen.Fitting()
	if chosen.KeySize = vol.KeySize; len(chosen.Fitting()) == 0 {
		var sizes []int
		for _, s := range sources {
			sizes = append(sizes, keysource.KeySizes(s, vol.Cipher)...)
		}
		sort.Ints(sizes)
		sizes = slices.Compact(sizes)
		if vol.Cipher != "" {
			of = "cipher " + vol.Cipher
		}
		v.problem(join(at, "key_size"), strconv.Itoa(vol.KeySize)+" bytes is not a key size of "+of, "write "+oneOf(numbers(sizes))+keySizeHint(vol, sizes))
	}
}

// keySizeHint recognises a size in bits, and the length of a black key as it is in a
// dm-crypt table.
func keySizeHint(vol *Volume, sizes []int) string {
	n := vol.KeySize
	switch {
	case n%8 == 0 && slices.Contains(sizes, n/8):
		return fmt.Sprintf(": %d bits are %d bytes", n, n/8)
	case (vol.Source == SourceCAAM || vol.Source == SourceAuto) && slices.Contains([]int{36, 48, 52, 56, 64}, n):
		return fmt.Sprintf(", the plain key's length: %d is the length of a black key, which needs no field", n)
	}
	return ""
}

func numbers(list []int) []string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return words
}

func (v *validator) sectorSize(vol *Volume, at string) {
	sizes := keysource.SectorSizes()
	if !slices.Contains(sizes, vol.SectorSize) {
		v.problem(join(at, "sector_size"), strconv.Itoa(vol.SectorSize)+" bytes is not a sector size of dm-crypt",
			"write "+oneOf(numbers(sizes)))
		return
	}
	if !keysource.FitsSector(vol.Cipher, vol.SectorSize) {
		v.problem(join(at, "sector_size"), strconv.Itoa(vol.SectorSize)+" cannot be used with eboiv, which needs an extra job of the hardware for each sector",
			"write 4096, or a cipher with plain64")
	}
}

func (v *validator) flags(vol *Volume, at string) {
	seen := map[string]bool{}
	for i, flag := range vol.CryptFlags {
		field := item(join(at, "crypt_flags"), i)
		switch {
		case !slices.Contains(cryptFlags(), flag):
			v.problem(field, quote(flag)+" is not a flag of dm-crypt that may be set", cryptFlagRemedy(flag))
		case seen[flag]:
			v.problem(field, flag+" is given twice", "keep one")
		case !keysource.FitsFlag(vol.Cipher, flag):
			v.problem(field, flag+" cannot be used with eboiv, which waits for the hardware", "leave it out, or use a cipher with plain64")
		}
		seen[flag] = true
	}
}

const (
	minHeader = 64 * kib
	maxHeader = 16 * mib
	maxGap    = 1 * gib
	grain     = 4 * kib // everything on the device starts at a multiple of it
)

func (v *validator) header(vol *Volume, at string) {
	if field := join(at, "header"); vol.Detached() {
		v.headerFile(vol, field)
	}
	if field := join(at, "header_size"); vol.HeaderSize < minHeader || vol.HeaderSize > maxHeader {
		v.problem(field, formatSize(vol.HeaderSize)+" is not between "+formatSize(minHeader)+" and "+formatSize(maxHeader), "write 1MiB, or leave it out")
	} else if vol.HeaderSize%grain != 0 {
		v.problem(field, formatSize(vol.HeaderSize)+" is not a multiple of "+formatSize(grain), "write 1MiB, or leave it out")
	}
	field := join(at, "gap")
	switch {
	case vol.Detached() && vol.Gap != 0 && !v.spoilt(join(at, "header")):
		v.problem(field, "has no meaning with a detached header: the data starts at the device's first byte", "leave it out")
	case vol.Gap > maxGap:
		v.problem(field, formatSize(vol.Gap)+" is more than "+formatSize(maxGap), "write 1MiB, or leave it out")
	case vol.Gap%grain != 0:
		v.problem(field, formatSize(vol.Gap)+" is not a multiple of "+formatSize(grain), "write 1MiB, or leave it out")
	}
}

func (v *validator) headerFile(vol *Volume, field string) {
	if !strings.HasPrefix(vol.Header, "/") {
		v.problem(field, quote(vol.Header)+" is neither device nor the absolute path of a file", headerRemedy(vol.Header))
		return
	}
	if !v.absolute(field, vol.Header) {
		return
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if below(vol.Header, dir) {
			v.problem(field, vol.Header+" is in "+dir+", where files do not survive a reboot", "name a file on a disk")
			return
		}
	}
	if p := vol.Mount.Path; p != "" && below(vol.Header, p) {
		v.problem(field, vol.Header+" is in the volume itself, which is mounted at "+p, "name a file outside of "+p)
	}
}

func headerRemedy(text string) string {
	if nearest(text, []string{HeaderOnDevice}) != "" {
		return "did you mean device?"
	}
	return "write device, or a path that begins with /"
}
