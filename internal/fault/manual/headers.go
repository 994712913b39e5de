// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// interrupted has the faults of a command that was cut short.
func interrupted() []Entry {
	return []Entry{
		{
			Code:    fault.Interrupted,
			Meaning: "A signal ended the run between two steps.",
			Cause:   "`boot` has no message for a signal that comes before it had to wait for anything: it ends as any program does that is killed.",
			Remedy:  "Run the same command again.",
		},
		{
			Code:    fault.ProvisioningStarted,
			Meaning: "The power went, or the program was stopped, while the volume was made.",
			Messages: []string{
				"/dev/…: provisioning was interrupted before the header was complete",
			},
			Remedy: "On a new board `imxcrypt provision NAME` finishes it. If the volume was in use before, an old header was written back: do not provision (only ext4 shows that it was used, anything else would be formatted), restore a backup of the header.",
		},
		{
			Code:    fault.EncryptionStarted,
			Meaning: "The power went, or the program was stopped, while `imxcrypt encrypt` made the key and the header.",
			Cause:   "With the header in a file the device is in plain text, as it was. With the header on the device it is a volume already, and must not be mounted in plain text: a part of the header may be where the filesystem begins.",
			Remedy:  "`imxcrypt encrypt NAME` continues; so does `unlock` where the header goes onto the device. To leave it at that with a header in a file, remove the file (`header` in the configuration).",
		},
		{
			Code:    fault.DecryptionEnding,
			Meaning: "The power went, or the program was stopped, in the last moment of `imxcrypt decrypt`, while the filesystem's first bytes took the place of the header.",
			Cause:   "All data is in plain text. Some of the first bytes are not in their place yet; they are kept near the device's end. Do not mount the device: a part of the header may be where the filesystem begins.",
			Remedy:  "`imxcrypt decrypt NAME` puts them back, and needs no key for that.",
		},
		{
			Code:    fault.ShrinkStarted,
			Meaning: "The power went, or the program was killed, while `imxcrypt encrypt` made the filesystem smaller.",
			Cause:   "A mark stands where the superblock was, so that nobody mounts what is half old and half new. All that is missing lies in the log, in `state_dir` or the folder that `--workspace` named.",
			Remedy: "`imxcrypt encrypt NAME` finishes it, and encrypts; `imxcrypt encrypt --resume-only NAME` finishes it and leaves the smaller filesystem in plain text. With `on_plaintext: encrypt` the next start finishes it. Keep the log, and run no checker on the device: with a backup superblock it would repair what only waits to be finished. " +
				"Only if the log is lost for good: copy the device, then try `e2fsck -b 32768` on the copy. Where the data is not needed, overwrite the device's first MiB with zeros.",
		},
		{
			Code:    fault.EraseStarted,
			Meaning: "The power went, or the program was killed, while `imxcrypt erase` destroyed the key.",
			Messages: []string{
				"volume … (uuid …) … on …, and that was interrupted",
			},
			Cause:  "Nothing opens the volume any more.",
			Remedy: "If the erase was a mistake and the header is still whole, `imxcrypt header restore` puts a backup of it back. Otherwise `imxcrypt erase NAME` finishes it; after that `imxcrypt provision NAME` makes a new volume.",
		},
	}
}

// headers has the faults of a header that cannot be used.
func headers() []Entry {
	return []Entry{
		{
			Code:    fault.HeaderDamaged,
			Meaning: "Neither copy of the header can be used.",
			Messages: []string{
				"both copies of the LUKS2 header are damaged: first: …; second: …",
				"the copies do not complete each other: …",
				"no checksum fits, and what both copies of the header say is not proved: …",
			},
			Cause: "Nothing was changed, and nothing will be formatted because of it.",
			Remedy: "`imxcrypt header repair NAME` puts the header together where each copy has what the other has lost, and proves the keys in it first. " +
				"If the copies do not complete each other, restore a backup: `imxcrypt header restore NAME FILE`. It is refused where the device knows of a newer key.",
		},
		{
			Code:    fault.HeaderCopyDamaged,
			Meaning: "One of the two copies of the header is damaged, and the other serves.",
			Messages: []string{
				"one copy of the header is damaged: …; the other serves",
				"the first copy of the LUKS2 header was overwritten by something else, and was left as it is; the second copy is good",
			},
			Cause: "`unlock` repairs a copy that was cut off or has wrong bits when it has proved the key. What looks like something else made over the first copy (`mkswap`, a RAID) it leaves, " +
				"and commands that must write the header are refused until a person has decided.",
			Remedy: "`imxcrypt header repair NAME` proves the key, keeps what is there in a file, and writes the copy again. The volume may be in use.",
		},
		{
			Code:    fault.HeaderMissing,
			Meaning: "There was a volume here, and its header is gone.",
			Messages: []string{
				"the header is gone: volume … (uuid …) was made on … on …",
				"the header is gone, unless the device is not the volume's: what lies at byte … of … looks like ciphertext",
			},
			Cause: "The first MiB of the device was overwritten, or the file of a detached header is lost. The first message comes from the record that the board keeps in `state_dir`, the second from what lies on the device: " +
				"a volume that `adopt` has not taken over yet, or a foreign one, looks the same.",
			Remedy: "Restore a backup: `imxcrypt header restore NAME FILE`. The data behind the header needs nothing else. Without a backup nothing opens it.",
		},
		{
			Code:    fault.HeaderInvalid,
			Meaning: "The header's checksum fits, but its content breaks a rule of the format.",
			Messages: []string{
				"LUKS2 header invalid (…): …",
			},
			Cause:  "It is a defect of the program that wrote it, or somebody made it by hand.",
			Remedy: "Restore a backup of the header: `imxcrypt header restore NAME FILE`.",
		},
		{
			Code:    fault.HeaderVersion,
			Meaning: "Not a LUKS2 header.",
			Messages: []string{
				"LUKS header of version …, only version 2 is supported",
			},
			Remedy: "Use a newer imxcrypt, or another device.",
		},
		{
			Code:    fault.HeaderRequirement,
			Meaning: "A newer imxcrypt wrote the header, or another program.",
			Messages: []string{
				"LUKS2 header has unknown mandatory requirements: …",
			},
			Remedy: "Use that one.",
		},
		{
			Code:    fault.RotationDamaged,
			Meaning: "The records of an interrupted rotation cannot be understood.",
			Remedy:  "Do not run anything else on the volume; make an image of the device first, then see [rotation.md](rotation.md).",
		},
	}
}

// others has the faults that end with exit code 1.
func others() []Entry {
	return []Entry{
		{
			Code:    fault.Failed,
			Meaning: "Something failed that has no entry of its own; the message says what.",
			Remedy:  "`--log-level debug`, `dmesg`.",
		},
		{
			Code:    fault.ProgramFailed,
			Meaning: "The program named failed; its last words are in the message.",
			Messages: []string{
				"mkfs.…: exit status …: …",
			},
			Cause:  "A volume that was being provisioned stays so.",
			Remedy: "Correct what it says, then run the command again.",
		},
		{
			Code:    fault.IOFailed,
			Meaning: "The storage reports errors, or reports none and does not hold what was written to it.",
			Messages: []string{
				"read …: input/output error",
				"write …: input/output error",
			},
			Remedy: "See `dmesg`; copy what can still be read.",
		},
		{
			Code:    fault.StorageFull,
			Meaning: "The filesystem of `state_dir`, or of a detached header, is full.",
			Messages: []string{
				"…: no space left on device",
			},
			Cause:  "Nothing was half written.",
			Remedy: "Make room, then run the command again.",
		},
		{
			Code:    fault.NotMounted,
			Meaning: "The volume is unlocked, and is not mounted where the configuration says.",
			Messages: []string{
				"unlocked and not mounted on …",
				"mounted on … and not on …",
				"something else is mounted over the volume on …",
			},
			Cause:  "Programs find an empty directory where the data should be, and write beside the volume. It is unlocked without `--mount`, its mount unit failed, or somebody unmounted it.",
			Remedy: "`imxcrypt unlock --mount NAME` mounts it, or says what keeps it from being mounted.",
		},
		{
			Code:    fault.MountedReadOnly,
			Meaning: "The volume is mounted read-only, and the configuration asks for read-write.",
			Messages: []string{
				"mounted read-only on …, and the configuration asks for read-write",
			},
			Cause:  "The kernel makes an ext4 filesystem read-only when it meets an error in it; storage that refuses writes is mounted read-only from the beginning.",
			Remedy: "See `dmesg`. After an error: `imxcrypt lock NAME`, `imxcrypt unlock --for-repair NAME`, then the checker. If it is meant to be read-only, write `options: [ro]` under `mount`.",
		},
		{
			Code:    fault.VolumeNotUp,
			Meaning: "A volume that is `required` is not up (mounted where it has a mount point, else unlocked); nothing else is wrong.",
			Cause:   "`imxcrypt status` fails with this code, and `imxcrypt provision` of a file that is to be made in a mount which is not there yet: mount that first.",
			Remedy:  "`imxcrypt boot` opens what is provisioned, `imxcrypt provision NAME` makes the rest.",
		},
	}
}
