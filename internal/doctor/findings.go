// SPDX-License-Identifier: Apache-2.0

package doctor

import "imxcrypt/internal/fault"

// Finding is one thing that a check can complain of. Its ID is stable, and the
// troubleshooting page has an entry for each.
type Finding struct {
	ID    string
	Check string
	Level Level
	// Text is a format for fmt.
	Text   string
	Remedy string
	// Code of a problem.
	Code fault.Code
	// Hardware findings are no problem where no volume uses the CAAM.
	Hardware bool
}

// Findings is the catalogue, in the order of the checks.
func Findings() []Finding {
	return []Finding{
		{ID: "soc-unknown", Check: "soc", Level: Warning,
			Text:   "the kernel names no SoC",
			Remedy: "on an i.MX build the kernel with its SoC driver (CONFIG_SOC_BUS); on a PC only source dev works, for trying out"},
		{ID: "key-hardware-dcp", Check: "key-hardware", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "%s has no CAAM: its DCP has no black keys, /dev/caam-keygen or tk() ciphers",
			Remedy: "source caam is not possible on this chip. What exists for it: trusted keys sealed by the DCP (CONFIG_TRUSTED_KEYS_DCP, Linux 6.10 or later) under dm-crypt, which this version does not drive"},
		{ID: "key-hardware-ele", Check: "key-hardware", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "%s has no CAAM: its EdgeLock enclave has no /dev/caam-keygen or tk() ciphers",
			Remedy: "source caam is not possible on this chip. What exists for it: trusted keys sealed by OP-TEE (CONFIG_TRUSTED_KEYS_TEE) under dm-crypt, which this version does not drive"},
		{ID: "key-hardware-unknown", Check: "key-hardware", Level: Warning,
			Text:   "which key hardware this chip has is not known",
			Remedy: "if it is an i.MX with a CAAM, go by the checks of its driver and node"},
		{ID: "chip-open", Check: "security-state", Level: Warning,
			Text:   "open: keys are sealed by a test key that every open chip shares, and are lost when the chip is closed (%s)",
			Remedy: "close the chip (HAB or AHAB), then provision; a volume made before is carried over by a recovery copy only: docs/security.md, Open and closed"},
		{ID: "chip-state-unreadable", Check: "security-state", Level: Warning,
			Text:   "only root can read the fuses",
			Remedy: "run it as root"},
		{ID: "chip-state-unknown", Check: "security-state", Level: Warning,
			Text:   "whether the chip is closed cannot be read (%s)",
			Remedy: "check it in U-Boot: hab_status, or ahab_status where there is a system controller or an enclave"},
		{ID: "caam-not-in-device-tree-but-node", Check: "caam-driver", Level: Warning,
			Text:   "the device tree has no CAAM, yet there is %s",
			Remedy: "right for a simulated CAAM only"},
		{ID: "caam-not-in-device-tree", Check: "caam-driver", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "the device tree has no CAAM (fsl,sec-v4.0)",
			Remedy: "take the device tree of the BSP, and see that its crypto node is not disabled, by the boot loader neither"},
		{ID: "caam-driver-missing", Check: "caam-driver", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "no driver has taken the CAAM",
			Remedy: "load the modules caam and caam_jr, or build them in (CONFIG_CRYPTO_DEV_FSL_CAAM); see dmesg for caam if they are there"},
		{ID: "caam-no-job-ring", Check: "caam-driver", Level: Problem, Hardware: true, Code: fault.CAAMNotReady,
			Text:   "the CAAM has no job ring for Linux",
			Remedy: "load caam_jr (CONFIG_CRYPTO_DEV_FSL_CAAM_JR); see that the device tree or OP-TEE left Linux a ring"},
		{ID: "caam-program-missing", Check: "caam-node", Level: Problem, Hardware: true, Code: fault.ProgramMissing,
			Text:   "there is no %s, which the configuration uses",
			Remedy: "install NXP's keyctl-caam, mend caam.program, or use caam.engine: ioctl"},
		{ID: "caam-node-missing", Check: "caam-node", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "there is no %s",
			Remedy: "use NXP's kernel, 5.4.47 or later, with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API: mainline has no such node. If the kernel is right: mount devtmpfs on /dev, or name the node with caam.device"},
		{ID: "caam-node-no-device", Check: "caam-node", Level: Problem, Hardware: true, Code: fault.CAAMMissing,
			Text:   "%s is no character device",
			Remedy: "remove it, mount devtmpfs on /dev, or name the node with caam.device"},
		{ID: "caam-node-open", Check: "caam-node", Level: Warning,
			Text:   "others than root can use %s (mode %v): any blob opens for whoever can",
			Remedy: "chmod 600 it, and take away the udev rule that opens it"},
		{ID: "cipher-missing", Check: "cipher", Level: Problem, Hardware: true, Code: fault.CipherMissing,
			Text:   "the kernel has no %s",
			Remedy: "build the kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API (NXP's, 5.4.47 or later); it appears with the first job ring"},
		{ID: "cipher-selftest", Check: "cipher", Level: Problem, Hardware: true, Code: fault.CipherMissing,
			Text:   "the kernel's self-test of %s says %s",
			Remedy: "do not use it; see dmesg for alg: and caam"},
		{ID: "cipher-xts-missing", Check: "cipher", Level: Problem, Code: fault.CipherMissing,
			Text:   "the kernel has no xts(aes), which source dev uses",
			Remedy: "build the kernel with CONFIG_CRYPTO_XTS, or load the module xts"},
		{ID: "device-mapper-not-loaded", Check: "device-mapper", Level: Problem, Code: fault.DMMissing,
			Text:   "the module dm-mod is not loaded",
			Remedy: "modprobe dm-mod, and name it in /etc/modules-load.d or the initramfs"},
		{ID: "device-mapper-missing", Check: "device-mapper", Level: Problem, Code: fault.DMMissing,
			Text:   "the kernel has no device-mapper",
			Remedy: "build the kernel with CONFIG_BLK_DEV_DM"},
		{ID: "dm-crypt-missing", Check: "dm-crypt", Level: Problem, Code: fault.DMCryptMissing,
			Text:   "the kernel has no dm-crypt",
			Remedy: "build the kernel with CONFIG_DM_CRYPT, or install and load the module dm-crypt"},
		{ID: "kernel-options-missing", Check: "kernel-options", Level: Problem, Code: fault.Failed,
			Text:   "kernel %s was built without %s",
			Remedy: "set them in the kernel's configuration; CONFIG_KEYS must be y, the others may be m"},
		{ID: "keyring-missing", Check: "keyring", Level: Problem, Code: fault.KeyringMissing,
			Text:   "the kernel keeps no keys",
			Remedy: "build the kernel with CONFIG_KEYS=y; mount /proc if it is not"},
		{ID: "mkfs-missing", Check: "programs", Level: Warning,
			Text:   "there is no %s, which provision needs",
			Remedy: "install it (e2fsprogs, xfsprogs, btrfs-progs, f2fs-tools, dosfstools) where boards are provisioned"},
		{ID: "fsck-missing", Check: "programs", Level: Warning,
			Text:   "there is no %s to repair the filesystem with",
			Remedy: "install it (e2fsprogs, xfsprogs, btrfs-progs, f2fs-tools, dosfstools)"},
		{ID: "entropy-unknown", Check: "entropy", Level: Warning,
			Text:   "how much entropy the kernel has cannot be read",
			Remedy: "mount /proc"},
		{ID: "entropy-low", Check: "entropy", Level: Warning,
			Text:   "%d bits only: making a volume may wait for more",
			Remedy: "build in the CAAM's generator (CONFIG_CRYPTO_DEV_FSL_CAAM_RNG_API), or wait a little after the start"},
		{ID: "clock-unset", Check: "clock", Level: Warning,
			Text:   "the clock says %s: the date at which a key is made will be wrong in its header",
			Remedy: "set the clock before provisioning: nothing else depends on it"},
		{ID: "suspend-loses-keys", Check: "suspend", Level: Warning,
			Text:   "this chip loses its keys in suspend-to-RAM, and nothing takes the volumes through it",
			Remedy: "have systemd run imxcrypt sleep: install -D -m 644 -t /etc/systemd/system/systemd-suspend.service.d /usr/share/doc/imxcrypt/systemd-suspend.service.d/imxcrypt.conf; systemctl daemon-reload. Or switch suspend off: systemctl mask suspend.target. Otherwise reads fail after it (wrap ccm) or return noise (ecb)"},
		{ID: "configuration-empty", Check: "configuration", Level: Warning,
			Text:   "%s has no volumes",
			Remedy: "imxcrypt config example minimal shows one"},
		{ID: "storage-unknown", Check: "storage", Level: Warning,
			Text:   "what headers and keys lie on cannot be read: %v",
			Remedy: "mount /proc"},
		{ID: "storage-volatile", Check: "storage", Level: Problem, Code: fault.FileUnsafe,
			Text:   "%s lies on %s: it is gone at power-off, and the data with it",
			Remedy: "put it on flash, or use header: device"},
		{ID: "storage-not-power-fail-safe", Check: "storage", Level: Warning,
			Text:   "%s lies on %s, which a power cut can damage",
			Remedy: "put it on ext4, f2fs, ubifs, xfs or btrfs, or use header: device, which has two copies"},
		{ID: "storage-unsafe-option", Check: "storage", Level: Warning,
			Text:   "%s lies on a filesystem mounted with %s, which a power cut can damage",
			Remedy: "mount it without that option"},
		{ID: "storage-key-readable", Check: "storage", Level: Problem, Code: fault.FileUnsafe,
			Text:   "others than root can read the key %s (mode %v)",
			Remedy: "chmod 600 it, and count the key as known"},
		{ID: "storage-world-readable", Check: "storage", Level: Warning,
			Text:   "others than root can read %s (mode %v)",
			Remedy: "chmod 600 it: its blob opens for whoever gets at the CAAM"},
		{ID: "storage-device-open", Check: "storage", Level: Warning,
			Text:   "others than root can read %s (mode %v), and with it the volume's header",
			Remedy: "chmod 660 it, and take away the udev rule that opens it: its blob opens for whoever gets at the CAAM"},
		{ID: "units-missing", Check: "units", Level: Warning,
			Text:   "systemd runs, and nothing of imxcrypt is installed for it",
			Remedy: "install imxcrypt's units, or have a service of your own run `imxcrypt boot` before local-fs.target"},
		{ID: "not-root", Check: "privileges", Level: Warning,
			Text:   "not root: fuses, mappings and volumes could not be looked at",
			Remedy: "run it as root to see the rest"},
	}
}

func byID() map[string]Finding {
	m := map[string]Finding{}
	for _, f := range Findings() {
		m[f.ID] = f
	}
	return m
}
