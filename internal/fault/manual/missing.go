// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// missing has the faults where the device, the chip or the kernel lacks something.
func missing() []Entry {
	return []Entry{
		{
			Code:    fault.DeviceMissing,
			Meaning: "No block device answers to `device`, and none appeared within `timeout`.",
			Messages: []string{
				"/dev/…: no such device",
				`after …: device "…" not found`,
				`device "…" not found…, and elsewhere there is …`,
			},
			Remedy: "Look for it with `ls -l /dev/disk/by-*`, or `ls /sys/class/block` without udev. Load the storage's driver; raise `timeout` if the device appears late.",
		},
		{
			Code:    fault.DeviceAmbiguous,
			Meaning: "More than one device answers to `device`, so none is used.",
			Messages: []string{
				`device "PARTLABEL=…" is ambiguous: … all answer to it`,
			},
			Remedy: "Name the controller that it hangs on, so that no other disk or card is looked at: `eMMC:PARTLABEL=data`, `mmc@30b60000:PARTLABEL=data`. Or name the device by `PARTUUID=` or by its path.",
		},
		{
			Code:    fault.DeviceUnsuitable,
			Meaning: "The device cannot hold the volume.",
			Messages: []string{
				"neither a block device nor a regular file",
			},
			Remedy: "Choose another partition, or other values for `header_size`, `gap` and `sector_size`. From `encrypt`, where the filesystem leaves no room: `header: FILE` needs none.",
		},
		{
			Code:    fault.PartitionShrunk,
			Meaning: "The header is sound, and the volume that it describes ends behind the end of the partition.",
			Messages: []string{
				"/dev/… has … bytes, and the volume … on it (uuid …) ends at byte …: the partition is smaller than when the volume was made",
			},
			Cause:  "The partition table was changed, or the volume was copied to a smaller partition.",
			Remedy: "Give the partition the size that it had, with the same first sector. What it lost is still there until something is written behind its end. Of a copy, make another one that is complete.",
		},
		{
			Code:    fault.PartitionGrown,
			Meaning: "The partition is larger than when the volume was made, which `status` and `doctor` warn of.",
			Messages: []string{
				"/dev/… has grown since the volume was made: … MiB of it are not used",
			},
			Cause:  "The volume works as it is.",
			Remedy: "Nothing needs to be done. `imxcrypt resize NAME` gives the volume and its filesystem the rest, in use: [resize.md](resize.md).",
		},
		{
			Code:    fault.DeviceNoMedium,
			Meaning: "The device is there, but has no size.",
			Messages: []string{
				"open …: device has no size",
			},
			Cause:  "It is a loop device that no file is attached to, a card reader without a card, or a disk that failed to start.",
			Remedy: "`losetup DEVICE FILE` attaches a file, and `losetup --list` shows what is attached. Put the card in; see `dmesg` for a disk.",
		},
		{
			Code:    fault.DeviceReadOnly,
			Meaning: "The storage refuses writes.",
			Messages: []string{
				"/dev/…: read-only",
				"mount …: read-only file system: it was not unmounted when it was last used, and its journal cannot be worked off on a read-only device; …",
			},
			Cause: "A read-only device is mounted read-only, unless its filesystem was in use when the power went: ext4, xfs, f2fs and btrfs have to replay their journal first.",
			Remedy: "Look for a write-protect switch, `blockdev --setrw`, or worn-out flash (`dmesg`). " +
				"For the journal: allow writes to the device for one mount, or leave out what the journal holds, with `mount: {path: …, options: [noload]}` " +
				"(ext4; xfs and f2fs: `norecovery`, btrfs: `rescue=nologreplay`). What was written last may be missing then.",
		},
		{
			Code:    fault.SourceMissing,
			Meaning: "With `source: auto`: neither the CAAM's driver nor the kernel's trusted keys are there.",
			Messages: []string{
				"nothing here seals keys: caam: …; trusted: …",
			},
			Cause:  "The kernel was built without NXP's driver and without trusted keys, a module is not loaded, or the chip's key hardware is not in the device tree.",
			Remedy: "[sources.md](sources.md) lists which kernel has what for which chip. `imxcrypt doctor` says what this one lacks.",
		},
		{
			Code:    fault.CAAMMissing,
			Meaning: "There is no CAAM key interface.",
			Messages: []string{
				"/dev/caam-keygen: open: …no such file or directory",
			},
			Cause:  "It exists in NXP's BSP kernels (linux-imx 5.4.47 and later) only, never in mainline; and not on chips without a CAAM: i.MX 23, 28, 6SL, 6SLL, 6ULL, 6ULZ have a DCP, i.MX 91, 93, 95 an ELE.",
			Remedy: "Use a kernel with `CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API`, and load its module; set `caam.device` if the node has another name.",
		},
		{
			Code:    fault.CAAMNotReady,
			Meaning: "The driver is there, but has no job ring.",
			Messages: []string{
				"/dev/caam-keygen: …: no such device",
			},
			Remedy: "Check the `fsl,sec-v4.0-job-ring` nodes in the device tree, and that OP-TEE or the HAB leaves Linux one.",
		},
		{
			Code:    fault.CAAMFailed,
			Meaning: "The CAAM or its driver failed.",
			Messages: []string{
				"/dev/caam-keygen: create: …",
			},
			Remedy: "`dmesg | grep -i caam`, then try again.",
		},
		{
			Code:    fault.CAAMBadArgument,
			Meaning: "The driver does not accept the request.",
			Messages: []string{
				"/dev/caam-keygen: …: invalid argument",
			},
			Remedy: "The BSP's interface may differ: `caam: {engine: caam-keygen}` drives NXP's own program.",
		},
		{
			Code:    fault.TrustMissing,
			Meaning: "The kernel has no trusted keys, or nothing that seals them.",
			Messages: []string{
				"make a trusted key: this kernel has no trust source: …: no such device",
			},
			Cause:  "The kernel lacks `CONFIG_TRUSTED_KEYS` or the trust source of this chip; or a trust source that is tried before it is built in and found no hardware: a kernel with TEE and without OP-TEE has none, although a CAAM is there; an OP-TEE without its application for trusted keys seals none. On an open chip the DCP refuses.",
			Remedy: "`grep TRUSTED_KEYS /boot/config-$(uname -r)` shows what is built. Name the trust source on the kernel command line: `trusted.source=caam`, `dcp`, `tee` or `tpm`. As a module, `trusted.ko` must be loaded before `dm-crypt.ko`.",
		},
		{
			Code:    fault.TrustOther,
			Meaning: "The kernel uses another trust source than the one that sealed the key.",
			Messages: []string{
				"the key was sealed by the trust source …, and the kernel's is …: …",
				"the kernel's trust source is …, and the configuration asks for …",
				"the kernel sealed a trusted key as a blob of … bytes, which is the form of no trust source known here",
			},
			Cause:  "Linux uses one trust source at a time. It tries TPM, TEE, CAAM and DCP in this order, so a kernel with more of them built in may choose another one after an update.",
			Remedy: "Choose with `trusted.source=` on the kernel command line. The data is untouched.",
		},
		{
			Code:    fault.TrustParent,
			Meaning: "The trust source is a TPM, and the key under which it seals is not there.",
			Messages: []string{
				"make a trusted key: the TPM seals no key under its persistent key 0x81000001: …: operation not permitted",
				"the TPM has no persistent key 0x81000001, under which the key was sealed: …: operation not permitted",
			},
			Cause:  "The kernel seals under a primary key that somebody made persistent. A new TPM has none; clearing a TPM removes it.",
			Remedy: "Once, before provisioning: `tpm2_createprimary -C o -c p.ctx && tpm2_evictcontrol -c p.ctx 0x81000001`. The same commands restore the key if only the handle was removed and the owner's seed is the same; after `tpm2_clear` it is another one, and sealed keys are lost.",
		},
		{
			Code:    fault.TrustFailed,
			Meaning: "The trust source is there, and makes no keys.",
			Messages: []string{
				"make a trusted key: the trust source made no key: …",
				"the trust source … neither opens the sealed key nor makes one: …",
			},
			Cause:  "The hardware or its firmware refuses every request. It is not the sealed key.",
			Remedy: "`dmesg` has the hardware's own words (`caam`, `mxs-dcp`, `TA_CMD_SEAL`, `tpm`). Try after a power cycle.",
		},
		{
			Code:    fault.ProtectedMissing,
			Meaning: "The kernel has no protected keys, or its dm-crypt does not take their cipher.",
			Messages: []string{
				"…: this kernel does not have the cipher: capi:cbc(paes)-plain64: …",
				"this kernel takes a protected key for an ordinary one: it is older than 6.19: …",
			},
			Cause:  "Mainline has protected keys since 6.19 (`CONFIG_TRUSTED_KEYS_CAAM`, `CONFIG_CRYPTO_DEV_FSL_CAAM_CRYPTO_API`), and dm-crypt without a change refuses `cbc(paes)` although `/proc/crypto` lists `cbc-paes-caam`: `crypt_alloc_tfms_skcipher` in `drivers/md/dm-crypt.c` calls `crypto_alloc_skcipher(ciphermode, 0, CRYPTO_ALG_ALLOCATES_MEMORY)`, and every cipher of the CAAM allocates memory.",
			Remedy: "For a new volume leave out `protected: true`: nothing was written. To have protected keys take a kernel from 6.19 on whose dm-crypt calls `crypto_alloc_skcipher(ciphermode, 0, 0)`, as NXP's does, and whose `drivers/crypto/caam/blob_gen.c` calls `kzalloc(CAAM_DESC_BYTES_MAX, GFP_KERNEL)`: with `CAAM_BLOB_DESC_BYTES_MAX` there, as in 7.3, each protected key that is made damages the kernel's memory ([sources.md](sources.md#protected-keys)). A volume that has a protected key opens again with the kernel that it was made with.",
		},
		{
			Code:    fault.CipherMissing,
			Meaning: "The kernel does not have the cipher of source `caam`, `tk(cbc(aes))`.",
			Cause:   "It appears in `/proc/crypto` with the CAAM's first job ring. A kernel that lists it and does not load a table with it has NXP's driver and mainline's dm-crypt, which takes no cipher that allocates memory; NXP's takes them. So `provision`, a rotation that changes the cipher, and `doctor` load a table as a trial, before anything is written.",
			Remedy:  "The same kernel option as for `caam-missing`: `CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API`. Where `/proc/crypto` has `tk(cbc(aes))`: NXP's `drivers/md/dm-crypt.c` (`crypto_alloc_skcipher(ciphermode, 0, 0)`), from the same tree as the driver.",
		},
		{
			Code:    fault.SoftCipherMissing,
			Meaning: "The kernel lacks a cipher that it computes in software, such as aes-xts of source `dev`.",
			Messages: []string{
				"…: this kernel does not have the cipher: aes-xts-plain64: …",
			},
			Remedy: "`modprobe xts aes_generic`, or a kernel with `CONFIG_CRYPTO_XTS`, `CONFIG_CRYPTO_CBC` and `CONFIG_CRYPTO_AES`.",
		},
		{
			Code:    fault.DMMissing,
			Meaning: "The kernel has no device-mapper: there is no `/dev/mapper/control`.",
			Remedy:  "`modprobe dm-mod`, or `CONFIG_BLK_DEV_DM`.",
		},
		{
			Code:    fault.DMCryptMissing,
			Meaning: "The kernel has no dm-crypt.",
			Cause:   "It was not built, its module is not installed, or the module does not load: with `CONFIG_TRUSTED_KEYS=m` it needs `trusted.ko`, which refuses to load where a trust source fails (a DCP on an open chip, `source=` without its hardware). `dmesg` says `dm_crypt: Unknown symbol key_type_trusted` then, and no volume opens, whatever its source.",
			Remedy:  "`modprobe dm-crypt`, or `CONFIG_DM_CRYPT`. Behind `key_type_trusted`: `modprobe trusted source=…` with a trust source that works, then `modprobe dm-crypt`.",
		},
		{
			Code:    fault.KeyringMissing,
			Meaning: "The kernel has no keyrings.",
			Messages: []string{
				"…: function not implemented",
			},
			Remedy: "`CONFIG_KEYS=y`.",
		},
		{
			Code:    fault.KeyNotInKeyring,
			Meaning: "dm-crypt did not find the key that was just put into the keyring.",
			Cause:   "That only happens where the kernel's keyrings are restricted (seccomp, LSM).",
			Remedy:  "Allow the system calls `add_key` and `keyctl` in the service's sandbox.",
		},
		{
			Code:    fault.ProgramMissing,
			Meaning: "A program that is needed is not installed.",
			Messages: []string{
				"program … not found in …",
			},
			Cause:  "The caller's PATH is never used.",
			Remedy: "Install the package: e2fsprogs, f2fs-tools, xfsprogs, btrfs-progs, dosfstools.",
		},
		{
			Code:    fault.PermissionMissing,
			Meaning: "Not root; or root without its rights, as in a container or in a sandboxed service (`CapabilityBoundingSet=`, `DevicePolicy=`).",
			Messages: []string{
				"…: permission denied",
				"…: operation not permitted",
				"…: only root may lock as much as is needed: …",
				"fence the program in: make mounts private: invalid argument: / is no mount point, as in a chroot; …",
			},
			Remedy: "Run it as root, outside of the container. In a chroot whose root is a directory, `caam.engine: caam-keygen` cannot keep the program's files private: " +
				"`mount --bind ROOT ROOT` before `chroot ROOT`, or `caam.engine: ioctl`.",
		},
		{
			Code:    fault.SuspendMissing,
			Meaning: "`imxcrypt sleep` needs something that this kernel does not have.",
			Messages: []string{
				`the kernel has no suspend-to-RAM: …/state says "…"`,
				"the kernel has no cgroup v2 to freeze processes with: …",
				"the kernel cannot freeze cgroups (Linux 5.2): …",
			},
			Cause:  "The system is awake, and nothing was changed.",
			Remedy: "Lock the volumes before the sleep, or disable suspend: `systemctl mask suspend.target`. See [suspend.md](suspend.md).",
		},
	}
}
