// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// hint is the one place where an error becomes the advice of what to do next.
// It is empty where the error itself tells what to do, as those of the
// configuration do.
func hint(err error) string {
	if told := (*configs.Error)(nil); errors.As(err, &told) && told.Remedy != "" {
		return ""
	}
	text := hints()[fault.CodeOf(err)]
	if of := (*volume.Error)(nil); errors.As(err, &of) {
		// As it can be typed. In /dev/mapper/NAME it may have a prefix.
		text = strings.ReplaceAll(text, " NAME", " "+of.Volume)
	}
	return text
}

// hint is the advice with the command that was called.
func (a *app) hint(err error) string {
	text := hint(err)
	if a.command != "" {
		text = strings.ReplaceAll(text, "`imxcrypt COMMAND ", "`"+a.command+" ")
	}
	return text
}

func hints() map[fault.Code]string {
	return map[fault.Code]string{
		fault.Failed:            "run the command again with --log-level debug, and see the kernel log (dmesg)",
		fault.Usage:             "see `imxcrypt COMMAND --help`",
		fault.ConfigInvalid:     "mend the field named above; `imxcrypt config check` tests the file, `imxcrypt config show` prints every default",
		fault.ConfigMissing:     "write /etc/imxcrypt/imxcrypt.yaml, or name another file with --config; `imxcrypt config example minimal` prints one to begin with",
		fault.ConfigUntrusted:   "whoever can write the configuration decides what is mounted: chown root:root FILE; chmod go-w FILE",
		fault.GeneratorFailed:   "mend it (`imxcrypt config check`), then: systemctl daemon-reload; systemctl default",
		fault.VolumeUnknown:     "`imxcrypt config show` lists the volumes of the configuration",
		fault.CipherNotAllowed:  "leave `cipher` out of the configuration to get the right one for the source",
		fault.ConfirmationNeeds: "type the volume's name when asked, or give --yes in a script",

		fault.BlobRejected:      "this chip cannot open the key: the storage comes from another board, the chip was closed (or is open again) since, or the blob is damaged; the data is not touched. On the board it was made on it opens",
		fault.BlobDamaged:       "the blob is not one that a CAAM made, or was changed; bring back a copy of it",
		fault.BlobOpenState:     "only a recovery copy of the key, or a backup of the data, helps now; provision boards after closing them",
		fault.KeyWrong:          "nothing was mounted and nothing written; if the header was changed or restored from a copy, bring back the right one",
		fault.KeyFileDamaged:    "bring back the key file of source dev under state_dir; without it the data cannot be read",
		fault.IdentityWrong:     "the recovery copy was sealed to another recipient: `imxcrypt status` and `imxcrypt header check` name it; take the identity that belongs to it",
		fault.KeyLengthMismatch: "blob and header do not belong together; bring back the header that was written with this blob",

		fault.KeysLost:       "imxcrypt lock NAME and unlock NAME, or a reboot, give the kernel new ones; then `imxcrypt rotate --resume-only NAME` goes on. `imxcrypt sleep` suspends without that (docs/suspend.md)",
		fault.StaysSuspended: "nothing was read or written with a wrong key. Mend what the reason says, then `imxcrypt unlock NAME` proves the key again and lets the volume go on; to give it up: `dmsetup wipe_table NAME`, then `imxcrypt lock NAME`",

		fault.DeviceMissing:     "check `device` in the configuration against `ls -l /dev/disk/by-*` or /sys/class/block, and `timeout` if it appears late",
		fault.DeviceAmbiguous:   "name the device by PARTUUID= or by its path",
		fault.DeviceUnsuitable:  "choose another partition, or another header_size, gap or sector_size",
		fault.DeviceReadOnly:    "the storage refuses writes: look for a write-protect switch, `blockdev --setrw`, or worn-out flash (dmesg)",
		fault.CAAMMissing:       "a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API (NXP linux-imx 5.4.47 or later) makes /dev/caam-keygen; load its module, or name the node with caam.device. Chips without a CAAM cannot use source caam",
		fault.CAAMNotReady:      "the CAAM has no job ring for Linux: check its device tree nodes (fsl,sec-v4.0-job-ring) and that OP-TEE or the HAB left it one",
		fault.CAAMFailed:        "see the kernel log for caam messages, then try again",
		fault.CAAMBadArgument:   "the driver does not take this request; its interface may differ: see caam.engine",
		fault.CipherMissing:     "the kernel has no such cipher: tk(cbc(aes)) needs a BSP kernel with CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API; `grep -A3 tk /proc/crypto` shows it",
		fault.DMMissing:         "load the module dm-mod, or build the kernel with CONFIG_BLK_DEV_DM",
		fault.DMCryptMissing:    "load the module dm-crypt, or build the kernel with CONFIG_DM_CRYPT",
		fault.KeyringMissing:    "build the kernel with CONFIG_KEYS; dm-crypt takes keys from it if CONFIG_KEYS is not a module",
		fault.KeyNotInKeyring:   "a bug, or a seccomp filter or security module that keeps add_key from working: run the command from a root shell to tell",
		fault.ProgramMissing:    "install the package that has the program named above",
		fault.ProgramFailed:     "see the program's own words above",
		fault.PermissionMissing: "run it as root; in a container, or a sandboxed service, root may lack the right too",
		fault.SuspendMissing:    "lock the volumes before the sleep, or switch suspend off (systemctl mask suspend.target); docs/suspend.md says what the kernel needs",

		fault.Busy:        "find out who uses it with `fuser -vm` or `lsof`, then try again",
		fault.LockHeld:    "wait for the other imxcrypt to end, then try again",
		fault.DeviceInUse: "take the device out of use first: umount it, `dmsetup remove` what lies on it, swapoff",
		fault.VolumeNotUp: "`imxcrypt boot` opens what is provisioned, `imxcrypt provision` makes the rest",
		fault.MountBusy:   "stop the programs named above, then try again",
		fault.NotFrozen:   "nothing was suspended and all processes go on; one in state D waits for a device or a server that does not answer: see dmesg",

		fault.NotEmpty:             "if nothing on the device is needed any more: imxcrypt provision --wipe NAME",
		fault.ForeignHeader:        "it may be somebody's data; if nothing on the device is needed any more: imxcrypt provision --wipe NAME",
		fault.PlaintextFound:       "somebody put it there: it is not mounted and not copied. If it is not needed: imxcrypt provision --wipe NAME",
		fault.HeaderMismatch:       "the configuration decides: mend it if it is wrong; if it is right, this is not the volume it means",
		fault.MappingMismatch:      "look at it with `dmsetup table` and `dmsetup info`. The volume's own mapping is closed by `imxcrypt lock NAME`; somebody else's by `dmsetup remove`, when nobody needs it, or give ours another name with mapping_prefix",
		fault.OpenStateRefused:     "close the chip first, then provision; for a laboratory set allow_open_state: true",
		fault.SecurityStateUnknown: "`imxcrypt doctor` as root says what was looked at; where Linux cannot read the life cycle (i.MX8QM, 8QXP, 8DXL, 8ULP), check it in U-Boot (ahab_status) and provision without --require-closed",
		fault.InsecureRefused:      "for trying out give --allow-insecure, or set allow_insecure: true; on a product use source: caam",
		fault.FilesystemMissing:    "the key is right and nothing was formatted: imxcrypt unlock --for-repair NAME, then the checker on /dev/mapper/NAME, or a backup",
		fault.FilesystemDamaged:    "the volume is unlocked: run the checker on /dev/mapper/NAME by hand (e2fsck /dev/mapper/NAME), or bring back a backup",
		fault.FilesystemWrong:      "the volume holds another filesystem than the configuration says; mend the configuration or bring back a backup",
		fault.NotProvisioned:       "imxcrypt provision NAME makes the volume; if it should exist already, check `device` and `header`",
		fault.FileExists:           "nothing is ever overwritten; choose another name, or move the file away",
		fault.MountPointMissing:    "make the directory (mkdir -p), or mend mount.path",
		fault.MountPointOccupied:   "unmount what is there, or mend mount.path",
		fault.HeaderRolledBack:     "nothing was formatted or mounted: bring the right header back with `imxcrypt header restore NAME FILE`; if the data is not needed any more, `imxcrypt erase NAME`",
		fault.RollbackRefused:      "an older header has an older key; give --force only if you know that the data was written with it",
		fault.AdoptMismatch:        "nothing was written; take blob, cipher, sector size and offset from the script that opens the volume today, or from `dmsetup table` while it is open",
		fault.RecoveryMissing:      "a recovery copy is made when the volume is provisioned, with --recipient, and never afterwards: back up the data, erase the volume and provision it again",
		fault.SleepRefused:         "the system is awake and nothing was changed; docs/suspend.md says what can go through suspend-to-RAM, and what to lock before it",
		fault.FileUnsafe:           "the file must be a regular file that belongs to root and nobody else can write",

		fault.Interrupted:         "run the same command again: it goes on where it stopped",
		fault.EraseStarted:        "imxcrypt erase NAME finishes it; the volume is not opened any more",
		fault.ProvisioningStarted: "imxcrypt provision NAME finishes it; there is no data in the volume yet",

		fault.HeaderDamaged:     "nothing was changed; bring back a copy of the header if there is one",
		fault.HeaderInvalid:     "nothing was changed; the header breaks the rule named above. Bring back a copy if there is one",
		fault.HeaderVersion:     "the header is of a newer LUKS version: use a newer imxcrypt",
		fault.HeaderRequirement: "the header was written by a newer imxcrypt or cryptsetup: use that one",

		fault.RotationDamaged: "nothing was changed; the storage lost what the rotation wrote down: see dmesg, and copy what can still be read before anything else",

		fault.IOFailed:    "the storage reports errors: see dmesg, and copy what can still be read",
		fault.StorageFull: "make room on the filesystem named above, then run the command again",
	}
}
