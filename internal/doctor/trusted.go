// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"slices"
	"strings"

	"imxcrypt/internal/cpuinfo"
)

// trust is one of the kernel's trust sources.
type trust struct{ name, option string }

// trusts lists the trust sources in the order in which the kernel tries them (Linux 6.12,
// security/keys/trusted-keys/trusted_core.c).
func trusts() []trust {
	return []trust{
		{"tpm", "CONFIG_TRUSTED_KEYS_TPM"}, {"tee", "CONFIG_TRUSTED_KEYS_TEE"},
		{"caam", "CONFIG_TRUSTED_KEYS_CAAM"}, {"dcp", "CONFIG_TRUSTED_KEYS_DCP"},
	}
}

// teeApplication is the part of OP-TEE that seals trusted keys, as the kernel lists it.
const teeApplication = "/sys/bus/tee/devices/optee-ta-f04a0fe7-1f5d-4b9b-abf7-619b85b4ce8c"

// trustHardware reports whether the hardware of a trust source has a driver.
func (x *examination) trustHardware(name string) bool {
	switch name {
	case "tpm":
		return x.exists("/sys/class/tpm/tpm0")
	case "tee":
		return x.exists("/sys/class/tee/tee0")
	case "caam":
		return x.driven("caam_jr") > 0
	case "dcp":
		return x.driven("mxs-dcp") > 0
	}
	return false
}

// driven counts the platform devices that a driver is bound to.
func (x *examination) driven(driver string) int {
	n := 0
	for _, file := range x.glob("/sys/bus/platform/devices/*/uevent") {
		for line := range strings.Lines(x.text(file)) {
			if strings.TrimSpace(line) == "DRIVER="+driver {
				n++
			}
		}
	}
	return n
}

// expectedTrust returns the trust source that the kernel should use, given how it was
// built and what hardware is there; empty for none. known is false if nothing says how it
// was built.
func (x *examination) expectedTrust() (name string, known bool) {
	if x.kernel.options == nil {
		return "", false
	}
	asked := ""
	for _, word := range strings.Fields(x.text("/proc/cmdline")) {
		if v, ok := strings.CutPrefix(word, "trusted.source="); ok {
			asked = v
		}
	}
	for _, t := range trusts() {
		// The TEE's part registers even without an OP-TEE, and nothing after it is tried.
		if x.kernel.options[t.option] == "y" && (asked == "" || asked == t.name) && (t.name == "tee" || x.trustHardware(t.name)) {
			return t.name, true
		}
	}
	return "", true
}

// trustWorks reports whether the kernel has a trust source.
func (x *examination) trustWorks() bool {
	if x.TrustSource != nil {
		there, err := x.TrustSource()
		return there && err == nil
	}
	name, _ := x.expectedTrust()
	return name != "" && x.trustHardware(name)
}

// bestTrust returns the trust source that this board has the hardware for; empty for
// none.
func (x *examination) bestTrust() string {
	for _, t := range trusts() {
		if x.trustHardware(t.name) {
			return t.name
		}
	}
	return map[string]string{"dcp": "dcp", "ele": "tee", "caam": "caam"}[x.Chip.Key]
}

func (x *examination) trustSource() {
	if !x.uses("trusted") {
		return
	}
	name, known := x.expectedTrust()
	works, best := x.trustWorks(), x.bestTrust()
	option := "CONFIG_TRUSTED_KEYS_" + strings.ToUpper(best)
	switch {
	case known && x.kernel.options["CONFIG_TRUSTED_KEYS"] == "":
		x.found("trusted-keys-missing", x.kernel.release)
	case works && name != "":
		x.ok("trust-source", "%s", name)
	case works:
		x.ok("trust-source", "the kernel has one")
	case name == "tee" && best != "" && best != "tee":
		x.found("trust-source-shadowed", strings.ToUpper(best))
	case best == "":
		x.found("trust-source-no-hardware")
	case best == "dcp" && x.Chip.State == "open":
		x.found("trust-source-open-chip")
	case known && x.kernel.options[option] == "":
		x.found("trust-source-not-built", x.kernel.release, option)
	case best == "tee" && x.trustHardware(best) && !x.exists(teeApplication):
		x.found("trust-source-no-application")
	default:
		x.found("trust-source-missing", strings.ToUpper(best))
	}
	for _, v := range x.Volumes {
		if x.sourceOf(v) == "trusted" && v.Trust != "" && name != "" && v.Trust != name {
			x.found("trust-source-other", v.Name, v.Trust, name)
		}
	}
}

// protectedCipher is the cipher of protected keys.
const protectedCipher = "cbc(paes)"

// trustedCipher looks for the ciphers of volumes with trusted keys.
func (x *examination) trustedCipher() {
	slow := !cpuinfo.HasAES(x.text(cpuinfo.Path))
	for _, v := range x.Volumes {
		if x.sourceOf(v) != "trusted" {
			continue
		}
		if strings.Contains(v.Cipher, protectedCipher) {
			if a, ok := best(algorithms(x.text("/proc/crypto")), protectedCipher); ok {
				x.ok("cipher", "%s by %s; whether dm-crypt takes it, only a table shows: mainline's does not, NXP's does. Nothing shows whether making a key damages the kernel's memory: to 7.3 at least it does, unless drivers/crypto/caam/blob_gen.c has kzalloc(CAAM_DESC_BYTES_MAX, GFP_KERNEL)", a.name, a.driver)
			} else {
				x.found("protected-keys-missing", protectedCipher, v.Name)
			}
			continue
		}
		missing := x.kernel.options != nil && x.kernel.options["CONFIG_CRYPTO_ADIANTUM"] == "" && !x.there("adiantum")
		switch adiantum := strings.Contains(v.Cipher, "adiantum"); {
		case adiantum && missing:
			x.found("cipher-adiantum-missing")
		case slow && v.Cipher == "" && !missing:
			x.ok("cipher", "this processor has no instructions for AES: provisioning would choose adiantum(xchacha12,aes) for volume %s, if the kernel has it", v.Name)
		case slow && !adiantum:
			x.found("cipher-slow", v.Name)
		}
	}
}

// usesXTS reports whether some volume has the cipher of software keys.
func (x *examination) usesXTS() bool {
	for _, v := range x.Volumes {
		if s := x.sourceOf(v); s == "dev" || s == "trusted" && (v.Cipher == "" || strings.Contains(v.Cipher, "xts")) {
			return true
		}
	}
	return false
}

// usesAdiantum reports whether some volume has the cipher Adiantum.
func (x *examination) usesAdiantum() bool {
	return slices.ContainsFunc(x.Volumes, func(v Volume) bool { return strings.Contains(v.Cipher, "adiantum") })
}

// choice returns the source that auto stands for here, and why; empty for none.
func (x *examination) choice() (source, why string) {
	node := x.CAAMNode
	if x.Program != "" {
		node = x.Program
	}
	switch {
	case x.exists(node):
		return "caam", node + " is there"
	case x.trustWorks():
		return "trusted", "there is no " + node + ", and the kernel has a trust source"
	}
	return "", ""
}

// sourceOf returns the source of a volume. For auto it is the source that auto stands for
// or, if nothing works, the one that this chip could have.
func (x *examination) sourceOf(v Volume) string {
	if v.Source != "auto" {
		return v.Source
	}
	if source, _ := x.choice(); source != "" {
		return source
	}
	mainline := x.kernel.options["CONFIG_TRUSTED_KEYS"] != "" && x.kernel.options["CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API"] == ""
	if mainline || x.Chip.Key == "dcp" || x.Chip.Key == "ele" || x.Chip.Key == "" && x.trustHardware("tpm") {
		return "trusted"
	}
	return "caam"
}

// source reports what auto stands for if no header says it yet.
func (x *examination) source() {
	for _, v := range x.Volumes {
		if v.Source != "auto" {
			continue
		}
		if source, why := x.choice(); source != "" {
			x.ok("source", "auto: provisioning would choose %s, since %s", source, why)
		} else {
			x.found("source-nothing-works")
		}
		return
	}
}
