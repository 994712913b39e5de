// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// interrupted has the faults of a command that was cut short.
func interrupted() []Entry {
	return []Entry{
		{
			Code:    fault.Interrupted,
			Exit:    fault.ExitInterrupted,
			Meaning: "A signal ended the run between two steps.",
			Cause:   "`boot` and `unlock` print no message for a signal that arrives before they had to wait for anything: it kills them like any other program.",
			Hint:    "run the same command again: it continues where it stopped",
		},
		{
			Code:    fault.ProvisioningStarted,
			Exit:    fault.ExitInterrupted,
			Meaning: "Power was cut, or the program was stopped, while the volume was being made.",
			Messages: []string{
				"/dev/…: provisioning was interrupted before the header was complete",
			},
			Hint: "if the volume was never used, `imxcrypt provision NAME` continues where it stopped and finishes it. If it had data, an old header was written back: restore a backup of the header (`imxcrypt header restore`)",
			More: "Do not provision a volume that had data: only ext4 shows that it was used, anything else would be formatted.",
		},
		{
			Code:    fault.EncryptionStarted,
			Exit:    fault.ExitInterrupted,
			Meaning: "Power was cut, or the program was stopped, while `imxcrypt encrypt` was making the key and the header.",
			Cause:   "With the header in a file, the device is still in plain text. With the header on the device, the device is already a volume and must not be mounted as plain text: part of the header may be where the filesystem begins.",
			Hint:    "nothing is encrypted yet, and nothing is lost. `imxcrypt encrypt NAME` continues",
			More:    "So does `unlock` if the header goes onto the device. To give up the encryption with a header in a file, remove the file (`header` in the configuration).",
		},
		{
			Code:    fault.DecryptionEnding,
			Exit:    fault.ExitInterrupted,
			Meaning: "Power was cut, or the program was stopped, at the very end of `imxcrypt decrypt`, while the filesystem's first bytes were replacing the header.",
			Cause:   "All data is in plain text. Some of the first bytes are not in place yet; they are kept near the end of the device. Do not mount the device: part of the header may be where the filesystem begins.",
			Hint:    "all data is in plain text, and nothing is lost; do not mount the device yet. `imxcrypt decrypt NAME` puts the missing first bytes of the filesystem back",
			More:    "It needs no key for this.",
		},
		{
			Code:    fault.ShrinkStarted,
			Exit:    fault.ExitInterrupted,
			Meaning: "Power was cut, or the program was killed, while `imxcrypt encrypt` was making the filesystem smaller.",
			Cause:   "A mark has replaced the superblock, so that a filesystem that is half old and half new cannot be mounted. Everything that is missing is in the log, in `state_dir` or the folder that `--workspace` named.",
			Hint:    "nothing is lost, but there is no filesystem to mount or to check until this is finished. `imxcrypt encrypt NAME` finishes it and encrypts the filesystem, `imxcrypt encrypt --resume-only NAME` only finishes it",
			More:    "The smaller filesystem then stays in plain text. With `on_plaintext: encrypt` the next start finishes it. Keep the log, and do not run a checker on the device: with a backup superblock it would repair what only has to be finished. Only if the log is lost for good, copy the device, then try `e2fsck -b 32768` on the copy. If the data is not needed, overwrite the device's first MiB with zeros.",
		},
		{
			Code:    fault.EraseStarted,
			Exit:    fault.ExitInterrupted,
			Meaning: "Power was cut, or the program was killed, while `imxcrypt erase` was destroying the key.",
			Messages: []string{
				"volume … (uuid …) … on …, and that was interrupted",
			},
			Cause: "Nothing opens the volume any more.",
			Hint:  "nothing opens the volume any more; if the erase was a mistake, `imxcrypt header restore` may still undo it with a backup of the header. `imxcrypt erase NAME` finishes it",
			More:  "The backup helps only while the header is still whole. After the erase `imxcrypt provision NAME` makes a new volume.",
		},
	}
}

// headers has the faults of a header that cannot be used.
func headers() []Entry {
	return []Entry{
		{
			Code:    fault.HeaderDamaged,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "Neither copy of the header can be used.",
			Messages: []string{
				"both copies of the LUKS2 header are damaged: first: …; second: …",
				"the copies do not complete each other: …",
				"no checksum fits, and what both copies of the header say is not proved: …",
			},
			Cause: "Nothing was changed, and nothing will be formatted because of it.",
			Hint:  "nothing was changed: `imxcrypt header repair` repairs the header if its two copies complete each other; otherwise restore a backup of it (`imxcrypt header restore`)",
			More: "The repair proves the keys in the header first. A backup is refused if the device shows a newer key. " +
				"If `encrypt` or `decrypt` was interrupted, and the partition was enlarged before it could continue, give the partition its old size: the bytes that the header lacks are kept at its old end.",
		},
		{
			Code:    fault.HeaderCopyDamaged,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "One of the two copies of the header is damaged, and the other is used.",
			Messages: []string{
				"one copy of the header is damaged: …; the other one is used",
				"the first copy of the LUKS2 header was overwritten by something else, and was left as it is; the second copy is good",
			},
			Cause: "`unlock` repairs a copy that is truncated or has wrong bits once it has proved the key. If the first copy looks as if something else was written over it (`mkswap`, a RAID), it is left as it is, " +
				"and commands that must write the header are refused until you have decided.",
			Hint: "nothing is lost, because the other copy is used: `imxcrypt header repair` rewrites the damaged copy from it, even while the volume is in use",
			More: "It proves the key first, and saves what it overwrites in a file.",
		},
		{
			Code:    fault.HeaderMissing,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "There was a volume here, and its header is gone.",
			Messages: []string{
				"the header is gone: volume … (uuid …) was made on … on …",
				"the header is gone, or this is not the volume's device: what is at byte … of … looks like ciphertext",
			},
			Cause: "The first MiB of the device was overwritten, or the file of a detached header is lost. The first message comes from the record that the board keeps in `state_dir`, the second from what is on the device: " +
				"a volume that `adopt` has not taken over yet, or a foreign volume, looks the same.",
			Hint: "nothing was changed, and the data may be whole: restore a backup of the header (`imxcrypt header restore`), put the file of a detached header back, or take over a volume that was made by hand (`imxcrypt adopt`). Only if none of this is possible, and nothing on the device is needed any more: `imxcrypt provision --wipe NAME`",
			More: "The data behind the header needs nothing but the header. Without a backup nothing opens it.",
		},
		{
			Code:    fault.HeaderInvalid,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "The header's checksum fits, but its content breaks a rule of the format.",
			Messages: []string{
				"LUKS2 header invalid (…): …",
			},
			Cause: "The program that wrote it has a bug, or the header was made by hand.",
			Hint:  "nothing was changed: the header breaks the rule named above. If the device is smaller than the header says (segment-bounds), restore its old size; otherwise restore a backup of the header (`imxcrypt header restore`)",
		},
		{
			Code:    fault.HeaderVersion,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "The header is not a LUKS2 header.",
			Messages: []string{
				"LUKS header of version …, only version 2 is supported",
			},
			Hint: "the header has a newer LUKS version: use a newer imxcrypt",
			More: "If it is not a LUKS header at all, name another device.",
		},
		{
			Code:    fault.HeaderRequirement,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "A newer imxcrypt, or another program, wrote the header.",
			Messages: []string{
				"LUKS2 header has unknown mandatory requirements: …",
			},
			Hint: "the header was written by a newer imxcrypt or cryptsetup: use that one",
		},
		{
			Code:    fault.RotationDamaged,
			Exit:    fault.ExitHeaderDamaged,
			Meaning: "The records of an interrupted rotation cannot be understood.",
			Hint:    "nothing was changed: the storage lost what the rotation had recorded; see dmesg, and copy what can still be read before you do anything else",
			More:    "Make an image of the device before you run anything on the volume, then see [rotation.md](rotation.md).",
		},
	}
}

// others has the faults that end with exit code 1.
func others() []Entry {
	return []Entry{
		{
			Code:    fault.Failed,
			Exit:    fault.ExitFailed,
			Meaning: "The failure has no entry of its own; the message says what failed.",
			Hint:    "run the command again with --log-level debug, and see the kernel log (dmesg)",
		},
		{
			Code:    fault.ProgramFailed,
			Exit:    fault.ExitFailed,
			Meaning: "The program that the message names failed; the message has the end of its output.",
			Messages: []string{
				"mkfs.…: exit status …: …",
			},
			Cause: "A volume that was being provisioned stays unfinished.",
			Hint:  "see the program's own message above",
			More:  "Correct what it complains about, then run the command again.",
		},
		{
			Code:    fault.IOFailed,
			Exit:    fault.ExitFailed,
			Meaning: "The storage reports errors, or reports none but does not hold what was written to it.",
			Messages: []string{
				"read …: input/output error",
				"write …: input/output error",
			},
			Hint: "the storage reports errors: see dmesg, and copy what can still be read",
		},
		{
			Code:    fault.StorageFull,
			Exit:    fault.ExitFailed,
			Meaning: "The filesystem of `state_dir`, or of a detached header, is full.",
			Messages: []string{
				"…: no space left on device",
			},
			Cause: "Nothing was left half written.",
			Hint:  "make room on the filesystem named above, then run the command again",
		},
		{
			Code:    fault.NotMounted,
			Exit:    fault.ExitFailed,
			Meaning: "The volume is unlocked, but not mounted where the configuration says.",
			Messages: []string{
				"unlocked and not mounted on …",
				"mounted on … and not on …",
				"something else is mounted over the volume on …",
			},
			Cause: "Programs find an empty directory where the data should be, and what they write does not reach the volume. The volume was unlocked without `--mount`, its mount unit failed, or it was unmounted.",
			Hint:  "the data is there, but not where programs look for it: `imxcrypt unlock --mount`, or `systemctl start` of its mount unit, mounts it or says why it cannot",
		},
		{
			Code:    fault.MountedReadOnly,
			Exit:    fault.ExitFailed,
			Meaning: "The volume is mounted read-only, but the configuration asks for read-write.",
			Messages: []string{
				"mounted read-only on …, and the configuration asks for read-write",
			},
			Cause: "The kernel makes an ext4 filesystem read-only when it meets an error in it; storage that refuses writes is mounted read-only from the beginning.",
			Hint:  "see dmesg: a filesystem with an error, or on storage that refuses writes, is made read-only. If it is meant to be read-only, write `options: [ro]` under `mount`",
			More:  "After an error run `imxcrypt lock NAME`, `imxcrypt unlock --for-repair NAME`, then the checker.",
		},
		{
			Code:    fault.VolumeNotUp,
			Exit:    fault.ExitFailed,
			Meaning: "A `required` volume is not up (mounted if it has a mount point, otherwise unlocked); nothing else is wrong.",
			Cause:   "`imxcrypt status` fails with this code. So does `imxcrypt provision` if it has to make an image file in a filesystem that is not mounted yet: mount that first.",
			Hint:    "`imxcrypt boot` opens what is provisioned, `imxcrypt provision` makes the rest",
		},
	}
}
