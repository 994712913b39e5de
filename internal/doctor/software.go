// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"slices"
	"strings"
)

// tk is the cipher that takes black keys.
const tk = "tk(cbc(aes))"

func (x *examination) cipher() {
	all := algorithms(x.text("/proc/crypto"))
	if x.needsCAAM() && !x.withoutCAAM() {
		a, ok := best(all, tk)
		switch {
		case !ok:
			x.found("cipher-missing", tk)
		case a.selftest != "" && a.selftest != "passed":
			x.found("cipher-selftest", a.driver, a.selftest)
		default:
			x.ok("cipher", "%s by %s, priority %d", tk, a.driver, a.priority)
		}
	}
	if x.usesXTS() {
		if a, ok := best(all, "xts(aes)"); ok {
			x.ok("cipher", "xts(aes) by %s", a.driver)
		} else if v := x.kernel.options["CONFIG_CRYPTO_XTS"]; v == "y" || v == "m" || x.there("xts") {
			x.ok("cipher", "xts(aes) is made when it is asked for")
		} else {
			x.found("cipher-xts-missing")
		}
	}
}

func (x *examination) deviceMapper() {
	switch {
	case !x.exists("/sys/class/misc/device-mapper"):
		// A node alone proves nothing: it may be part of the image.
		if x.kernel.loadable["dm-mod"] {
			x.found("device-mapper-not-loaded")
		} else {
			x.found("device-mapper-missing")
		}
	case x.exists("/dev/mapper/control"):
		x.ok("device-mapper", "/dev/mapper/control")
	default:
		x.ok("device-mapper", "there, its node is made at first use")
	}
}

func (x *examination) dmCrypt() {
	if x.CryptVersion != nil {
		if v, err := x.CryptVersion(); err == nil {
			x.ok("dm-crypt", "version %s", v)
			return
		}
	}
	switch {
	case x.has("dm-crypt"), x.kernel.options["CONFIG_DM_CRYPT"] == "y":
		x.ok("dm-crypt", "there, its version can be asked for by root only")
	case x.kernel.loadable["dm-crypt"]:
		x.ok("dm-crypt", "a module, loaded when it is needed")
	default:
		x.found("dm-crypt-missing")
	}
}

// option is an option that the kernel must have.
type option struct {
	name string
	// builtin means that y is needed and m is not enough.
	builtin bool
	// caam means that only volumes of source caam need it.
	caam bool
	// when reports whether some volume needs it; nil for all.
	when func(*examination) bool
	// module is the module that the option builds, by its file name; empty for no module.
	module string
}

// wantedOptions lists the options by their names in mainline's and NXP's Kconfig files.
func wantedOptions() []option {
	return []option{
		{name: "CONFIG_KEYS", builtin: true},
		{name: "CONFIG_BLK_DEV_DM", module: "dm-mod"},
		{name: "CONFIG_DM_CRYPT", module: "dm-crypt"},
		{name: "CONFIG_BLK_DEV_LOOP", when: (*examination).hasImages, module: "loop"},
		{name: "CONFIG_SWAP", builtin: true, when: (*examination).hasSwap},
		{name: "CONFIG_CRYPTO_CBC", caam: true, module: "cbc"},
		{name: "CONFIG_CRYPTO_DEV_FSL_CAAM", caam: true, module: "caam"},
		{name: "CONFIG_CRYPTO_DEV_FSL_CAAM_JR", caam: true, module: "caam-jr"},
		{name: "CONFIG_CRYPTO_DEV_FSL_CAAM_CRYPTO_API", caam: true},
		{name: "CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API", caam: true},
		{name: "CONFIG_CRYPTO_XTS", when: (*examination).usesXTS, module: "xts"},
		{name: "CONFIG_CRYPTO_ADIANTUM", when: (*examination).usesAdiantum, module: "adiantum"},
	}
}

// wants reports whether the volumes need an option.
func (x *examination) wants(o option) bool {
	return (!o.caam || x.needsCAAM() && !x.withoutCAAM()) && (o.when == nil || o.when(x))
}

// hasImages reports whether some volume is in a file.
func (x *examination) hasImages() bool {
	return slices.ContainsFunc(x.Volumes, func(v Volume) bool { return v.Image })
}

// hasSwap reports whether some volume is swap space.
func (x *examination) hasSwap() bool {
	return slices.ContainsFunc(x.Volumes, func(v Volume) bool { return v.Filesystem == "swap" })
}

func (x *examination) kernelOptions() {
	by := x.kernel.recorded
	if x.kernel.options == nil {
		if len(x.kernel.builtin)+len(x.kernel.loadable) == 0 {
			x.ok("kernel-options", "kernel %s keeps no record of its options (`modprobe configs`, if it has that module); checked by what is there", x.kernel.release)
			return
		}
		by = "the modules in " + x.kernel.modules
	}
	x.headersInFiles()
	_, tkThere := best(algorithms(x.text("/proc/crypto")), tk)
	var missing []string
	n := 0
	for _, o := range wantedOptions() {
		if !x.wants(o) {
			continue
		}
		v := x.kernel.options[o.name]
		there := v == "y" || v == "m" && !o.builtin
		if x.kernel.options == nil {
			if o.module == "" {
				continue // other checks see whether it works
			}
			there = x.there(o.module) || o.caam && tkThere
		}
		n++
		if !there {
			missing = append(missing, o.name)
		}
	}
	if len(missing) > 0 {
		x.found("kernel-options-missing", x.kernel.release, strings.Join(missing, ", "))
		return
	}
	x.ok("kernel-options", "all %d there, by %s", n, by)
}

// headersInFiles looks for loop devices, through which the check in a detached header is
// read. The kernel's options or modules must be known.
func (x *examination) headersInFiles() {
	if v := x.kernel.options["CONFIG_BLK_DEV_LOOP"]; v == "y" || v == "m" || x.there("loop") {
		return
	}
	var names []string
	for _, v := range x.Volumes {
		if v.Header != "" && !v.Image {
			names = append(names, v.Name)
		}
	}
	if len(names) > 0 {
		x.found("loop-missing", strings.Join(names, ", "))
	}
}

func (x *examination) keyring() {
	switch {
	case x.exists("/proc/key-users"), x.kernel.options["CONFIG_KEYS"] == "y":
		x.ok("keyring", "the kernel keeps keys")
	default:
		x.found("keyring-missing")
	}
}

func (x *examination) udev() {
	if x.exists("/run/udev/control") {
		x.ok("udev", "running")
		return
	}
	x.ok("udev", "not running; imxcrypt makes the nodes in /dev/mapper itself")
}

func (x *examination) units() {
	if !x.exists("/run/systemd/system") {
		x.ok("units", "no systemd; `imxcrypt boot` belongs in the init script or initramfs")
		return
	}
	for _, dir := range []string{"/etc/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd"} {
		// Units that rotate or provision open nothing at boot.
		for _, pattern := range []string{"/system-generators/*imxcrypt*", "/system/imxcrypt.service", "/system/imxcrypt@*.service", "/system/imxcrypt-boot*.service"} {
			if found := x.glob(dir + pattern); len(found) > 0 {
				x.ok("units", "%s", found[0])
				return
			}
		}
	}
	x.found("units-missing")
}

// cryptsetup reports whether cryptsetup is installed. It works on the volumes, except for
// one command that does not do what it says.
func (x *examination) cryptsetup() {
	if p := x.program("cryptsetup"); p != "" {
		x.ok("cryptsetup", "installed; mind that its luksErase reports success here and destroys nothing: only `imxcrypt erase` erases")
	}
}
