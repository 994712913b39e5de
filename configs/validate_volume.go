// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (v *validator) volume(vol *Volume, at string) {
	v.name(vol, join(at, "name"))
	v.device(vol.Device, join(at, "device"))
	v.crypt(vol, at)
	v.header(vol, at)
	v.filesystem(&vol.Filesystem, vol.SectorSize, join(at, "filesystem"))
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
	} else if v.config.MappingName(vol.Name) == "control" {
		v.problem(field, "/dev/mapper/control is device-mapper's own", "choose another name")
	}
}

// crypt judges what decides how the data is encrypted.
func (v *validator) crypt(vol *Volume, at string) {
	v.sectorSize(vol, at)
	v.flags(vol, at)
	if v.spoilt(join(at, "source")) {
		return // the rest depends on it
	}
	field := join(at, "source")
	rules, ok := rulesOf(vol.Source)
	switch {
	case vol.Source == SourceTrusted:
		v.problem(field, "trusted is not available in this version", "write caam, or dev for trying out")
	case !ok:
		v.word(field, string(vol.Source), string(SourceCAAM), string(SourceDev))
	}
	if !ok {
		return
	}
	if rules.wrap != "" {
		v.word(join(at, "wrap"), string(vol.Wrap), string(WrapCCM), string(WrapECB))
	} else if vol.Wrap != "" {
		v.problem(join(at, "wrap"), "has no meaning with source "+string(vol.Source), "leave it out")
	}
	if !slices.Contains(rules.keySizes, vol.KeySize) {
		v.problem(join(at, "key_size"), strconv.Itoa(vol.KeySize)+" bytes is no key size of source "+string(vol.Source),
			"write "+oneOf(numbers(rules.keySizes))+keySizeHint(vol, rules.keySizes))
	}
	if reason := cipherProblem(vol.Source, vol.Cipher); reason != "" {
		if vol.Cipher == "" {
			reason = "is empty"
		} else {
			reason = quote(vol.Cipher) + reason
		}
		v.problem(join(at, "cipher"), reason, "write "+oneOf(rules.ciphers))
	}
}

// keySizeHint helps who wrote bits, or the length that a dm-crypt table has
// for the black key.
func keySizeHint(vol *Volume, sizes []int) string {
	n := vol.KeySize
	switch {
	case n%8 == 0 && slices.Contains(sizes, n/8):
		return fmt.Sprintf(": %d bits are %d bytes", n, n/8)
	case vol.Source == SourceCAAM && slices.Contains([]int{36, 48, 52, 56, 64}, n):
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
	sizes := []int{512, 1024, 2048, 4096}
	if !slices.Contains(sizes, vol.SectorSize) {
		v.problem(join(at, "sector_size"), strconv.Itoa(vol.SectorSize)+" bytes is no sector size of dm-crypt",
			"write "+oneOf(numbers(sizes)))
		return
	}
	// An eboiv sector takes two jobs of the hardware, one after the other.
	if strings.HasSuffix(vol.Cipher, "-eboiv") && vol.SectorSize != 4096 {
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
		case flag == "no_read_workqueue" && strings.HasSuffix(vol.Cipher, "-eboiv"):
			v.problem(field, "no_read_workqueue cannot be used with eboiv, which waits for the hardware", "leave it out, or use a cipher with plain64")
		}
		seen[flag] = true
	}
}

const (
	minHeader = 64 * kib
	maxHeader = 16 * mib
	maxGap    = 1 * gib
	grain     = 4 * kib // everything on the device begins at a multiple of it
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
			v.problem(field, vol.Header+" lies in "+dir+", where no file lasts", "name a file on a disk")
			return
		}
	}
	if p := vol.Mount.Path; p != "" && below(vol.Header, p) {
		v.problem(field, vol.Header+" lies in the volume itself, which is mounted at "+p, "name a file outside of "+p)
	}
}

func headerRemedy(text string) string {
	if nearest(text, []string{HeaderOnDevice}) != "" {
		return "did you mean device?"
	}
	return "write device, or a path that begins with /"
}
