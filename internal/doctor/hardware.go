// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"io/fs"
	"os"
	"strings"
)

func (x *examination) soc() {
	if x.Chip.SoC == "" && !x.onlyDev() {
		x.found("soc-unknown")
	}
	if x.Chip.SoC == "" {
		return
	}
	text := x.Chip.SoC
	if r := x.text("/sys/devices/soc0/revision"); r != "" {
		text += " rev " + r
	}
	if m := x.text("/sys/devices/soc0/machine"); m != "" {
		text += ", " + m
	}
	x.ok("soc", "%s", text)
}

func (x *examination) keyHardware() {
	switch x.Chip.Key {
	case "caam":
		x.ok("key-hardware", "CAAM")
	case "dcp":
		if x.needsCAAM() || !x.uses("trusted") {
			x.found("key-hardware-dcp", x.Chip.SoC)
			return
		}
		x.ok("key-hardware", "DCP")
	case "ele":
		if x.needsCAAM() || !x.uses("trusted") {
			x.found("key-hardware-ele", x.Chip.SoC)
			return
		}
		x.ok("key-hardware", "EdgeLock enclave; trusted keys come from OP-TEE or a TPM")
	default:
		if x.trustHardware("tpm") {
			x.ok("key-hardware", "TPM %s", x.text("/sys/class/tpm/tpm0/tpm_version_major"))
			return
		}
		if x.Chip.SoC != "" || !x.onlyDev() {
			x.found("key-hardware-unknown")
		}
	}
}

// onlyDev reports whether all volumes have the source dev, which needs no chip.
func (x *examination) onlyDev() bool {
	for _, v := range x.Volumes {
		if v.Source != "dev" {
			return false
		}
	}
	return len(x.Volumes) > 0
}

// withoutCAAM reports whether checks of the CAAM would report nothing new: the chip is
// known to have none, or it is not an i.MX and no volume is to use one.
func (x *examination) withoutCAAM() bool {
	return x.Chip.Key == "dcp" || x.Chip.Key == "ele" || x.Chip.SoC == "" && !x.needsCAAM()
}

func (x *examination) securityState() {
	evidence := strings.Join(x.Chip.Evidence, "; ")
	switch {
	case x.withoutCAAM() && (x.Chip.Key != "dcp" || !x.uses("trusted")):
	case x.Chip.State == "closed":
		x.ok("security-state", "closed (%s)", evidence)
	case x.Chip.State == "open":
		x.found("chip-open", evidence)
	case !x.Superuser && strings.Contains(evidence, "permission denied"):
		x.found("chip-state-unreadable")
	default:
		x.found("chip-state-unknown", evidence)
	}
}

// caamDriver looks for the platform devices that the device tree describes (compatible
// fsl,sec-v4.0 and its job rings) and for their drivers.
func (x *examination) caamDriver() {
	if x.withoutCAAM() {
		return
	}
	devices, bound, rings := 0, 0, 0
	for _, file := range x.glob("/sys/bus/platform/devices/*/uevent") {
		lines := strings.Split(x.text(file), "\n")
		has := func(key, value string) bool {
			for _, l := range lines {
				k, v, _ := strings.Cut(l, "=")
				if strings.HasPrefix(k, key) && v == value {
					return true
				}
			}
			return false
		}
		switch {
		case has("OF_COMPATIBLE_", "fsl,sec-v4.0-job-ring"):
			if has("DRIVER", "caam_jr") {
				rings++
			}
		case has("OF_COMPATIBLE_", "fsl,sec-v4.0"):
			devices++
			if has("DRIVER", "caam") {
				bound++
			}
		}
	}
	switch {
	case devices == 0 && x.exists(x.CAAMNode):
		x.found("caam-not-in-device-tree-but-node", x.CAAMNode)
	case devices == 0:
		x.found("caam-not-in-device-tree")
	case bound == 0:
		x.found("caam-driver-missing")
	case rings == 0:
		x.found("caam-no-job-ring")
	default:
		x.ok("caam-driver", "caam, %d job rings", rings)
	}
}

func (x *examination) caamNode() {
	if x.withoutCAAM() || x.uses("trusted") && !x.needsCAAM() {
		return
	}
	if x.Program != "" {
		if !x.exists(x.Program) {
			x.found("caam-program-missing", x.Program)
			return
		}
		x.ok("caam-node", "through NXP's %s", x.Program)
		return
	}
	info, err := os.Stat(x.path(x.CAAMNode))
	switch {
	case err != nil:
		x.found("caam-node-missing", x.CAAMNode)
	case x.root == "" && info.Mode()&fs.ModeCharDevice == 0:
		x.found("caam-node-no-device", x.CAAMNode)
	case info.Mode().Perm()&0o077 != 0:
		x.found("caam-node-open", x.CAAMNode, info.Mode().Perm())
	default:
		x.ok("caam-node", "%s", x.CAAMNode)
	}
}

// suspend checks suspend-to-RAM, which matters if the chip loses its key-encryption key
// in it.
func (x *examination) suspend() {
	if x.withoutCAAM() || !x.needsCAAM() {
		if x.uses("trusted") {
			x.ok("suspend", "trusted keys survive suspend-to-RAM")
		}
		return
	}
	states := strings.Fields(x.text("/sys/power/state"))
	mem := false
	for _, s := range states {
		mem = mem || s == "mem"
	}
	switch {
	case x.Chip.KeepsKeys:
		x.ok("suspend", "this chip keeps its keys in suspend-to-RAM")
	case !mem:
		x.ok("suspend", "the kernel has no suspend-to-RAM, in which this chip would lose its keys")
	case x.Program != "":
		// imxcrypt sleep refuses with this engine, whether it is installed or not.
		x.found("suspend-loses-keys-program")
	case len(x.glob("/etc/systemd/system/systemd-suspend.service.d/*imxcrypt*"))+
		len(x.glob("/usr/lib/systemd/system/systemd-suspend.service.d/*imxcrypt*"))+
		len(x.glob("/lib/systemd/system/systemd-suspend.service.d/*imxcrypt*")) > 0:
		x.ok("suspend", "imxcrypt takes the volumes through suspend-to-RAM")
	default:
		x.found("suspend-loses-keys")
	}
}
