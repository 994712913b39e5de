// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// refused has the faults where going on might lose data or protection.
func refused() []Entry {
	return []Entry{
		{
			Code:    fault.NotEmpty,
			Exit:    fault.ExitRefused,
			Meaning: "Only an empty device is provisioned, and this one is not empty.",
			Messages: []string{
				"/dev/… is not empty: data at byte …",
				"/dev/mapper/… is not empty: data at byte …; it is in an encrypted volume, where what was never written reads as noise: …",
			},
			Cause: "A device is empty if its first and last MiB, and blocks sampled over the whole device, are all 0x00 or all 0xFF. That no signature is found proves nothing: an encrypted volume shows none.",
			Hint:  "check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More:  "To make a volume inside a new volume with `filesystem: none`, fill the outer one with zeros first: `blkdiscard -z /dev/mapper/OUTER`.",
		},
		{
			Code:    fault.ForeignHeader,
			Exit:    fault.ExitRefused,
			Meaning: "The device holds a header that is not imxcrypt's: it may be someone's data.",
			Messages: []string{
				"/dev/… holds a LUKS2 volume that is not imxcrypt's: …",
			},
			Hint: "it may be someone's data: check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More: "If nothing else proves the key in the backup, `imxcrypt header restore --force` looks for blocks of data that the key decrypts.",
		},
		{
			Code:    fault.PlaintextFound,
			Exit:    fault.ExitRefused,
			Meaning: "There is an unencrypted filesystem where the volume should be.",
			Messages: []string{
				"/dev/… holds an unencrypted … where an encrypted volume is expected",
			},
			Cause: "It was put there later, or it was never encrypted. It is not mounted, and nothing is copied from it.",
			Hint:  "the filesystem was neither mounted nor copied: check `device` in the configuration, and save what you need from it; if it was made over a volume, restore a backup of the header (`imxcrypt header restore --force`). If it is to become the volume, with its files: `imxcrypt encrypt NAME`; if nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More:  "If the board remembers a volume here, the message says so. See [encrypt.md](encrypt.md).",
		},
		{
			Code:    fault.HeaderMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "The header and the configuration disagree, and the configuration is authoritative.",
			Messages: []string{
				`the header is not the one the configuration describes: … is "…" in the header and "…" in the configuration`,
				`the volume on … has the name "…", neither "…" nor "…"`,
			},
			Cause: "The configuration was changed, or this is not the volume it means, or the header was changed.",
			Hint:  "the configuration is authoritative: correct it if it is wrong; if it is right, this is not the volume it means",
			More:  "`imxcrypt rotate` changes the volume's `cipher`, `sector_size`, `wrap` or `key_size`, see [rotation.md](rotation.md). If you changed the volume's name in the configuration, `imxcrypt rename OLD NEW` renames the volume, see [rename.md](rename.md).",
		},
		{
			Code:    fault.MappingMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "There is a mapping with the volume's name, but it is not the expected one.",
			Messages: []string{
				"mapping … exists and is not this volume: …",
				"mapping … is live with another table: …",
			},
			Hint: "look at it with `dmsetup table` and `dmsetup info`: if it is not imxcrypt's and is not needed, close it with `dmsetup remove`, or give imxcrypt's mapping another name with mapping_prefix. `imxcrypt lock NAME` closes the volume's own mapping",
		},
		{
			Code:    fault.OpenStateRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The chip is open: keys made on an open chip are not protected, and are lost when it is closed.",
			Messages: []string{
				"the volume was made while the chip was open: …",
			},
			Cause: "See [security.md](security.md).",
			Hint:  "close the chip first, then provision; in a laboratory set allow_open_state: true",
		},
		{
			Code:    fault.SecurityStateUnknown,
			Exit:    fault.ExitRefused,
			Meaning: "`--require-closed` was given, but neither the fuses nor the kernel log show which state the chip is in.",
			Cause:   "imxcrypt has no permission to read them, a fuse is locked, or Linux cannot read the life cycle of this SoC.",
			Hint:    "`imxcrypt doctor` as root shows what was checked; if Linux cannot read the life cycle (i.MX8QM, 8QXP, 8DXL, 8ULP), check it in U-Boot (ahab_status) and provision without --require-closed",
		},
		{
			Code:    fault.InsecureRefused,
			Exit:    fault.ExitRefused,
			Meaning: "Volumes with source `dev` are for trying imxcrypt out, and must be allowed explicitly.",
			Hint:    "to try imxcrypt out give --allow-insecure, or set allow_insecure: true; on a product use source: caam",
		},
		{
			Code:    fault.FilesystemMissing,
			Exit:    fault.ExitRefused,
			Meaning: "The key is right, as what is stored in the volume shows, or the volume's first 16 MiB are blank; its filesystem is damaged or gone.",
			Cause:   "Nothing is ever formatted because of this.",
			Hint:    "nothing was formatted: the filesystem may still be repaired. Run `imxcrypt unlock --for-repair NAME`, then the checker on /dev/mapper/MAPPING, or restore a backup of the data",
			More:    "For squashfs and erofs run `imxcrypt unlock NAME`, and write an image to the mapping.",
		},
		{
			Code:    fault.FilesystemDamaged,
			Exit:    fault.ExitRefused,
			Meaning: "The checker found damage that it does not repair without asking, or the kernel does not mount the filesystem: its journal, a checksum or a structure is damaged.",
			Messages: []string{
				"mount … on …: …: the filesystem is damaged",
			},
			Cause: "The key is right. The filesystem was not mounted.",
			Hint:  "the key is right, and nothing was mounted; run the checker of the filesystem by hand, or restore a backup of the data. `imxcrypt unlock --for-repair NAME` unlocks the volume for the checker (ext4: `e2fsck -f /dev/mapper/MAPPING`, xfs: `xfs_repair /dev/mapper/MAPPING`)",
			More:  "The other checkers are `fsck.f2fs`, `btrfs check` and `fsck.vfat`. If the superblock of ext4 is gone, `e2fsck -b 32768 -B 4096` uses its backup. On volumes of 16 to 128 MiB that imxcrypt made, the backup is in the middle of the original size: half the number of 4096-byte blocks, rounded up to a multiple of 8 (62 MiB: `-b 7936`). Then run `imxcrypt unlock --mount NAME`.",
		},
		{
			Code:    fault.FilesystemUnclean,
			Exit:    fault.ExitRefused,
			Meaning: "A filesystem that is to be encrypted in place was not unmounted cleanly, or has recorded errors.",
			Cause:   "It is mounted where imxcrypt cannot see it, power was cut while it was mounted, or it is damaged.",
			Hint:    "nothing was changed: mount the filesystem once and unmount it, or run its checker (for ext4: `e2fsck -f DEVICE`), then run the command again",
			More:    "Without `-f`, `e2fsck` does not check a filesystem that is marked clean.",
		},
		{
			Code:    fault.FilesystemWrong,
			Exit:    fault.ExitRefused,
			Meaning: "Someone with the key made a different filesystem from the one that the configuration names, or wrote an image that was made for smaller sectors; or the device that is to be encrypted in place holds something else.",
			Messages: []string{
				"the … filesystem was made for blocks of … bytes, and the volume has sectors of …",
			},
			Hint: "correct `filesystem` in the configuration, write an image that fits into the volume, or restore a backup of the data",
			More: "Make an image for the volume's sectors (`mkfs.ext4 -b 4096`).",
		},
		{
			Code:    fault.PlaintextRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The filesystem in plain text on the device is not encrypted, because the volume was made before; or, with `on_plaintext: encrypt`, because imxcrypt could not record that it was made.",
			Messages: []string{
				`… holds a filesystem in plain text, which is encrypted only the first time: volume "…" was made before, as … says`,
				"… holds a filesystem in plain text, which is encrypted only if that can be recorded: state_dir … …",
			},
			Cause: "Either there was a volume, and someone has replaced it with a filesystem in plain text; or `state_dir` cannot keep the record that the volume was made.",
			Hint:  "nothing was changed or mounted: if the volume was there before, find out who put the plain text there, and restore the volume's header from a backup (`imxcrypt header restore`). If you trust what is there, and nothing is left of the volume, encrypt it by hand (`imxcrypt encrypt --force NAME`)",
			More:  "If a filesystem was made over the volume by mistake, a backup of its header opens what is left: `imxcrypt header restore --force NAME FILE`. If `state_dir` is read-only or in memory, set it to a directory on storage that is writable at boot, outside the volume. See [encrypt.md](encrypt.md#without-a-person).",
		},
		{
			Code:    fault.NotProvisioned,
			Exit:    fault.ExitRefused,
			Meaning: "There is no volume yet, or this is not its device.",
			Hint:    "`imxcrypt provision NAME` makes the volume; `imxcrypt encrypt NAME` makes it from a filesystem in plain text, with its files. If the volume should exist already, check `device` and `header` in the configuration, or restore its header from a backup (`imxcrypt header restore`)",
		},
		{
			Code:    fault.VolumeGone,
			Exit:    fault.ExitRefused,
			Meaning: "The board remembers that the volume was made here, but the device is empty now.",
			Messages: []string{
				"volume … (uuid …) was made on … on …, and … is empty now: it is another disk, or all of it was discarded",
			},
			Cause: "The disk was replaced, the configuration means another disk, or the whole disk was discarded or erased (`blkdiscard`, `mmc erase`, a factory reset).",
			Hint:  "this board made the volume, and nothing of it is left on the device: check that it is the right disk (`device` in the configuration, `lsblk`, dmesg); if it is, only a backup of the data helps. `imxcrypt provision NAME` then makes a new, empty volume",
			More:  "Look for the right disk before you write anything to this one. A backup of the header opens nothing on a device that was discarded.",
		},
		{
			Code:    fault.FileExists,
			Exit:    fault.ExitRefused,
			Meaning: "A file of this name exists already, and nothing is ever overwritten.",
			Messages: []string{
				"… exists already",
			},
			Hint: "nothing is ever overwritten: choose another name, or move the file away",
			More: "If `provision` finds an image whose size differs from `size`, write the size that the image has, or leave `size` out.",
		},
		{
			Code:    fault.MountPointMissing,
			Exit:    fault.ExitRefused,
			Meaning: "The directory of `mount.path` does not exist.",
			Messages: []string{
				"/data: …",
			},
			Hint: "make the directory (mkdir -p), or correct mount.path",
			More: "If the root filesystem is read-only, make it in the image.",
		},
		{
			Code:    fault.MountPointOccupied,
			Exit:    fault.ExitRefused,
			Meaning: "Something else is mounted on `mount.path`.",
			Messages: []string{
				"/data: …",
			},
			Hint: "unmount what is there, or correct mount.path",
		},
		{
			Code:    fault.RollbackRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The backup of the header is older than what is on the device: the volume has had a new key since, or is half-way through a rotation.",
			Messages: []string{
				"the backup has the key of generation …, what is on … shows generation …",
				"a rotation to generation … has moved … of … bytes: the data is under two keys, and a header of generation … does not know where",
				"… is being rotated: its data is under two keys, and only its own header says where",
				"what is left of the header on … shows a rotation, and no record says how far it has come",
				"nothing of the header on … is left to show whether a rotation has begun since the backup was made, and the room that it moves data into, at byte …, is not empty",
				"the data is not under the older key in the backup: …",
				"… says that a decryption of the volume has begun: a part of the data may be in plain text, and only the volume's own header says which",
				"what is at byte … of … is in plain text, and nothing of the header is left to show whether the volume was being decrypted; --force restores the backup if that is left from before the volume was made",
				"at byte … of …, where a decryption keeps the filesystem's beginning, is that of … in plain text: a part of the data may be decrypted, and only the volume's own header says which",
			},
			Cause: "Nothing was changed. The records of a rotation, and what can be read in damaged copies, count too: what is there can still save the data.",
			Hint:  "nothing was changed: if the header that is there is damaged, `imxcrypt header repair` repairs it; a newer backup is accepted. An older header has an older key: --force restores it only if the filesystem proves that the data is under that key",
			More:  "A rotation continues after the repair. `--force` never restores a header from before a rotation that has moved data, or may have: that is assumed if the room that a rotation moves data into holds something that looks encrypted. If you know that no rotation has begun, save that block (`dd if=DEVICE of=block.bin bs=4096 count=1 iflag=skip_bytes skip=BYTE`, BYTE as in the message), and only then overwrite it with zeros; if the files are not right afterwards, write nothing, and put the block back. The same holds for a decryption that has begun, by the record of the volume in `state_dir`: if you know that it never moved any data, move that file away. And for the block that the message calls the beginning of a filesystem: if you know that no decryption has begun, save it and overwrite it in the same way.",
		},
		{
			Code:    fault.VolumeReplaced,
			Exit:    fault.ExitRefused,
			Meaning: "The backup is of a volume that another volume of the same name has replaced, by `provision --wipe` or by `provision` on an empty device.",
			Messages: []string{
				"on … is another volume …, with uuid …, made on …: it has replaced the one that the backup is for, with uuid …, and overwritten its data, or this is not that one's device",
			},
			Cause: "Making a volume overwrites the first 8 MiB and the last MiB of a device, and writes a filesystem. The header that is there belongs to what is there now.",
			Hint:  "nothing was changed: the volume that is there now has its own header, and needs a backup of that one",
			More:  "Restore what the old volume held from a backup of the data.",
		},
		{
			Code:    fault.HeaderRolledBack,
			Exit:    fault.ExitRefused,
			Meaning: "An old image of the header was written over the new one, or the header was changed.",
			Cause: "If the message says \"provisioning was interrupted\", `provision` would continue and make a filesystem over the data. " +
				"If it says \"a rotation has moved data\", the header is from before a rotation: its key opens nothing that was moved, and the volume is not mounted as noise. " +
				"If it says \"the volume is being decrypted\", the record in `state_dir` does not name that decryption: see [the way back](encrypt.md#the-way-back). " +
				"If it says \"the record of the rotation\", the file of a detached header is as it was earlier in this rotation or encryption, and continuing from there would encrypt data twice: put the latest file back. " +
				"If it says \"a copy from before it\", the header that a decryption has replaced was put back: put the latest one back.",
			Hint: "nothing was formatted or mounted: restore the right header with `imxcrypt header restore`. If the data is not needed any more: `imxcrypt erase NAME`",
			More: "With the right header the volume opens again.",
		},
		{
			Code:    fault.AdoptMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt adopt` did not find the filesystem where the blob, cipher, sector size and offset say it must be.",
			Messages: []string{
				"with cipher … and sector size … no valid filesystem was found on … from byte …; it fits with …: … filesystem, label …, uuid …",
				"with cipher … and sector size … no valid filesystem was found on … from byte …, nor with the other ciphers of source … and sectors of 512 to 4096 bytes: …",
				"iv_large_sectors: a LUKS2 header cannot say that the sectors are numbered that way, …",
				"… is larger than 2 TiB: beyond that plain and plain64 differ, and the start of the filesystem does not show which is in use; …",
			},
			Cause: "Nothing was written.\n\nBeyond 2 TiB, `-plain` and `-plain64` encrypt differently. What adopt looks at, the superblock and the first MiB, reads the same with both, " +
				"so on a larger device it does not choose: give the cipher with `--cipher` or `--table`. A volume made with `-plain` but given as `-plain64` would read as noise beyond 2 TiB.",
			Hint: "nothing was written; take blob, cipher, sector size and offset from the script that opens the volume today, or from `dmsetup table` while it is open",
			More: "If the message names what fits, give that, and set it in the configuration. With `iv_large_sectors`, copy the data into a new volume.",
		},
		{
			Code:    fault.NoVolume,
			Exit:    fault.ExitRefused,
			Meaning: "What `imxcrypt recover` was given is not the disk of a volume, nor an image of it.",
			Messages: []string{
				"… holds no volume",
				"… holds a filesystem in plain text, not a volume",
				"… has … bytes, too few for a volume",
			},
			Cause: "It is another disk, the whole disk instead of the volume's partition, or a volume whose header is in a file of its own.",
			Hint:  "nothing was changed: name the partition of the volume, or an image of it. A detached header is given with --header FILE",
		},
		{
			Code:    fault.RecoveryMissing,
			Exit:    fault.ExitRefused,
			Meaning: "There is no recovery copy of the key in the header.",
			Messages: []string{
				"the volume \"…\" has no recovery copy that opens with a passphrase",
				"the recovery copy of the volume \"…\" opens with a passphrase only",
			},
			Cause: "A recovery copy is made together with its key, by `provision` or `rotate` with `--recipient` or `--recovery-passphrase`: afterwards only the chip has the key. A copy for recipients opens with `--identity`, a copy for a passphrase with `--passphrase`.",
			Hint:  "a recovery copy is made together with its key, so if no board opens the volume any more, only a backup of the data helps. If a board does, `imxcrypt rotate --recipient age1… NAME` (or --recovery-passphrase) makes a new key with a copy",
			More:  "The volume may be in use meanwhile.",
		},
		{
			Code:    fault.RecoveryLost,
			Exit:    fault.ExitRefused,
			Meaning: "The volume has a recovery copy of its key, and the rotation would end without one.",
			Messages: []string{
				"rotate …: the volume has a recovery copy of its key, and a key of source … can have none",
			},
			Cause: "The kernel makes trusted keys itself and accepts none from outside, so nothing can be sealed to the recipients. After the rotation only this chip would open the volume.",
			Hint:  "nothing was changed: keep source caam, or back up the data and give --no-recovery. After the rotation the recovery copy of the old key opens nothing",
			More:  "A backup of the data is then the only way to another board.",
		},
		{
			Code:    fault.SectorsRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The rotation would give the volume larger sectors than its filesystem can use.",
			Messages: []string{
				"rotate …: sector_size …: the … filesystem writes in pieces of … bytes, and could no longer be used; it would have to be made again",
				"rotate …: sector_size …: the volume is of filesystem: …, so nothing shows in what pieces it is written; its sectors can only become smaller",
			},
			Cause: "dm-crypt fails a request that is smaller than its sector with an I/O error. By itself `mkfs.ext4` chooses blocks of 1 KiB on small devices.",
			Hint:  "nothing was changed: set sector_size back to the value that the volume has (`imxcrypt status`), and the rotation only makes a new key. For larger sectors, make the volume again and restore the data from a backup",
		},
		{
			Code:    fault.FingerprintWrong,
			Exit:    fault.ExitRefused,
			Meaning: "The recovery copy in the header is not the one that was noted when the volume was made.",
			Messages: []string{
				"the recovery copy in the header is not the one with the fingerprint …",
			},
			Cause: "The fingerprint was mistyped; a rotation has made another copy since; the header is from another time or another volume; or someone who can write to the storage sealed their own key to the recipient, so that this board would use it.",
			Hint:  "nothing was opened or changed: compare the fingerprint that you gave with recovery_fingerprint in the record of the factory, or of the last rotation. If they are the same, someone changed the storage (docs/security.md)",
			More:  "`provision --json` and `rotate --json` print it as `recovery_fingerprint`. `imxcrypt header check` prints the fingerprint in a header backup, `imxcrypt status --json` the one in the current header, which does not prove who made it. See [security.md](security.md#what-a-reseal-trusts).",
		},
		{
			Code:    fault.BenchRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt bench --device` overwrites the device, and this one is in use, not empty, or too small.",
			Messages: []string{
				"bench: --device: … is not empty: data at byte …",
				"bench: --device: open …: in use: …",
			},
			Cause: "Nothing was written.",
			Hint:  "bench overwrites its device, so it takes only one that is empty and not in use: name another one, or leave --device out to use a RAM disk",
		},
		{
			Code:    fault.ResizeRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The volume cannot have the size that was asked for, or its filesystem cannot grow.",
			Messages: []string{
				"… bytes are less than the … bytes that the volume has: a volume never shrinks, since its filesystem would lose what lies at its end",
				"… bytes are more than the device has room for, which is …",
				"a vfat filesystem does not grow: back up the data and provision the volume again",
				"a f2fs filesystem grows only while it is not mounted, by a program (resize.f2fs) that a power cut may leave half done: back up the data and provision the volume again",
			},
			Cause: "Nothing was written. The room is the device's size as the kernel sees it, without the header and the gap that the next rotation needs.",
			Hint:  "nothing was changed: a volume only grows, to the space that its device has. For a smaller volume, back up the data, then erase the volume and provision it again",
			More:  "Grow the partition first, and make the kernel see it (`partx -u`). See [resize.md](resize.md).",
		},
		{
			Code:    fault.ShrinkRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The filesystem leaves no room for a header on the device, and `imxcrypt encrypt` does not make it smaller.",
			Messages: []string{
				"the ext4 filesystem on … has … bytes in use, and a header on the device needs it to have … at most: delete files, …",
				"… it has features that shrinking was not tried with (compat …, incompat …, ro_compat …)",
				"… is in memory, which is lost in a power cut: name a folder on other storage (--workspace)",
				"make the ext4 filesystem on … smaller: …",
			},
			Cause: "The device was not written to. Too much is in use; the filesystem has features that shrinking was not tested with; `state_dir`, or the folder of `--workspace`, is not a safe place for the log; or resize2fs, which works on a copy of the metadata, refuses.",
			Hint:  "nothing was changed: put the header into a file (`header: /path/of/a/file`), which needs no room, or make the partition larger",
			More:  "Deleting files may help, or another folder with `--workspace`. See [encrypt.md](encrypt.md#when-the-filesystem-leaves-no-room).",
		},
		{
			Code:    fault.DecryptRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt decrypt` finds no room on the device for the bytes that belong where the header is.",
			Messages: []string{
				"the header is where the first … bytes of plain text belong, which need as much room after the data, plus a sector; there are … bytes: …",
				"… cannot be written, but must record the decryption: a decryption without a record is not continued",
			},
			Cause: "The header stays until all data is in plain text, and until then the filesystem's first bytes are kept behind the data. A volume that `imxcrypt encrypt` made has room for them. A volume that `imxcrypt provision` made has it after a rotation, which moves the data into the gap in front of it, so that the gap is then behind the data. Or the record in `state_dir` is read-only.",
			Hint:  "nothing was changed: if the room is missing, `imxcrypt rotate NAME` makes it by moving the data into the gap; then decrypt. A volume whose gap is smaller than its header area can only be copied: back up its files",
			More:  "The message says whether a rotation helps. The gap is smaller than the header area with `gap: 0`, and on a device of less than 64 MiB. See [encrypt.md](encrypt.md#the-way-back).",
		},
		{
			Code:    fault.RenameRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt rename OLD NEW` finds OLD in the configuration, or a header that no name is bound to.",
			Messages: []string{
				"the configuration still has the volume \"…\" in addition to the volume \"…\"",
				"the configuration still has the volume \"…\", and no volume \"…\"",
				"the detached header has no check that binds its key to a name: `imxcrypt provision` adds it, under the old name",
			},
			Cause: "Nothing was written. The configuration is authoritative: the volume gets the name that is there.",
			Hint:  "nothing was changed: lock the volume, change its name in the configuration from OLD to NEW, then run `imxcrypt rename OLD NEW`",
			More:  "A detached header of an earlier version gets its check from `imxcrypt provision OLD` first. See [rename.md](rename.md).",
		},
		{
			Code:    fault.SleepRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt sleep` could not restore a key after the sleep, or the sleep would expose it; or `provision` or `unlock` would use a throw-away key on the device that the kernel resumes a suspend-to-disk from.",
			Cause:   "The system is awake, and nothing was changed.",
			Hint:    "the system is awake and nothing was changed; docs/suspend.md lists what can stay unlocked in suspend-to-RAM, and what to lock before it",
			More:    "Close the mapping that is named, or take it over with `imxcrypt adopt`; lock a volume with `key: ephemeral`; use the engine ioctl; run `systemctl mask hibernate.target`. With `provision` or `unlock`, remove `resume=` from the kernel's command line, or give the volume another device. See [scratch.md](scratch.md).",
		},
		{
			Code:    fault.FileUnsafe,
			Exit:    fault.ExitRefused,
			Meaning: "A file that decides about keys is not a regular file that belongs to root.",
			Messages: []string{
				"…: is a symbolic link",
				"…: not a regular file",
				"…: permissions too wide",
			},
			Hint: "the file must be a regular file that belongs to root and that no one else can write to",
			More: "Run `chown root` and `chmod 600` on it. `decrypt` and `header restore` would remove or replace only a link: name the header's file itself in `header`.",
		},
	}
}
