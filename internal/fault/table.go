// SPDX-License-Identifier: Apache-2.0

package fault

// Fault is a row of the table of faults: what the program needs at run time.
// Package manual has the rest of the row, which only the documentation needs.
type Fault struct {
	Code Code
	Exit Exit
	// Hint is what to do next: at most two sentences, lower case, no full stop
	// at the end. Advice that destroys data (erase, --wipe) never stands in the
	// first one. NAME stands for the volume, MAPPING for its mapping and COMMAND for the
	// command that was called; a sentence with the first two is left out where no
	// volume is known.
	Hint string
}

// Lookup returns the row of a code.
func Lookup(code Code) (Fault, bool) {
	for _, f := range Table() {
		if f.Code == code {
			return f, true
		}
	}
	return Fault{}, false
}

// Table has one row for each code, in the order of the troubleshooting page. A
// new code needs its constant in codes.go, its row here and its entry in package
// manual; `make docs` then writes docs/troubleshooting.md.
func Table() []Fault {
	return []Fault{
		{Usage, ExitUsage, "see `COMMAND --help`"},
		{ConfigInvalid, ExitUsage, "correct the field named above; `imxcrypt config check` tests the file, `imxcrypt config show` prints every default"},
		{ConfigMissing, ExitUsage, "write /etc/imxcrypt/imxcrypt.yaml, or name another file with --config; `imxcrypt config example minimal` prints one to start from"},
		{ConfigUntrusted, ExitUsage, "a writer of the configuration decides what is mounted: give the file named above to root (chown root:root) and to nobody else (chmod go-w)"},
		{GeneratorFailed, ExitUsage, "correct the configuration (`imxcrypt config check`), then: systemctl daemon-reload; systemctl default"},
		{VolumeUnknown, ExitUsage, "`imxcrypt config show` lists the volumes of the configuration"},
		{CipherNotAllowed, ExitUsage, "leave `cipher` out of the configuration to get the right one for the source"},
		{FileMissing, ExitUsage, "check the name of the file or device; relative names start from the current directory"},
		{ConfirmationNeeds, ExitUsage, "type the volume's name when asked, or give --yes in a script"},

		{BlobRejected, ExitKeyRejected, "the data is untouched, and opens on the board it was made on: put the storage back there; if this is that board, the chip was closed (or opened again) since, or the blob is damaged. Another board's image, whose data nobody needs here, is replaced by `imxcrypt erase NAME`, then `imxcrypt provision NAME`"},
		{BlobDamaged, ExitKeyRejected, "the blob was not made by a CAAM, or has changed; restore a copy of it"},
		{BlobOpenState, ExitKeyRejected, "only a recovery copy of the key (`imxcrypt recover`) or a backup of the data helps now; provision boards after closing them"},
		{KeyWrong, ExitKeyRejected, "nothing was mounted or written; if the header was changed or replaced by a copy, restore the right one (`imxcrypt header restore`)"},
		{KeyFileDamaged, ExitKeyRejected, "restore the key file of source dev under state_dir; without it the data cannot be read"},
		{StaysSuspended, ExitKeyRejected, "nothing was read or written with a wrong key: `imxcrypt unlock` proves the key again and resumes the volume, or says what keeps it from that. To give it up: `dmsetup wipe_table --noflush --nolockfs MAPPING`, then `imxcrypt lock NAME`"},
		{KeysLost, ExitKeyRejected, "`imxcrypt unlock NAME` gives the kernel its keys again, with the volume mounted as it is; a rotation then continues with `imxcrypt rotate --resume-only NAME`. `imxcrypt sleep` suspends without losing them (docs/suspend.md)"},
		{IdentityWrong, ExitKeyRejected, "the recovery copy was sealed to another recipient, which `imxcrypt status` and `imxcrypt header check` name: use the identity that belongs to it. A passphrase is that of the last provision or rotate"},
		{KeyLengthMismatch, ExitKeyRejected, "blob and header do not belong together: restore the header that was written with this blob"},

		{DeviceMissing, ExitMissing, "compare `device` in the configuration with `ls -l /dev/disk/by-*` or /sys/class/block; raise `timeout` if it appears late"},
		{DeviceAmbiguous, ExitMissing, "name the device by its controller (eMMC:PARTLABEL=…, mmc@30b60000:PARTLABEL=…), by PARTUUID= or by its path"},
		{DeviceUnsuitable, ExitMissing, "choose another partition, or another header_size, gap or sector_size"},
		{PartitionShrunk, ExitMissing, "nothing was changed, and the header is whole: give the partition the size back that it had; what it lost may still lie behind its end, so write nothing there"},
		{PartitionGrown, ExitFailed, "the volume works as it is, and nothing needs to be done. `imxcrypt resize NAME` gives it the rest"},
		{DeviceNoMedium, ExitMissing, "give it something to hold: attach a file to a loop device (losetup DEVICE FILE), put the card into its reader"},
		{DeviceReadOnly, ExitMissing, "the storage refuses writes: look for a write-protect switch, `blockdev --setrw`, or worn-out flash (dmesg)"},
		{SourceMissing, ExitMissing, "NXP's kernel needs CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API, mainline's CONFIG_TRUSTED_KEYS with the trust source of this chip (docs/sources.md); `imxcrypt doctor` says what is lacking. To try imxcrypt out without any, use source: dev"},
		{CAAMMissing, ExitMissing, "a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API (NXP linux-imx 5.4.47 or later) has /dev/caam-keygen: load its module, or name the node with caam.device. Chips without a CAAM cannot use source caam"},
		{CAAMNotReady, ExitMissing, "the CAAM has no job ring for Linux: check its device tree nodes (fsl,sec-v4.0-job-ring), and that OP-TEE or the HAB left it one"},
		{CAAMFailed, ExitFailed, "see the kernel log for messages of caam, then try again"},
		{CAAMBadArgument, ExitMissing, "the driver does not accept this request; its interface may differ: see caam.engine"},
		{TrustMissing, ExitMissing, "build the kernel with CONFIG_TRUSTED_KEYS and the trust source of this chip (CAAM, DCP, TEE or TPM); where several are built in, trusted.source=caam on the kernel command line chooses, since TEE and TPM come first. On an open chip the DCP seals no keys: close the chip, then boot again"},
		{TrustOther, ExitMissing, "the kernel uses one trust source at a time: choose the one that sealed the key with trusted.source=caam (or dcp, tee, tpm) on the kernel command line, and boot again; the data is not touched"},
		{TrustParent, ExitMissing, "make the TPM's primary key once: tpm2_createprimary -C o -c p.ctx && tpm2_evictcontrol -c p.ctx 0x81000001. One that was there and is lost took the sealed keys with it: where the TPM was cleared, only a backup of the data helps"},
		{TrustFailed, ExitMissing, "the kernel log (dmesg) has the words of the CAAM, DCP, OP-TEE or TPM; the data is not touched"},
		{ProtectedMissing, ExitMissing, "protected keys need Linux 6.19 with TRUSTED_KEYS_CAAM and two changed lines: in dm-crypt.c crypto_alloc_skcipher(ciphermode, 0, CRYPTO_ALG_ALLOCATES_MEMORY) becomes crypto_alloc_skcipher(ciphermode, 0, 0), as NXP's; in drivers/crypto/caam/blob_gen.c kzalloc(CAAM_BLOB_DESC_BYTES_MAX, GFP_KERNEL) becomes kzalloc(CAAM_DESC_BYTES_MAX, GFP_KERNEL), without which each key that is made damages the kernel's memory. A new volume does without protected: true; one that has such a key opens on the kernel that it was made with"},
		{CipherMissing, ExitMissing, "tk(cbc(aes)) needs a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API and a working CAAM; `grep -A3 tk /proc/crypto` shows whether it is there. If it is, dm-crypt must be NXP's, too: mainline's refuses it"},
		{SoftCipherMissing, ExitMissing, "the kernel has no such cipher: load its module (for aes-xts: modprobe xts aes_generic), or build the kernel with it (CONFIG_CRYPTO_XTS, CONFIG_CRYPTO_CBC, CONFIG_CRYPTO_AES)"},
		{DMMissing, ExitMissing, "load the module dm-mod, or build the kernel with CONFIG_BLK_DEV_DM"},
		{DMCryptMissing, ExitMissing, "load the module dm-crypt, or build the kernel with CONFIG_DM_CRYPT; if dmesg says Unknown symbol key_type_trusted, the module trusted must load first, which fails where its trust source does (trusted.source=)"},
		{KeyringMissing, ExitMissing, "build the kernel with CONFIG_KEYS; dm-crypt takes keys from it if CONFIG_KEYS is not a module"},
		{KeyNotInKeyring, ExitFailed, "a bug, or a seccomp filter or security module that blocks add_key: run the command from a root shell to find out"},
		{ProgramMissing, ExitMissing, "install the package that has the program named above"},
		{PermissionMissing, ExitMissing, "run it as root; in a container or a sandboxed service, root may lack the right too"},
		{SuspendMissing, ExitMissing, "lock the volumes before the sleep, or disable suspend (systemctl mask suspend.target); docs/suspend.md lists what the kernel needs"},

		{NotFrozen, ExitBusy, "nothing was suspended and all processes continue; one in state D waits for a device or a server that does not answer: see dmesg"},
		{Busy, ExitBusy, "find out who uses it with `fuser -vm` or `lsof`, then try again"},
		{LockHeld, ExitBusy, "wait for the other imxcrypt to end, then try again"},
		{KeyQuota, ExitBusy, "raise the quota, for instance `sysctl -w kernel.keys.root_maxkeys=1000000 kernel.keys.root_maxbytes=25000000` (for users other than root: maxkeys, maxbytes); /proc/key-users shows who uses how many"},
		{RotationUnderWay, ExitBusy, "until its rotation is finished the volume has two keys, or is partly in plain text. `imxcrypt rotate --resume-only NAME` finishes it, then run this command again"},
		{DeviceInUse, ExitBusy, "take the device out of use first: umount, swapoff, `losetup -d`; a volume that another configuration opened is closed with that one (`imxcrypt --config FILE lock --all`), other mappings by `dmsetup remove`"},
		{MountBusy, ExitBusy, "stop the programs named above, then try again"},

		{NotEmpty, ExitRefused, "check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`"},
		{ForeignHeader, ExitRefused, "it may be somebody's data: check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`"},
		{PlaintextFound, ExitRefused, "it was neither mounted nor copied: check `device` in the configuration, and save what is needed from it; if it was made over a volume, restore a backup of the header (`imxcrypt header restore --force`). If it is meant to become the volume, with its files: `imxcrypt encrypt NAME`; if nothing on it is needed any more: `imxcrypt provision --wipe NAME`"},
		{HeaderMismatch, ExitRefused, "the configuration is authoritative: correct it if it is wrong; if it is right, this is not the volume it means"},
		{MappingMismatch, ExitRefused, "look at it with `dmsetup table` and `dmsetup info`: if it is not imxcrypt's, and nobody needs it, close it with `dmsetup remove`, or give ours another name with mapping_prefix. The volume's own mapping is closed by `imxcrypt lock NAME`"},
		{OpenStateRefused, ExitRefused, "close the chip first, then provision; in a laboratory set allow_open_state: true"},
		{SecurityStateUnknown, ExitRefused, "`imxcrypt doctor` as root shows what was looked at; where Linux cannot read the life cycle (i.MX8QM, 8QXP, 8DXL, 8ULP), check it in U-Boot (ahab_status) and provision without --require-closed"},
		{InsecureRefused, ExitRefused, "to try imxcrypt out give --allow-insecure, or set allow_insecure: true; on a product use source: caam"},
		{FilesystemMissing, ExitRefused, "nothing was formatted: the filesystem may still be repaired. `imxcrypt unlock --for-repair NAME`, then run the checker on /dev/mapper/MAPPING, or restore a backup of the data"},
		{FilesystemDamaged, ExitRefused, "the key is right, and nothing was mounted; the checker of the filesystem, run by hand, or a backup of the data helps. `imxcrypt unlock --for-repair NAME` unlocks the volume, then run the checker by hand (ext4: `e2fsck -f /dev/mapper/MAPPING`, xfs: `xfs_repair /dev/mapper/MAPPING`)"},
		{FilesystemUnclean, ExitRefused, "nothing was changed: mount the filesystem once and unmount it, or run its checker (for ext4: `e2fsck -f DEVICE`), then run the command again"},
		{FilesystemWrong, ExitRefused, "correct `filesystem` in the configuration, write an image that fits into the volume, or restore a backup of the data"},
		{PlaintextRefused, ExitRefused, "nothing was changed or mounted: if the volume was there before, find out who put the plain text there, and restore its header from a backup (`imxcrypt header restore`). A person can encrypt what is there (`imxcrypt encrypt --force NAME`), where it is to be trusted and nothing is left of the volume"},
		{NotProvisioned, ExitRefused, "`imxcrypt provision NAME` makes the volume; of a filesystem in plain text, with its files, `imxcrypt encrypt NAME` does. If it should exist already, check `device` and `header` in the configuration, or restore its header from a backup (`imxcrypt header restore`)"},
		{VolumeGone, ExitRefused, "this board made the volume, and nothing of it is left on the device: check that it is the right disk (`device` in the configuration, `lsblk`, dmesg); if it is, only a backup of the data helps. `imxcrypt provision NAME` then makes a new, empty volume"},
		{FileExists, ExitRefused, "nothing is ever overwritten: choose another name, or move the file away"},
		{MountPointMissing, ExitRefused, "make the directory (mkdir -p), or correct mount.path"},
		{MountPointOccupied, ExitRefused, "unmount what is there, or correct mount.path"},
		{RollbackRefused, ExitRefused, "nothing was changed: `imxcrypt header repair` repairs the header that is there, where it is damaged, and a newer backup is accepted. An older header has an older key: --force restores it where the filesystem proves that the data is under it"},
		{VolumeReplaced, ExitRefused, "nothing was changed: the volume that is there now has a header of its own, and a backup of that one restores it"},
		{HeaderRolledBack, ExitRefused, "nothing was formatted or mounted: restore the right header with `imxcrypt header restore`. If the data is not needed any more: `imxcrypt erase NAME`"},
		{AdoptMismatch, ExitRefused, "nothing was written; take blob, cipher, sector size and offset from the script that opens the volume today, or from `dmsetup table` while it is open"},
		{RecoveryMissing, ExitRefused, "a recovery copy is made with a key, so where no board opens the volume any more, only a backup of the data helps. Where one does, `imxcrypt rotate --recipient age1… NAME` (or --recovery-passphrase) makes another key with a copy"},
		{RecoveryLost, ExitRefused, "nothing was changed: keep source caam, or back up the data and give --no-recovery. The recovery copy of the old key opens nothing afterwards"},
		{SectorsRefused, ExitRefused, "nothing was changed: give sector_size the value back that the volume has (`imxcrypt status`), and the rotation gives it a new key. Larger sectors take a volume that is made again, with the data restored from a backup"},
		{FingerprintWrong, ExitRefused, "nothing was opened or changed: compare it with recovery_fingerprint in the record of the factory, or of the last rotation. If they are the same, somebody changed the storage (docs/security.md)"},
		{BenchRefused, ExitRefused, "bench overwrites its device, so it takes only one that is empty and that nobody uses: name another one, or leave --device out, then it works on a RAM disk"},
		{ResizeRefused, ExitRefused, "nothing was changed: a volume only grows, to the space that its device has. For a smaller one back up the data, then erase the volume and provision it again"},
		{ShrinkRefused, ExitRefused, "nothing was changed: give the header a file (`header: /path/of/a/file`), which needs no room, or make the partition larger"},
		{DecryptRefused, ExitRefused, "nothing was changed: where the room is missing, `imxcrypt rotate NAME` makes it, by moving the data into the gap; then decrypt. A volume that was made with less gap than header area can only be copied: back up its files"},
		{RenameRefused, ExitRefused, "nothing was changed: lock the volume, change its name in the configuration from OLD to NEW, then run `imxcrypt rename OLD NEW`"},
		{SleepRefused, ExitRefused, "the system is awake and nothing was changed; docs/suspend.md lists what can stay unlocked in suspend-to-RAM, and what to lock before it"},
		{FileUnsafe, ExitRefused, "the file must be a regular file that belongs to root and that nobody else can write"},

		{Interrupted, ExitInterrupted, "run the same command again: it continues where it stopped"},
		{ProvisioningStarted, ExitInterrupted, "if the volume was never used, `imxcrypt provision NAME` finishes it, and continues where it stopped. If it had data, an old header was written back: restore a backup of the header (`imxcrypt header restore`)"},
		{EncryptionStarted, ExitInterrupted, "nothing is encrypted yet, and nothing is lost. `imxcrypt encrypt NAME` continues"},
		{DecryptionEnding, ExitInterrupted, "all data is in plain text, and nothing is lost; do not mount the device yet. `imxcrypt decrypt NAME` puts back what is missing of the filesystem's start"},
		{ShrinkStarted, ExitInterrupted, "nothing is lost, and there is no filesystem to mount or to check until that is done. `imxcrypt encrypt NAME` finishes it, and `imxcrypt encrypt --resume-only NAME` does no more than that"},
		{EraseStarted, ExitInterrupted, "nothing opens the volume any more; if the erase was a mistake, `imxcrypt header restore` may still undo it with a backup of the header. `imxcrypt erase NAME` finishes it"},

		{HeaderDamaged, ExitHeaderDamaged, "nothing was changed: `imxcrypt header repair` repairs the header where its two copies complete each other; else restore a backup of it (`imxcrypt header restore`)"},
		{HeaderCopyDamaged, ExitHeaderDamaged, "nothing is lost, for the other copy serves: `imxcrypt header repair` writes the damaged one again from it, also while the volume is in use"},
		{HeaderMissing, ExitHeaderDamaged, "nothing was changed, and the data may be whole: restore a backup of the header (`imxcrypt header restore`), put the file of a detached one back, or take over a volume that was made by hand (`imxcrypt adopt`). Only where there is none, and nothing on the device is needed any more: `imxcrypt provision --wipe NAME`"},
		{HeaderInvalid, ExitHeaderDamaged, "nothing was changed: the header breaks the rule named above. If the device is smaller than the header says (segment-bounds), give it its size again; else restore a backup of the header (`imxcrypt header restore`)"},
		{HeaderVersion, ExitHeaderDamaged, "the header is of a newer LUKS version: use a newer imxcrypt"},
		{HeaderRequirement, ExitHeaderDamaged, "the header was written by a newer imxcrypt or cryptsetup: use that one"},
		{RotationDamaged, ExitHeaderDamaged, "nothing was changed: the storage lost what the rotation had recorded; see dmesg, and copy what can still be read before anything else"},

		{Failed, ExitFailed, "run the command again with --log-level debug, and see the kernel log (dmesg)"},
		{ProgramFailed, ExitFailed, "see the program's own words above"},
		{IOFailed, ExitFailed, "the storage reports errors: see dmesg, and copy what can still be read"},
		{StorageFull, ExitFailed, "make room on the filesystem named above, then run the command again"},
		{NotMounted, ExitFailed, "the data is there, and not where programs look for it: `imxcrypt unlock --mount`, or `systemctl start` of its mount unit, mounts it or says what keeps it from being mounted"},
		{MountedReadOnly, ExitFailed, "see dmesg: a filesystem with an error, or storage that refuses writes, is made read-only. If it is meant to be read-only, write `options: [ro]` under `mount`"},
		{VolumeNotUp, ExitFailed, "`imxcrypt boot` opens what is provisioned, `imxcrypt provision` makes the rest"},
	}
}
