// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// instead is the way around a CAAM whose driver is there and does not work.
const instead = "If this does not help, and the message says that `source: trusted` works here, use that to make a new volume without NXP's driver."

// missing has the faults where the device, the chip or the kernel lacks something.
func missing() []Entry {
	return []Entry{
		{
			Code:    fault.DeviceMissing,
			Exit:    fault.ExitMissing,
			Meaning: "No block device matches `device`, and none appeared within `timeout`.",
			Messages: []string{
				"/dev/…: no such device",
				`after …: device "…" not found`,
				`device "…" not found…, and elsewhere there is …`,
			},
			Hint: "compare `device` in the configuration with `ls -l /dev/disk/by-*` or /sys/class/block; raise `timeout` if the device appears late",
			More: "Load the storage's driver, if it is a module.",
		},
		{
			Code:    fault.DeviceAmbiguous,
			Exit:    fault.ExitMissing,
			Meaning: "More than one device matches `device`, so none is used.",
			Messages: []string{
				`device "PARTLABEL=…" is ambiguous: … all match it`,
			},
			Hint: "name the device by its controller (eMMC:PARTLABEL=…, mmc@30b60000:PARTLABEL=…), by PARTUUID= or by its path",
			More: "If you name the controller, no other disk or card is looked at.",
		},
		{
			Code:    fault.DeviceUnsuitable,
			Exit:    fault.ExitMissing,
			Meaning: "The device cannot hold the volume.",
			Messages: []string{
				"neither a block device nor a regular file",
			},
			Hint: "choose another partition, or another header_size, gap or sector_size",
			More: "With `encrypt`, if the filesystem leaves no room: `header: FILE` needs none.",
		},
		{
			Code:    fault.PartitionShrunk,
			Exit:    fault.ExitMissing,
			Meaning: "The header is intact, but the volume that it describes ends beyond the end of the partition.",
			Messages: []string{
				"/dev/… has … bytes, and the volume … on it (uuid …) ends at byte …: the partition is smaller than when the volume was made",
			},
			Cause: "The partition table was changed, or the volume was copied to a smaller partition.",
			Hint:  "nothing was changed, and the header is whole: restore the old size of the partition; what it lost may still be beyond its end, so write nothing there",
			More:  "Its first sector must be the same too. If this is a copy of the volume, make a complete copy.",
		},
		{
			Code:    fault.PartitionGrown,
			Exit:    fault.ExitFailed,
			Meaning: "The partition is larger than when the volume was made; `status` and `doctor` warn of it.",
			Messages: []string{
				"/dev/… has grown since the volume was made: … MiB of it are not used",
			},
			Cause: "The volume works as it is.",
			Hint:  "the volume works as it is, and nothing needs to be done. `imxcrypt resize NAME` gives the volume the rest",
			More:  "The filesystem grows with it, in use: [resize.md](resize.md).",
		},
		{
			Code:    fault.DeviceNoMedium,
			Exit:    fault.ExitMissing,
			Meaning: "The device is there, but has no size.",
			Messages: []string{
				"open …: device has no size",
			},
			Cause: "It is a loop device without a file, a card reader without a card, or a disk that failed to start.",
			Hint:  "give it a medium: attach a file to a loop device (losetup DEVICE FILE), put the card into its reader",
			More:  "`losetup --list` shows what is attached; for a disk see `dmesg`.",
		},
		{
			Code:    fault.DeviceReadOnly,
			Exit:    fault.ExitMissing,
			Meaning: "The storage refuses writes.",
			Messages: []string{
				"/dev/…: read-only",
				"mount …: read-only file system: it was not unmounted when it was last used, and its journal cannot be replayed on a read-only device; …",
			},
			Cause: "A read-only device is mounted read-only, unless its filesystem was in use when power was cut: ext4, xfs, f2fs and btrfs have to replay their journal first.",
			Hint:  "the storage refuses writes: look for a write-protect switch, try `blockdev --setrw`, or look for worn-out flash (dmesg)",
			More:  "To replay the journal, allow writes to the device for one mount. Or leave out what the journal holds, with `mount: {path: …, options: [noload]}` (ext4; xfs and f2fs: `norecovery`, btrfs: `rescue=nologreplay`): what was written last may then be missing.",
		},
		{
			Code:    fault.SourceMissing,
			Exit:    fault.ExitMissing,
			Meaning: "With `source: auto`, the kernel has neither the CAAM's driver nor trusted keys.",
			Messages: []string{
				"nothing here seals keys: caam: …; trusted: …",
			},
			Cause: "The kernel was built without NXP's driver and without trusted keys, a module is not loaded, or the chip's key hardware is not in the device tree.",
			Hint:  "NXP's kernel needs CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API, mainline's CONFIG_TRUSTED_KEYS with the trust source of this chip (docs/sources.md); `imxcrypt doctor` says what is missing. To try imxcrypt out without either, use source: dev",
		},
		{
			Code:    fault.CAAMMissing,
			Exit:    fault.ExitMissing,
			Meaning: "There is no CAAM key interface.",
			Messages: []string{
				"/dev/caam-keygen: open: …no such file or directory",
			},
			Cause: "It exists only in NXP's BSP kernels (linux-imx 5.4.47 and later), never in mainline, and not on chips without a CAAM: i.MX 23, 28, 6SL, 6SLL, 6ULL, 6ULZ have a DCP, i.MX 91, 93, 95 an ELE.",
			Hint:  "a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API (NXP linux-imx 5.4.47 or later) has /dev/caam-keygen: load its module, or name the node with caam.device. Chips without a CAAM cannot use source caam",
		},
		{
			Code:    fault.CAAMNotReady,
			Exit:    fault.ExitMissing,
			Meaning: "The driver is there, but has no job ring.",
			Messages: []string{
				"/dev/caam-keygen: …: no such device",
			},
			Cause: "With `source: auto` the CAAM was chosen, because its driver's device opens. imxcrypt does not silently use another source: it would protect less.",
			Hint:  "the CAAM has no job ring for Linux: check its device tree nodes (fsl,sec-v4.0-job-ring), and that OP-TEE or the HAB left Linux one",
			More:  instead,
		},
		{
			Code:    fault.CAAMFailed,
			Exit:    fault.ExitFailed,
			Meaning: "The CAAM or its driver failed.",
			Messages: []string{
				"/dev/caam-keygen: create: …",
			},
			Hint: "see the kernel log for messages from caam, then try again",
			More: instead,
		},
		{
			Code:    fault.CAAMBadArgument,
			Exit:    fault.ExitMissing,
			Meaning: "The driver does not accept the request.",
			Messages: []string{
				"/dev/caam-keygen: …: invalid argument",
			},
			Hint: "the driver does not accept this request; its interface may differ: see caam.engine",
			More: "`caam: {engine: caam-keygen}` uses NXP's own program instead of the driver.",
		},
		{
			Code:    fault.TrustMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel has no trusted keys, or nothing that seals them.",
			Messages: []string{
				"make a trusted key: this kernel has no trust source: …: no such device",
			},
			Cause: "The kernel lacks `CONFIG_TRUSTED_KEYS` or the trust source of this chip; or a trust source that is tried earlier is built in and found no hardware. A kernel with TEE but without OP-TEE has no trust source, although there is a CAAM; an OP-TEE without its application for trusted keys seals no keys. On an open chip the DCP refuses.",
			Hint:  "build the kernel with CONFIG_TRUSTED_KEYS and the trust source of this chip (CAAM, DCP, TEE or TPM); if several are built in, choose one with trusted.source=caam on the kernel command line, since TEE and TPM come first. On an open chip the DCP seals no keys: close the chip, then boot again",
			More:  "`grep TRUSTED_KEYS /boot/config-$(uname -r)` shows what is built in. As a module, `trusted.ko` must be loaded before `dm-crypt.ko`.",
		},
		{
			Code:    fault.TrustOther,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel uses a different trust source from the one that sealed the key.",
			Messages: []string{
				"the key was sealed by the trust source …, and the kernel's is …: …",
				"the kernel's trust source is …, and the configuration asks for …",
				"the kernel sealed a trusted key as a blob of … bytes, which is not the form of any known trust source",
			},
			Cause: "Linux uses one trust source at a time. It tries TPM, TEE, CAAM and DCP in this order, so a kernel with more of them built in may choose a different one after an update.",
			Hint:  "the kernel uses one trust source at a time: choose the one that sealed the key with trusted.source=caam (or dcp, tee, tpm) on the kernel command line, and boot again; the data is not touched",
		},
		{
			Code:    fault.TrustParent,
			Exit:    fault.ExitMissing,
			Meaning: "The trust source is a TPM, and the TPM does not have the key under which it seals.",
			Messages: []string{
				"make a trusted key: the TPM seals no key under its persistent key 0x81000001: …: operation not permitted",
				"the TPM has no persistent key 0x81000001, under which the key was sealed: …: operation not permitted",
			},
			Cause: "The kernel seals under a primary key that has to be made persistent first. A new TPM has none; clearing a TPM removes it.",
			Hint:  "make the TPM's primary key once: tpm2_createprimary -C o -c p.ctx && tpm2_evictcontrol -c p.ctx 0x81000001. If the TPM had one and was cleared, the sealed keys are lost with it: only a backup of the data helps",
			More:  "Make it before provisioning. The same commands restore the key if only the handle was removed and the owner's seed is the same; after `tpm2_clear` the seed is a different one.",
		},
		{
			Code:    fault.TrustFailed,
			Exit:    fault.ExitMissing,
			Meaning: "The trust source is there, but makes no keys.",
			Messages: []string{
				"make a trusted key: the trust source made no key: …",
				"the trust source … neither opens the sealed key nor makes one: …",
			},
			Cause: "The hardware or its firmware refuses every request. The sealed key is not the reason.",
			Hint:  "see the kernel log (dmesg) for messages from the CAAM, DCP, OP-TEE or TPM; the data is not touched",
			More:  "Look for `caam`, `mxs-dcp`, `TA_CMD_SEAL` or `tpm`. Try again after a power cycle.",
		},
		{
			Code:    fault.ProtectedMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel has no protected keys, or its dm-crypt does not accept their cipher.",
			Messages: []string{
				"…: this kernel does not have the cipher: capi:cbc(paes)-plain64: …",
				"this kernel takes a protected key for an ordinary one: it is older than 6.19: …",
			},
			Cause: "Mainline has had protected keys since 6.19 (`CONFIG_TRUSTED_KEYS_CAAM`, `CONFIG_CRYPTO_DEV_FSL_CAAM_CRYPTO_API`), but an unmodified dm-crypt refuses `cbc(paes)` although `/proc/crypto` lists `cbc-paes-caam`: `crypt_alloc_tfms_skcipher` in `drivers/md/dm-crypt.c` calls `crypto_alloc_skcipher(ciphermode, 0, CRYPTO_ALG_ALLOCATES_MEMORY)`, and every cipher of the CAAM allocates memory.",
			Hint:  "protected keys need Linux 6.19 with TRUSTED_KEYS_CAAM and two changed lines: in dm-crypt.c crypto_alloc_skcipher(ciphermode, 0, CRYPTO_ALG_ALLOCATES_MEMORY) becomes crypto_alloc_skcipher(ciphermode, 0, 0), as in NXP's; in drivers/crypto/caam/blob_gen.c kzalloc(CAAM_BLOB_DESC_BYTES_MAX, GFP_KERNEL) becomes kzalloc(CAAM_DESC_BYTES_MAX, GFP_KERNEL), without which each new key corrupts the kernel's memory. A new volume can do without protected: true; a volume that has such a key opens on the kernel that it was made with",
			More:  "See [sources.md](sources.md#protected-keys).",
		},
		{
			Code:    fault.CipherMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel does not have the cipher of source `caam`, `tk(cbc(aes))`.",
			Cause:   "It appears in `/proc/crypto` with the CAAM's first job ring. A kernel that lists it but does not load a table with it has NXP's driver and mainline's dm-crypt, which accepts no cipher that allocates memory; NXP's does. So `provision`, a rotation that changes the cipher, and `doctor` try to load a table before anything is written.",
			Hint:    "tk(cbc(aes)) needs a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API and a working CAAM; `grep -A3 tk /proc/crypto` shows whether it is there. If it is, dm-crypt must be NXP's too: mainline's refuses it",
			More:    "NXP's `drivers/md/dm-crypt.c` calls `crypto_alloc_skcipher(ciphermode, 0, 0)`: take it from the same tree as the driver.",
		},
		{
			Code:    fault.SoftCipherMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel lacks a cipher that it computes in software, such as aes-xts of source `dev`.",
			Messages: []string{
				"…: this kernel does not have the cipher: aes-xts-plain64: …",
			},
			Hint: "the kernel has no such cipher: load its module (for aes-xts: modprobe xts aes_generic), or build the kernel with it (CONFIG_CRYPTO_XTS, CONFIG_CRYPTO_CBC, CONFIG_CRYPTO_AES)",
		},
		{
			Code:    fault.DMMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel has no device-mapper: there is no `/dev/mapper/control`.",
			Hint:    "load the module dm-mod, or build the kernel with CONFIG_BLK_DEV_DM",
		},
		{
			Code:    fault.DMCryptMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel has no dm-crypt.",
			Cause:   "It was not built, its module is not installed, or the module does not load: with `CONFIG_TRUSTED_KEYS=m` it needs `trusted.ko`, which refuses to load if a trust source fails (a DCP on an open chip, `source=` without its hardware). `dmesg` then says `dm_crypt: Unknown symbol key_type_trusted`, and no volume opens, whatever its source.",
			Hint:    "load the module dm-crypt, or build the kernel with CONFIG_DM_CRYPT; if dmesg says Unknown symbol key_type_trusted, the module trusted must load first, and fails if its trust source does (trusted.source=)",
			More:    "If `key_type_trusted` is unknown, run `modprobe trusted source=…` with a trust source that works, then `modprobe dm-crypt`.",
		},
		{
			Code:    fault.KeyringMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The kernel has no keyrings.",
			Messages: []string{
				"…: function not implemented",
			},
			Hint: "build the kernel with CONFIG_KEYS; dm-crypt takes keys from it if CONFIG_KEYS is not a module",
		},
		{
			Code:    fault.KeyNotInKeyring,
			Exit:    fault.ExitFailed,
			Meaning: "dm-crypt did not find the key that was just put into the keyring.",
			Cause:   "This happens only if the kernel's keyrings are restricted (seccomp, LSM).",
			Hint:    "this is a bug, or a seccomp filter or security module blocks add_key: run the command from a root shell to find out",
			More:    "Allow the system calls `add_key` and `keyctl` in the service's sandbox.",
		},
		{
			Code:    fault.ProgramMissing,
			Exit:    fault.ExitMissing,
			Meaning: "A program that is needed is not installed.",
			Messages: []string{
				"program … not found in …",
			},
			Cause: "imxcrypt never uses the caller's PATH.",
			Hint:  "install the package that has the program named above",
			More:  "The packages are e2fsprogs, f2fs-tools, xfsprogs, btrfs-progs and dosfstools.",
		},
		{
			Code:    fault.PermissionMissing,
			Exit:    fault.ExitMissing,
			Meaning: "The program does not run as root, or root lacks its rights, as in a container or in a sandboxed service (`CapabilityBoundingSet=`, `DevicePolicy=`).",
			Messages: []string{
				"…: permission denied",
				"…: operation not permitted",
				"…: only root may lock as much as is needed: …",
				"fence the program in: make mounts private: invalid argument: / is not a mount point, as in a chroot; …",
			},
			Hint: "run it as root; in a container or a sandboxed service, root may lack the right too",
			More: "In a chroot whose root is a directory, `caam.engine: caam-keygen` cannot keep the program's files private: run `mount --bind ROOT ROOT` before `chroot ROOT`, or use `caam.engine: ioctl`.",
		},
		{
			Code:    fault.SuspendMissing,
			Exit:    fault.ExitMissing,
			Meaning: "`imxcrypt sleep` needs something that this kernel does not have.",
			Messages: []string{
				`the kernel has no suspend-to-RAM: …/state says "…"`,
				"the kernel has no cgroup v2 to freeze processes with: …",
				"the kernel cannot freeze cgroups (Linux 5.2): …",
			},
			Cause: "The system is awake, and nothing was changed.",
			Hint:  "lock the volumes before the sleep, or disable suspend (systemctl mask suspend.target); docs/suspend.md lists what the kernel needs",
		},
	}
}
