// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// refused has the faults where going on might lose data or protection.
func refused() []Entry {
	return []Entry{
		{
			Code:    fault.NotEmpty,
			Meaning: "Only an empty device is provisioned, and this one is not empty.",
			Messages: []string{
				"/dev/… is not empty: data at byte …",
				"/dev/mapper/… is not empty: data at byte …; it lies in an encrypted volume, where what was never written reads as noise: …",
			},
			Cause: "Empty means: the first and last MiB and blocks sampled over the whole are all 0x00 or all 0xFF. That no known signature is found means nothing: an encrypted volume shows none.",
			Remedy: "Check that this is the device you mean (`blkid -p`, `lsblk -f`). If there was a volume, its header is lost and its data may be whole: `imxcrypt header restore NAME FILE`. If nothing on it is needed any more: `imxcrypt provision --wipe NAME`. " +
				"In a new volume with `filesystem: none`, in which another one is to lie, fill it with zeros first: `blkdiscard -z /dev/mapper/OUTER`.",
		},
		{
			Code:    fault.ForeignHeader,
			Meaning: "The device holds a header that is not imxcrypt's: it may be somebody's data.",
			Messages: []string{
				"/dev/… holds a LUKS2 volume that is not ours: …",
			},
			Remedy: "Check that this is the device you mean (`blkid -p`, `lsblk -f`). If there was a volume, its header is lost and its data may be whole: `imxcrypt header restore --force NAME FILE`. If nothing on it is needed any more: `imxcrypt provision --wipe NAME`.",
		},
		{
			Code:    fault.PlaintextFound,
			Meaning: "There is an unencrypted filesystem where the volume should be.",
			Messages: []string{
				"/dev/… holds an unencrypted … where an encrypted volume is expected",
			},
			Cause:  "Somebody put it there, or it was never encrypted. It is not mounted and nothing is copied from it.",
			Remedy: "Check `device` in the configuration. If the message says that a volume was made here, or if there was one, somebody has made the filesystem over it: save what is needed from the filesystem, and restore the header from a backup (`imxcrypt header restore --force NAME FILE`). Where there never was a volume, and the filesystem is to become it: `imxcrypt encrypt NAME` encrypts it in place, see [encrypt.md](encrypt.md). If nothing on it is needed any more: `imxcrypt provision --wipe NAME`.",
		},
		{
			Code:    fault.HeaderMismatch,
			Meaning: "Header and configuration disagree, and the configuration is authoritative.",
			Messages: []string{
				`the header is not the one the configuration describes: … is "…" in the header and "…" in the configuration`,
				`the volume on … has the name "…", neither "…" nor "…"`,
			},
			Cause:  "Either the configuration was changed, or this is not the volume it means, or somebody changed the header.",
			Remedy: "Correct the configuration if it is wrong. Another `cipher`, `sector_size`, `wrap` or `key_size` becomes the volume's by `imxcrypt rotate`, see [rotation.md](rotation.md). After you changed the volume's name in the configuration, `imxcrypt rename OLD NEW` gives it to the volume, see [rename.md](rename.md).",
		},
		{
			Code:    fault.MappingMismatch,
			Meaning: "There is a mapping of the volume's name, and it is not the one that is wanted.",
			Messages: []string{
				"mapping … exists and is not this volume: …",
				"mapping … is live with another table: …",
			},
			Remedy: "Look at it: `dmsetup table NAME; dmsetup info NAME`. The volume's own, with another table: `imxcrypt lock NAME`. Somebody else's: `dmsetup remove NAME`, when nobody needs it any more, or `mapping_prefix` in the configuration, which gives all of ours other names.",
		},
		{
			Code:    fault.OpenStateRefused,
			Meaning: "The chip is open, and keys made on an open chip are neither protected nor lasting.",
			Messages: []string{
				"the volume was made while the chip was open: …",
			},
			Cause:  "See [security.md](security.md).",
			Remedy: "Close the chip, then provision. In a laboratory: `allow_open_state: true`.",
		},
		{
			Code:    fault.SecurityStateUnknown,
			Meaning: "`--require-closed` was given, and neither the fuses nor the kernel log say in which state the chip is.",
			Cause:   "There is no permission to read them, a fuse is locked, or it is a SoC whose life cycle Linux cannot read.",
			Remedy:  "Run it as root. `imxcrypt doctor` shows what was looked at. On i.MX8QM, 8QXP, 8DXL and 8ULP check the life cycle in U-Boot (`ahab_status`) and provision without `--require-closed`.",
		},
		{
			Code:    fault.InsecureRefused,
			Meaning: "Volumes of source `dev` are for trying imxcrypt out, and must be allowed.",
			Remedy:  "`--allow-insecure`, or `allow_insecure: true`; on a product `source: caam`.",
		},
		{
			Code:    fault.FilesystemMissing,
			Meaning: "The key is right, by what is stored in the volume, or nothing is stored in its first 16 MiB; its filesystem is damaged or gone.",
			Cause:   "Nothing is ever formatted because of that.",
			Remedy:  "`imxcrypt unlock --for-repair NAME`, then fsck on `/dev/mapper/NAME`, or restore a backup of the data. For squashfs and erofs: `imxcrypt unlock NAME`, and write an image to `/dev/mapper/NAME`.",
		},
		{
			Code:    fault.FilesystemDamaged,
			Meaning: "The checker found what it does not repair without questions, or the kernel does not mount the filesystem: its journal, a checksum or a structure is damaged.",
			Messages: []string{
				"mount … on …: …: the filesystem is damaged",
			},
			Cause: "The key is right. The filesystem was not mounted.",
			Remedy: "`imxcrypt unlock --for-repair NAME`, then run the checker on `/dev/mapper/NAME` by hand: `e2fsck -f`, `xfs_repair`, `fsck.f2fs`, `btrfs check` or `fsck.vfat`. " +
				"Where the superblock of ext4 is gone, `e2fsck -b 32768 -B 4096` takes its backup; on volumes of 16 to 128 MiB that imxcrypt made, the backup is in the middle of the size they were made with: half the number of 4096-byte blocks, rounded up to a multiple of 8 (62 MiB: `-b 7936`). Then `imxcrypt unlock --mount NAME`; or restore a backup of the data.",
		},
		{
			Code:    fault.FilesystemUnclean,
			Meaning: "A filesystem that is to be encrypted in place was not unmounted in order, or has recorded errors.",
			Cause:   "It is mounted by somebody who cannot be seen from here, the power was cut under it, or it is damaged.",
			Remedy:  "Mount it once and unmount it, or run its checker on the device (ext4: `e2fsck -f DEVICE`; without `-f` it looks no further where the filesystem is marked clean), then `imxcrypt encrypt NAME`.",
		},
		{
			Code:    fault.FilesystemWrong,
			Meaning: "Somebody with the key made another filesystem than the configuration names, or wrote an image that was made for smaller sectors; or the device that is to be encrypted in place holds something else.",
			Messages: []string{
				"the … filesystem was made for blocks of … bytes, and the volume has sectors of …",
			},
			Remedy: "Correct `filesystem` in the configuration, or restore a backup of the data. An image for a volume is made for its sectors (`mkfs.ext4 -b 4096`).",
		},
		{
			Code:    fault.PlaintextRefused,
			Meaning: "The filesystem in plain text on the device is not encrypted: the volume was made before; or, with `on_plaintext: encrypt`, that it was made could not be remembered.",
			Messages: []string{
				`… holds a filesystem in plain text, and that is encrypted the first time only: volume "…" was made before, as … says`,
				"… holds a filesystem in plain text, and is encrypted only where that is remembered: state_dir … …",
			},
			Cause:  "Either there was a volume, so that somebody has replaced it by a filesystem in plain text; or `state_dir` cannot keep the record that says so from then on.",
			Remedy: "Do not trust what is on the device. If a filesystem was made over the volume by mistake, a backup of its header opens what is left: `imxcrypt header restore --force NAME FILE`. If what is there is right, as on a disk that was replaced: `imxcrypt encrypt --force NAME`. If `state_dir` is read-only or in memory, let it name a directory on storage that is written at boot, outside of the volume. See [encrypt.md](encrypt.md#without-a-person).",
		},
		{
			Code:    fault.NotProvisioned,
			Meaning: "There is no volume yet, or this is not its device.",
			Remedy:  "If it should exist, check `device` and `header`; else `imxcrypt provision NAME`.",
		},
		{
			Code:    fault.VolumeGone,
			Meaning: "The board remembers that the volume was made here, and the device is empty now.",
			Messages: []string{
				"volume … (uuid …) was made on … on …, and … is empty now: it is another disk, or all of it was discarded",
			},
			Cause:  "The disk was exchanged, the configuration means another one, or somebody discarded or erased all of it (`blkdiscard`, `mmc erase`, a factory reset).",
			Remedy: "Look for the right disk before anything is written to this one. If all was discarded, what was on it can only come from a backup: a backup of the header opens nothing there. `imxcrypt provision NAME` makes a new volume.",
		},
		{
			Code:    fault.FileExists,
			Meaning: "There is a file of this name already, and nothing is ever overwritten.",
			Messages: []string{
				"… exists already",
			},
			Remedy: "Choose another name, or move the file away. Where `provision` finds the image of a volume with another size than `size` says: write the size that it has, or leave `size` out.",
		},
		{
			Code:    fault.MountPointMissing,
			Meaning: "The directory of `mount.path` does not exist.",
			Messages: []string{
				"/data: …",
			},
			Remedy: "`mkdir -p`, in the image if the root is read-only.",
		},
		{
			Code:    fault.MountPointOccupied,
			Meaning: "Something else is mounted on `mount.path`.",
			Messages: []string{
				"/data: …",
			},
			Remedy: "Unmount it, or change `mount.path`.",
		},
		{
			Code:    fault.RollbackRefused,
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
			Remedy: "A header that is there and damaged: `imxcrypt header repair NAME`, after which a rotation continues. Else take a newer backup. " +
				"`--force` restores an older one where the filesystem proves that the data is under its key; never one that a rotation has outrun, or may have: " +
				"where something that looks encrypted is in the room that it moves data into. If you know that no rotation has begun, keep that block (`dd if=DEVICE of=block.bin bs=4096 count=1 iflag=skip_bytes skip=BYTE`, BYTE as in the message), and only then overwrite it with zeros; if the files are not right afterwards, write nothing, and put the block back.",
		},
		{
			Code:    fault.VolumeReplaced,
			Meaning: "The backup is of a volume that another one of the same name has replaced: `provision --wipe`, or `provision` on an empty device.",
			Messages: []string{
				"on … is another volume …, with uuid …, made on …: it has replaced the one that the backup is for, with uuid …, and overwritten its data, or this is not that one's device",
			},
			Cause:  "Making a volume overwrites the first 8 MiB and the last MiB of a device, and writes a filesystem. The header that is there belongs to what is there now.",
			Remedy: "Restore a backup of the header that is there now. What the old volume held comes from a backup of the data.",
		},
		{
			Code:    fault.HeaderRolledBack,
			Meaning: "Somebody wrote an old image of the header over the new one, or changed it.",
			Cause: "With \"provisioning was interrupted\" `provision` would continue and make a filesystem, over data. " +
				"With \"a rotation has moved data\" it is a header of before a rotation: its key opens nothing that has moved, and the volume is not mounted as noise.",
			Remedy: "`imxcrypt header restore NAME FILE` with a backup of the volume's header; then it opens again. If the data is not needed: `imxcrypt erase NAME`.",
		},
		{
			Code:    fault.AdoptMismatch,
			Meaning: "`imxcrypt adopt` did not find the filesystem where blob, cipher, sector size and offset say it must be.",
			Messages: []string{
				"with cipher … and sector size … no sound filesystem is seen on … from byte …; it fits with …: … filesystem, label …, uuid …",
				"with cipher … and sector size … no sound filesystem is seen on … from byte …, nor with the other ciphers of source … and sectors of 512 to 4096 bytes: …",
				"iv_large_sectors: a LUKS2 header cannot say that the sectors are numbered that way, …",
				"… is larger than 2 TiB: there plain and plain64 differ, which the filesystem's beginning does not show; …",
			},
			Cause: "Nothing was written.\n\nOn more than 2 TiB, `-plain` and `-plain64` encrypt what lies beyond differently. What adopt looks at, the superblock and the first MiB, reads the same with both, " +
				"so it does not choose: the cipher must be given with `--cipher` or `--table`. A volume with `-plain` given as `-plain64` would read as noise beyond 2 TiB.",
			Remedy: "Where the message names what fits, give that, and set it in the configuration. Otherwise take the parameters from the script that opens the volume today, or from `dmsetup table` while it is open. With `iv_large_sectors`, copy the data into a new volume.",
		},
		{
			Code:    fault.RecoveryMissing,
			Meaning: "There is no recovery copy of the key in the header.",
			Messages: []string{
				"the volume \"…\" has no recovery copy that opens with a passphrase",
				"the recovery copy of the volume \"…\" opens with a passphrase only",
			},
			Cause:  "A recovery copy is made with a key, by `provision` or `rotate` with `--recipient` or `--recovery-passphrase`: later the key is in the chip alone. A copy for recipients opens with `--identity`, one for a passphrase with `--passphrase`.",
			Remedy: "On the board that opens the volume: `imxcrypt rotate --recipient age1… NAME` makes another key, with a recovery copy, also while the volume is in use. Where no board opens it, only a backup of the data helps.",
		},
		{
			Code:    fault.RecoveryLost,
			Meaning: "The volume has a recovery copy of its key, and the rotation would end without one.",
			Messages: []string{
				"rotate …: the volume has a recovery copy of its key, and a key of source … can have none",
			},
			Cause:  "The kernel makes trusted keys itself and takes none that is given, so nothing can be sealed to the recipients. Afterwards only this chip opens the volume.",
			Remedy: "Keep `source: caam`, or back up the data and give `--no-recovery`. A backup of the data is the only way to another board then.",
		},
		{
			Code:    fault.SectorsRefused,
			Meaning: "A rotation was to give the volume larger sectors than the filesystem in it can use.",
			Messages: []string{
				"rotate …: sector_size …: the … filesystem writes in pieces of … bytes, and could no longer be used; it would have to be made again",
				"rotate …: sector_size …: the volume is of filesystem: …, so nothing shows in what pieces it is written; its sectors can only become smaller",
			},
			Cause:  "dm-crypt answers a request that is smaller than its sector with an I/O error. `mkfs.ext4` alone chooses blocks of 1 KiB on small devices.",
			Remedy: "Write the `sector_size` into the configuration that the volume has, and rotate. For larger sectors make the volume again, and restore the data from a backup.",
		},
		{
			Code:    fault.FingerprintWrong,
			Meaning: "The recovery copy in the header is not the one that was noted when the volume was made.",
			Messages: []string{
				"the recovery copy in the header is not the one with the fingerprint …",
			},
			Cause:  "A mistake in typing; a rotation since, which makes another copy; the header of another time or another volume; or somebody who can write the storage sealed a key of his own to the recipient, so that this board would use it.",
			Remedy: "Take the fingerprint from the line that `provision --json`, or the last `rotate --json`, printed (`recovery_fingerprint`). `imxcrypt header check` prints that of a header backup, `imxcrypt status --json` that of the header as it stands, which proves nothing of who made it. See [security.md](security.md#what-a-reseal-trusts).",
		},
		{
			Code:    fault.BenchRefused,
			Meaning: "`imxcrypt bench --device` overwrites the device, and this one is in use, not empty, or too small.",
			Messages: []string{
				"bench: --device: … is not empty: data at byte …",
				"bench: --device: open …: in use: …",
			},
			Cause:  "Nothing was written.",
			Remedy: "Name a device that is empty and that nobody uses, or leave `--device` out: then it works on a RAM disk.",
		},
		{
			Code:    fault.ResizeRefused,
			Meaning: "The volume cannot have the size that was asked for, or its filesystem cannot grow.",
			Messages: []string{
				"… bytes are less than the … bytes that the volume has: a volume never shrinks, since its filesystem would lose what lies at its end",
				"… bytes are more than the device has room for, which is …",
				"a vfat filesystem does not grow: back up the data and provision the volume again",
				"a f2fs filesystem grows only while it is not mounted, by a program (resize.f2fs) that a power cut may leave half done: back up the data and provision the volume again",
			},
			Cause:  "Nothing was written. The room is what the kernel sees of the device, without the header and the gap that the next rotation needs.",
			Remedy: "Grow the partition first, and have the kernel see it (`partx -u`). For a smaller volume, or another filesystem: back up the data, `imxcrypt erase NAME`, provision it again, restore. See [resize.md](resize.md).",
		},
		{
			Code:    fault.ShrinkRefused,
			Meaning: "The filesystem leaves no room for a header on the device, and `imxcrypt encrypt` does not make it smaller.",
			Messages: []string{
				"the ext4 filesystem on … has … bytes in use, and a header on the device needs it to have … at most: delete files, …",
				"… it has features that shrinking was not tried with (compat …, incompat …, ro_compat …)",
				"… is in memory, which the power takes: name a folder on other storage (--workspace)",
				"make the ext4 filesystem on … smaller: …",
			},
			Cause:  "The device was not written to. Too much is in use; the filesystem has features that were not tried; `state_dir`, or the folder of `--workspace`, is no place for a log; or resize2fs, which works on a copy of the metadata, refuses.",
			Remedy: "A header in a file (`header: /path/of/a/file`) needs no room. Else make the partition larger, delete files, or name another folder. See [encrypt.md](encrypt.md#when-the-filesystem-leaves-no-room).",
		},
		{
			Code:    fault.DecryptRefused,
			Meaning: "`imxcrypt decrypt` finds no room on the device for the bytes that belong where the header is.",
			Messages: []string{
				"the header has the place of the first … bytes of plain text, which need as much room behind the data, and a sector; there are … bytes: …",
			},
			Cause:  "The header keeps its place until all data is in plain text, and until then the filesystem's first bytes are kept behind the data. A volume that `imxcrypt encrypt` made has that room. One that `imxcrypt provision` made has it after a rotation, which moves the data into the gap in front of it, so that the gap is behind it.",
			Remedy: "`imxcrypt rotate NAME` where the message says so; then decrypt. Where the gap is smaller than the header area (`gap: 0`, or a device of less than 64 MiB) back up the files, and make the filesystem again. See [encrypt.md](encrypt.md#the-way-back).",
		},
		{
			Code:    fault.RenameRefused,
			Meaning: "`imxcrypt rename OLD NEW` finds OLD in the configuration, or a header that no name is bound to.",
			Messages: []string{
				"the configuration has the volume \"…\" still, and a volume \"…\" beside it",
				"the configuration has the volume \"…\", and none of the name \"…\" yet",
				"the detached header has no check that binds its key to a name: `imxcrypt provision` adds it, under the old name",
			},
			Cause:  "Nothing was written. The configuration is authoritative: the volume is given the name that stands there.",
			Remedy: "Lock the volume, change its name in the configuration, run rename. A detached header of an earlier version gets its check from `imxcrypt provision OLD` first. See [rename.md](rename.md).",
		},
		{
			Code:    fault.SleepRefused,
			Meaning: "`imxcrypt sleep` could not give a key back after the sleep, or the sleep would expose it; or `provision` or `unlock` would put a key that is thrown away under a suspend-to-disk.",
			Cause:   "The system is awake, and nothing was changed.",
			Remedy:  "Close the mapping that is named, or take it over with `imxcrypt adopt`; lock a volume with `key: ephemeral`; use the engine ioctl; `systemctl mask hibernate.target`. From `provision` or `unlock`: remove `resume=` from the kernel's command line, or give the volume another device. See [suspend.md](suspend.md), [scratch.md](scratch.md).",
		},
		{
			Code:    fault.FileUnsafe,
			Meaning: "A file that decides about keys is not a regular file of root's.",
			Messages: []string{
				"…: is a symbolic link",
				"…: not a regular file",
				"…: permissions too wide",
			},
			Remedy: "Put a regular file there; `chown root`, `chmod 600`.",
		},
	}
}
