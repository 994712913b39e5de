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
				"/dev/mapper/… is not empty: data at byte …; it lies in an encrypted volume, where what was never written reads as noise: …",
			},
			Cause: "Empty means: the first and last MiB and blocks sampled over the whole are all 0x00 or all 0xFF. That no known signature is found means nothing: an encrypted volume shows none.",
			Hint:  "check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More:  "In a new volume with `filesystem: none`, in which another one is to lie, fill it with zeros first: `blkdiscard -z /dev/mapper/OUTER`.",
		},
		{
			Code:    fault.ForeignHeader,
			Exit:    fault.ExitRefused,
			Meaning: "The device holds a header that is not imxcrypt's: it may be somebody's data.",
			Messages: []string{
				"/dev/… holds a LUKS2 volume that is not ours: …",
			},
			Hint: "it may be somebody's data: check with `blkid -p` and `lsblk -f` that this is the device you mean; if it is a volume whose header is lost, restore a backup of it (`imxcrypt header restore`). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More: "Where nothing else proves the key in the backup, `imxcrypt header restore --force` looks for blocks of the data that it opens.",
		},
		{
			Code:    fault.PlaintextFound,
			Exit:    fault.ExitRefused,
			Meaning: "There is an unencrypted filesystem where the volume should be.",
			Messages: []string{
				"/dev/… holds an unencrypted … where an encrypted volume is expected",
			},
			Cause: "Somebody put it there, or it was never encrypted. It is not mounted and nothing is copied from it.",
			Hint:  "it was neither mounted nor copied: check `device` in the configuration, and save what is needed from it; if it was made over a volume, restore a backup of the header (`imxcrypt header restore --force`). If it is meant to become the volume, with its files: `imxcrypt encrypt NAME`; if nothing on it is needed any more: `imxcrypt provision --wipe NAME`",
			More:  "Where the board remembers a volume here, the message says so. See [encrypt.md](encrypt.md).",
		},
		{
			Code:    fault.HeaderMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "Header and configuration disagree, and the configuration is authoritative.",
			Messages: []string{
				`the header is not the one the configuration describes: … is "…" in the header and "…" in the configuration`,
				`the volume on … has the name "…", neither "…" nor "…"`,
			},
			Cause: "Either the configuration was changed, or this is not the volume it means, or somebody changed the header.",
			Hint:  "the configuration is authoritative: correct it if it is wrong; if it is right, this is not the volume it means",
			More:  "Another `cipher`, `sector_size`, `wrap` or `key_size` becomes the volume's by `imxcrypt rotate`, see [rotation.md](rotation.md). After you changed the volume's name in the configuration, `imxcrypt rename OLD NEW` gives it to the volume, see [rename.md](rename.md).",
		},
		{
			Code:    fault.MappingMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "There is a mapping of the volume's name, and it is not the one that is wanted.",
			Messages: []string{
				"mapping … exists and is not this volume: …",
				"mapping … is live with another table: …",
			},
			Hint: "look at it with `dmsetup table` and `dmsetup info`: if it is not imxcrypt's, and nobody needs it, close it with `dmsetup remove`, or give ours another name with mapping_prefix. The volume's own mapping is closed by `imxcrypt lock NAME`",
		},
		{
			Code:    fault.OpenStateRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The chip is open, and keys made on an open chip are neither protected nor lasting.",
			Messages: []string{
				"the volume was made while the chip was open: …",
			},
			Cause: "See [security.md](security.md).",
			Hint:  "close the chip first, then provision; in a laboratory set allow_open_state: true",
		},
		{
			Code:    fault.SecurityStateUnknown,
			Exit:    fault.ExitRefused,
			Meaning: "`--require-closed` was given, and neither the fuses nor the kernel log say in which state the chip is.",
			Cause:   "There is no permission to read them, a fuse is locked, or it is a SoC whose life cycle Linux cannot read.",
			Hint:    "`imxcrypt doctor` as root shows what was looked at; where Linux cannot read the life cycle (i.MX8QM, 8QXP, 8DXL, 8ULP), check it in U-Boot (ahab_status) and provision without --require-closed",
		},
		{
			Code:    fault.InsecureRefused,
			Exit:    fault.ExitRefused,
			Meaning: "Volumes of source `dev` are for trying imxcrypt out, and must be allowed.",
			Hint:    "to try imxcrypt out give --allow-insecure, or set allow_insecure: true; on a product use source: caam",
		},
		{
			Code:    fault.FilesystemMissing,
			Exit:    fault.ExitRefused,
			Meaning: "The key is right, by what is stored in the volume, or nothing is stored in its first 16 MiB; its filesystem is damaged or gone.",
			Cause:   "Nothing is ever formatted because of that.",
			Hint:    "nothing was formatted: the filesystem may still be repaired. `imxcrypt unlock --for-repair NAME`, then run the checker on /dev/mapper/MAPPING, or restore a backup of the data",
			More:    "For squashfs and erofs: `imxcrypt unlock NAME`, and write an image to the mapping.",
		},
		{
			Code:    fault.FilesystemDamaged,
			Exit:    fault.ExitRefused,
			Meaning: "The checker found what it does not repair without questions, or the kernel does not mount the filesystem: its journal, a checksum or a structure is damaged.",
			Messages: []string{
				"mount … on …: …: the filesystem is damaged",
			},
			Cause: "The key is right. The filesystem was not mounted.",
			Hint:  "the key is right, and nothing was mounted; the checker of the filesystem, run by hand, or a backup of the data helps. `imxcrypt unlock --for-repair NAME` unlocks the volume, then run the checker by hand (ext4: `e2fsck -f /dev/mapper/MAPPING`, xfs: `xfs_repair /dev/mapper/MAPPING`)",
			More:  "The other checkers are `fsck.f2fs`, `btrfs check` and `fsck.vfat`. Where the superblock of ext4 is gone, `e2fsck -b 32768 -B 4096` takes its backup; on volumes of 16 to 128 MiB that imxcrypt made, the backup is in the middle of the size they were made with: half the number of 4096-byte blocks, rounded up to a multiple of 8 (62 MiB: `-b 7936`). Then `imxcrypt unlock --mount NAME`.",
		},
		{
			Code:    fault.FilesystemUnclean,
			Exit:    fault.ExitRefused,
			Meaning: "A filesystem that is to be encrypted in place was not unmounted in order, or has recorded errors.",
			Cause:   "It is mounted by somebody who cannot be seen from here, the power was cut under it, or it is damaged.",
			Hint:    "nothing was changed: mount the filesystem once and unmount it, or run its checker (for ext4: `e2fsck -f DEVICE`), then run the command again",
			More:    "Without `-f`, `e2fsck` looks no further where the filesystem is marked clean.",
		},
		{
			Code:    fault.FilesystemWrong,
			Exit:    fault.ExitRefused,
			Meaning: "Somebody with the key made another filesystem than the configuration names, or wrote an image that was made for smaller sectors; or the device that is to be encrypted in place holds something else.",
			Messages: []string{
				"the … filesystem was made for blocks of … bytes, and the volume has sectors of …",
			},
			Hint: "correct `filesystem` in the configuration, write an image that fits into the volume, or restore a backup of the data",
			More: "An image is made for the volume's sectors (`mkfs.ext4 -b 4096`).",
		},
		{
			Code:    fault.PlaintextRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The filesystem in plain text on the device is not encrypted: the volume was made before; or, with `on_plaintext: encrypt`, that it was made could not be remembered.",
			Messages: []string{
				`… holds a filesystem in plain text, and that is encrypted the first time only: volume "…" was made before, as … says`,
				"… holds a filesystem in plain text, and is encrypted only where that is remembered: state_dir … …",
			},
			Cause: "Either there was a volume, so that somebody has replaced it by a filesystem in plain text; or `state_dir` cannot keep the record that says so from then on.",
			Hint:  "nothing was changed or mounted: if the volume was there before, find out who put the plain text there, and restore its header from a backup (`imxcrypt header restore`). A person can encrypt what is there (`imxcrypt encrypt --force NAME`), where it is to be trusted and nothing is left of the volume",
			More:  "If a filesystem was made over the volume by mistake, a backup of its header opens what is left: `imxcrypt header restore --force NAME FILE`. If `state_dir` is read-only or in memory, let it name a directory on storage that is written at boot, outside of the volume. See [encrypt.md](encrypt.md#without-a-person).",
		},
		{
			Code:    fault.NotProvisioned,
			Exit:    fault.ExitRefused,
			Meaning: "There is no volume yet, or this is not its device.",
			Hint:    "`imxcrypt provision NAME` makes the volume; of a filesystem in plain text, with its files, `imxcrypt encrypt NAME` does. If it should exist already, check `device` and `header` in the configuration, or restore its header from a backup (`imxcrypt header restore`)",
		},
		{
			Code:    fault.VolumeGone,
			Exit:    fault.ExitRefused,
			Meaning: "The board remembers that the volume was made here, and the device is empty now.",
			Messages: []string{
				"volume … (uuid …) was made on … on …, and … is empty now: it is another disk, or all of it was discarded",
			},
			Cause: "The disk was exchanged, the configuration means another one, or somebody discarded or erased all of it (`blkdiscard`, `mmc erase`, a factory reset).",
			Hint:  "this board made the volume, and nothing of it is left on the device: check that it is the right disk (`device` in the configuration, `lsblk`, dmesg); if it is, only a backup of the data helps. `imxcrypt provision NAME` then makes a new, empty volume",
			More:  "Look for the right disk before anything is written to this one. A backup of the header opens nothing on a device that was discarded.",
		},
		{
			Code:    fault.FileExists,
			Exit:    fault.ExitRefused,
			Meaning: "There is a file of this name already, and nothing is ever overwritten.",
			Messages: []string{
				"… exists already",
			},
			Hint: "nothing is ever overwritten: choose another name, or move the file away",
			More: "Where `provision` finds the image of a volume with another size than `size` says: write the size that it has, or leave `size` out.",
		},
		{
			Code:    fault.MountPointMissing,
			Exit:    fault.ExitRefused,
			Meaning: "The directory of `mount.path` does not exist.",
			Messages: []string{
				"/data: …",
			},
			Hint: "make the directory (mkdir -p), or correct mount.path",
			More: "Where the root is read-only, make it in the image.",
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
			Meaning: "The backup of the header is older than what the device knows: the volume has a newer key since, or is half-way through a rotation.",
			Messages: []string{
				"the backup has the key of generation …, what is on … shows generation …",
				"a rotation to generation … has moved … of … bytes: the data is under two keys, and a header of generation … does not know where",
				"… is being rotated: its data is under two keys, and only its own header says where",
				"what is left of the header on … shows a rotation, and no record says how far it has come",
				"nothing of the header on … is left to show whether a rotation has begun since the backup was made, and the room that it moves data into, at byte …, is not empty",
				"the data is not under the older key in the backup: …",
			},
			Cause: "Nothing was changed. Records of a rotation, and what can be read in damaged copies, are asked too: what is there can still save the data.",
			Hint:  "nothing was changed: `imxcrypt header repair` repairs the header that is there, where it is damaged, and a newer backup is accepted. An older header has an older key: --force restores it where the filesystem proves that the data is under it",
			More:  "A rotation continues after the repair. `--force` never restores a header that a rotation has outrun, or may have: where something that looks encrypted is in the room that it moves data into. If you know that no rotation has begun, keep that block (`dd if=DEVICE of=block.bin bs=4096 count=1 iflag=skip_bytes skip=BYTE`, BYTE as in the message), and only then overwrite it with zeros; if the files are not right afterwards, write nothing, and put the block back.",
		},
		{
			Code:    fault.VolumeReplaced,
			Exit:    fault.ExitRefused,
			Meaning: "The backup is of a volume that another one of the same name has replaced: `provision --wipe`, or `provision` on an empty device.",
			Messages: []string{
				"on … is another volume …, with uuid …, made on …: it has replaced the one that the backup is for, with uuid …, and overwritten its data, or this is not that one's device",
			},
			Cause: "Making a volume overwrites the first 8 MiB and the last MiB of a device, and writes a filesystem. The header that is there belongs to what is there now.",
			Hint:  "nothing was changed: the volume that is there now has a header of its own, and a backup of that one restores it",
			More:  "What the old volume held comes from a backup of the data.",
		},
		{
			Code:    fault.HeaderRolledBack,
			Exit:    fault.ExitRefused,
			Meaning: "Somebody wrote an old image of the header over the new one, or changed it.",
			Cause: "With \"provisioning was interrupted\" `provision` would continue and make a filesystem, over data. " +
				"With \"a rotation has moved data\" it is a header of before a rotation: its key opens nothing that has moved, and the volume is not mounted as noise. " +
				"With \"the volume is being decrypted\" the record in `state_dir` does not name that decryption: [whose it is](encrypt.md#the-way-back).",
			Hint: "nothing was formatted or mounted: restore the right header with `imxcrypt header restore`. If the data is not needed any more: `imxcrypt erase NAME`",
			More: "With the right header the volume opens again.",
		},
		{
			Code:    fault.AdoptMismatch,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt adopt` did not find the filesystem where blob, cipher, sector size and offset say it must be.",
			Messages: []string{
				"with cipher … and sector size … no sound filesystem is seen on … from byte …; it fits with …: … filesystem, label …, uuid …",
				"with cipher … and sector size … no sound filesystem is seen on … from byte …, nor with the other ciphers of source … and sectors of 512 to 4096 bytes: …",
				"iv_large_sectors: a LUKS2 header cannot say that the sectors are numbered that way, …",
				"… is larger than 2 TiB: there plain and plain64 differ, which the filesystem's beginning does not show; …",
			},
			Cause: "Nothing was written.\n\nOn more than 2 TiB, `-plain` and `-plain64` encrypt what lies beyond differently. What adopt looks at, the superblock and the first MiB, reads the same with both, " +
				"so it does not choose: the cipher must be given with `--cipher` or `--table`. A volume with `-plain` given as `-plain64` would read as noise beyond 2 TiB.",
			Hint: "nothing was written; take blob, cipher, sector size and offset from the script that opens the volume today, or from `dmsetup table` while it is open",
			More: "Where the message names what fits, give that, and set it in the configuration. With `iv_large_sectors`, copy the data into a new volume.",
		},
		{
			Code:    fault.RecoveryMissing,
			Exit:    fault.ExitRefused,
			Meaning: "There is no recovery copy of the key in the header.",
			Messages: []string{
				"the volume \"…\" has no recovery copy that opens with a passphrase",
				"the recovery copy of the volume \"…\" opens with a passphrase only",
			},
			Cause: "A recovery copy is made with a key, by `provision` or `rotate` with `--recipient` or `--recovery-passphrase`: later the key is in the chip alone. A copy for recipients opens with `--identity`, one for a passphrase with `--passphrase`.",
			Hint:  "a recovery copy is made with a key, so where no board opens the volume any more, only a backup of the data helps. Where one does, `imxcrypt rotate --recipient age1… NAME` (or --recovery-passphrase) makes another key with a copy",
			More:  "The volume may be in use meanwhile.",
		},
		{
			Code:    fault.RecoveryLost,
			Exit:    fault.ExitRefused,
			Meaning: "The volume has a recovery copy of its key, and the rotation would end without one.",
			Messages: []string{
				"rotate …: the volume has a recovery copy of its key, and a key of source … can have none",
			},
			Cause: "The kernel makes trusted keys itself and takes none that is given, so nothing can be sealed to the recipients. Afterwards only this chip opens the volume.",
			Hint:  "nothing was changed: keep source caam, or back up the data and give --no-recovery. The recovery copy of the old key opens nothing afterwards",
			More:  "A backup of the data is the only way to another board then.",
		},
		{
			Code:    fault.SectorsRefused,
			Exit:    fault.ExitRefused,
			Meaning: "A rotation was to give the volume larger sectors than the filesystem in it can use.",
			Messages: []string{
				"rotate …: sector_size …: the … filesystem writes in pieces of … bytes, and could no longer be used; it would have to be made again",
				"rotate …: sector_size …: the volume is of filesystem: …, so nothing shows in what pieces it is written; its sectors can only become smaller",
			},
			Cause: "dm-crypt answers a request that is smaller than its sector with an I/O error. `mkfs.ext4` alone chooses blocks of 1 KiB on small devices.",
			Hint:  "nothing was changed: give sector_size the value back that the volume has (`imxcrypt status`), and the rotation gives it a new key. Larger sectors take a volume that is made again, with the data restored from a backup",
		},
		{
			Code:    fault.FingerprintWrong,
			Exit:    fault.ExitRefused,
			Meaning: "The recovery copy in the header is not the one that was noted when the volume was made.",
			Messages: []string{
				"the recovery copy in the header is not the one with the fingerprint …",
			},
			Cause: "A mistake in typing; a rotation since, which makes another copy; the header of another time or another volume; or somebody who can write the storage sealed a key of his own to the recipient, so that this board would use it.",
			Hint:  "nothing was opened or changed: compare it with recovery_fingerprint in the record of the factory, or of the last rotation. If they are the same, somebody changed the storage (docs/security.md)",
			More:  "`provision --json` and `rotate --json` print it as `recovery_fingerprint`. `imxcrypt header check` prints that of a header backup, `imxcrypt status --json` that of the header as it stands, which proves nothing of who made it. See [security.md](security.md#what-a-reseal-trusts).",
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
			Hint:  "bench overwrites its device, so it takes only one that is empty and that nobody uses: name another one, or leave --device out, then it works on a RAM disk",
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
			Cause: "Nothing was written. The room is what the kernel sees of the device, without the header and the gap that the next rotation needs.",
			Hint:  "nothing was changed: a volume only grows, to the space that its device has. For a smaller one back up the data, then erase the volume and provision it again",
			More:  "Grow the partition first, and have the kernel see it (`partx -u`). See [resize.md](resize.md).",
		},
		{
			Code:    fault.ShrinkRefused,
			Exit:    fault.ExitRefused,
			Meaning: "The filesystem leaves no room for a header on the device, and `imxcrypt encrypt` does not make it smaller.",
			Messages: []string{
				"the ext4 filesystem on … has … bytes in use, and a header on the device needs it to have … at most: delete files, …",
				"… it has features that shrinking was not tried with (compat …, incompat …, ro_compat …)",
				"… is in memory, which the power takes: name a folder on other storage (--workspace)",
				"make the ext4 filesystem on … smaller: …",
			},
			Cause: "The device was not written to. Too much is in use; the filesystem has features that were not tried; `state_dir`, or the folder of `--workspace`, is no place for a log; or resize2fs, which works on a copy of the metadata, refuses.",
			Hint:  "nothing was changed: give the header a file (`header: /path/of/a/file`), which needs no room, or make the partition larger",
			More:  "Deleting files may help, or another folder with `--workspace`. See [encrypt.md](encrypt.md#when-the-filesystem-leaves-no-room).",
		},
		{
			Code:    fault.DecryptRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt decrypt` finds no room on the device for the bytes that belong where the header is.",
			Messages: []string{
				"the header has the place of the first … bytes of plain text, which need as much room behind the data, and a sector; there are … bytes: …",
				"… cannot be written, and has to name the decryption: what it does not name is not continued",
			},
			Cause: "The header keeps its place until all data is in plain text, and until then the filesystem's first bytes are kept behind the data. A volume that `imxcrypt encrypt` made has that room. One that `imxcrypt provision` made has it after a rotation, which moves the data into the gap in front of it, so that the gap is behind it. Or the record in `state_dir` is read-only.",
			Hint:  "nothing was changed: where the room is missing, `imxcrypt rotate NAME` makes it, by moving the data into the gap; then decrypt. A volume that was made with less gap than header area can only be copied: back up its files",
			More:  "The message says whether a rotation helps. The gap is smaller than the header area with `gap: 0`, and on a device of less than 64 MiB. See [encrypt.md](encrypt.md#the-way-back).",
		},
		{
			Code:    fault.RenameRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt rename OLD NEW` finds OLD in the configuration, or a header that no name is bound to.",
			Messages: []string{
				"the configuration has the volume \"…\" still, and a volume \"…\" beside it",
				"the configuration has the volume \"…\", and none of the name \"…\" yet",
				"the detached header has no check that binds its key to a name: `imxcrypt provision` adds it, under the old name",
			},
			Cause: "Nothing was written. The configuration is authoritative: the volume is given the name that stands there.",
			Hint:  "nothing was changed: lock the volume, change its name in the configuration from OLD to NEW, then run `imxcrypt rename OLD NEW`",
			More:  "A detached header of an earlier version gets its check from `imxcrypt provision OLD` first. See [rename.md](rename.md).",
		},
		{
			Code:    fault.SleepRefused,
			Exit:    fault.ExitRefused,
			Meaning: "`imxcrypt sleep` could not give a key back after the sleep, or the sleep would expose it; or `provision` or `unlock` would put a key that is thrown away under a suspend-to-disk.",
			Cause:   "The system is awake, and nothing was changed.",
			Hint:    "the system is awake and nothing was changed; docs/suspend.md lists what can stay unlocked in suspend-to-RAM, and what to lock before it",
			More:    "Close the mapping that is named, or take it over with `imxcrypt adopt`; lock a volume with `key: ephemeral`; use the engine ioctl; `systemctl mask hibernate.target`. From `provision` or `unlock`: remove `resume=` from the kernel's command line, or give the volume another device. See [scratch.md](scratch.md).",
		},
		{
			Code:    fault.FileUnsafe,
			Exit:    fault.ExitRefused,
			Meaning: "A file that decides about keys is not a regular file of root's.",
			Messages: []string{
				"…: is a symbolic link",
				"…: not a regular file",
				"…: permissions too wide",
			},
			Hint: "the file must be a regular file that belongs to root and that nobody else can write",
			More: "`chown root`, `chmod 600`.",
		},
	}
}
