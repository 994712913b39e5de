// SPDX-License-Identifier: Apache-2.0

package configs

import "strings"

// sourceRules is what a key source allows. The first cipher is the default.
type sourceRules struct {
	ciphers  []string
	keySizes []int
	keySize  int
	wrap     Wrap // the default; empty where keys are not wrapped
}

func rulesOf(s Source) (sourceRules, bool) {
	switch s {
	case SourceCAAM:
		return sourceRules{
			ciphers:  []string{"capi:tk(cbc(aes))-plain64", "capi:tk(cbc(aes))-plain", "capi:tk(cbc(aes))-eboiv"},
			keySizes: []int{16, 24, 32}, // what the kernel's tk() takes
			keySize:  32,
			wrap:     WrapCCM,
		}, true
	case SourceDev:
		return sourceRules{
			ciphers:  []string{"aes-xts-plain64"},
			keySizes: []int{32, 64}, // two AES keys: AES-128 and AES-256
			keySize:  64,
		}, true
	}
	return sourceRules{}, false
}

// Ciphers lists what volumes of this source may be encrypted with; the first
// is the default. It is empty for a source that is not known.
func (s Source) Ciphers() []string {
	rules, _ := rulesOf(s)
	return rules.ciphers
}

// cipherProblem says why a cipher cannot be used with a source, in words to go
// behind its name; empty if it can be used.
func cipherProblem(s Source, cipher string) string {
	rules, _ := rulesOf(s)
	for _, c := range rules.ciphers {
		if c == cipher {
			return ""
		}
	}
	if s != SourceCAAM {
		return " cannot be used with source " + string(s)
	}
	// essiv, lmk and tcw hash the bytes that were handed to the kernel as the key.
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

// cryptFlags are dm-crypt's optional flags that only change how the work is
// done. The others decide what is on the disk.
func cryptFlags() []string {
	return []string{"same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue", "high_priority"}
}

// cryptFlagRemedy tells where a flag of dm-crypt that is no crypt_flags item
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
