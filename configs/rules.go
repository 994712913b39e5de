// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"slices"
	"strings"

	"imxcrypt/internal/keysource"
)

// known reports whether this version has the source.
func (s Source) known() bool {
	return slices.Contains([]Source{SourceAuto, SourceCAAM, SourceTrusted, SourceDev}, s)
}

// keys returns package keysource's name for the volume's keys.
func (v *Volume) keys() string { return keysource.Kind(string(v.Source), v.Protected) }

// cipherOpen reports whether provisioning chooses the cipher.
func (v *Volume) cipherOpen() bool { return v.Cipher == "" && len(keysource.Defaults(v.keys())) > 1 }

// keysShown is keys for use in a message.
func (v *Volume) keysShown() string {
	if v.keys() == keysource.Protected {
		return "protected: true"
	}
	return "source " + string(v.Source)
}

// cipherProblem returns why a cipher cannot be used with a volume's keys, as text to
// follow its name; empty if it can.
func cipherProblem(v *Volume) string {
	if slices.Contains(keysource.CipherNames(v.keys()), v.Cipher) {
		return ""
	}
	return foreignCipher(v.Source, v.keysShown(), v.Cipher)
}

// foreignCipher is cipherProblem for a cipher that cannot be used.
func foreignCipher(s Source, shown, cipher string) string {
	if s != SourceCAAM {
		return " cannot be used with " + shown
	}
	// essiv, lmk and tcw hash the bytes that the kernel is given as the key.
	for _, mode := range []string{"essiv", "lmk", "tcw"} {
		if strings.Contains(cipher, mode) {
			return ": " + mode + " makes the IVs from the black key, which differs at every boot: the data would be lost at the next one"
		}
	}
	if !strings.Contains(cipher, "tk(") && strings.Contains(cipher, "-") {
		return " takes the bytes of the black key for the key itself, and they differ at every boot: the data would be lost at the next one"
	}
	return " cannot be used with source caam"
}

// cryptFlags returns dm-crypt's optional flags that only affect performance. Others
// change what is on the disk.
func cryptFlags() []string {
	return []string{"same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue", "high_priority"}
}

// cryptFlagRemedy returns where a dm-crypt flag that is not for crypt_flags
// belongs.
func cryptFlagRemedy(flag string) string {
	name, _, _ := strings.Cut(flag, ":")
	switch name {
	case "allow_discards":
		return "write allow_discards: true instead"
	case "sector_size":
		return "write it as the field sector_size"
	case "iv_large_sectors", "integrity":
		return "leave it out: the disk's format is not chosen by a flag"
	}
	return didYouMean(flag, cryptFlags())
}
