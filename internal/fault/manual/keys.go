// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// keys has the faults where a key was rejected.
func keys() []Entry {
	return []Entry{
		{
			Code:    fault.BlobRejected,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The CAAM, or the trust source, rejected the blob.",
			Messages: []string{
				"the trust source … rejected the sealed key: made by another chip or in another security state, or damaged: …",
				"/dev/caam-keygen: import: the hardware rejected the blob: made by another chip or in another security state, or damaged: bad message",
			},
			Cause: "The storage was moved to another board, the chip was closed (or opened again) since the volume was made, or the blob is damaged.",
			Hint:  "the data is untouched, and opens on the board it was made on: put the storage back there; if this is that board, the chip was closed (or opened again) since, or the blob is damaged. If this is the image of another board, and its data is not needed here, `imxcrypt erase NAME`, then `imxcrypt provision NAME` replaces it",
			More:  "On the volume's own board, restore a backup of the header. A recovery copy of the key opens the data elsewhere: `imxcrypt recover`.",
		},
		{
			Code:    fault.BlobDamaged,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The sealed key is not a valid blob.",
			Messages: []string{
				"the trust source … does not recognize the sealed key: it is damaged: invalid argument",
				"the sealed key of … bytes does not have the form of any trust source",
				"parse blob: …",
			},
			Cause: "This was found before the hardware was asked: the blob is truncated, its magic number is wrong, or its lengths do not match.",
			Hint:  "this is not a blob, or it was changed: restore a copy of the file, or a backup of the header (`imxcrypt header restore`)",
		},
		{
			Code:    fault.BlobOpenState,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The volume was made in another security state of the chip.",
			Messages: []string{
				"this volume was made while the chip was open; it has been closed since, and the data cannot be read",
				"this volume was made on a closed chip, and this chip is open",
			},
			Cause: "Blobs are sealed for one security state only. See [security.md](security.md).",
			Hint:  "only a recovery copy of the key (`imxcrypt recover`) or a backup of the data helps now; provision boards after closing them",
		},
		{
			Code:    fault.KeyWrong,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The blob opened, but its key is not the one that the volume was written with; or the UUID, label, generation or segments in the header were changed.",
			Messages: []string{
				"the key opened, but the check says that it is not this volume's key, or that the header was changed",
				"the hardware does not decrypt with this key",
				"nothing was changed: nothing on … proves that its data is under the key in the backup: …",
			},
			Cause: "Nothing was mounted or written. " +
				"The header and the key may match each other but not the data, for example if an old header was copied back together with its check. " +
				"The message that nothing proves the key is from `imxcrypt header restore`: the backup's key shows no filesystem of the volume, and opens no check on the device. " +
				"With `--force` it also looks for blocks of data that are not noise when decrypted with the key.",
			Hint: "nothing was mounted or written; if the header was changed or replaced by a copy, restore the right one (`imxcrypt header restore`)",
			More: "After a suspend-to-RAM, see [security.md](security.md): most i.MX chips lose their keys in it.",
		},
		{
			Code:    fault.KeyFileDamaged,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The key file of a volume of source `dev`, under `state_dir`, is missing, has the wrong size, or can be read by other users.",
			Messages: []string{
				"key of source dev: …",
			},
			Hint: "restore the key file of source dev under state_dir; without it the data cannot be read",
		},
		{
			Code:    fault.StaysSuspended,
			Exit:    fault.ExitKeyRejected,
			Meaning: "After a sleep, the volume's key could not be opened, or could not be proved to be the right one, in three attempts.",
			Messages: []string{
				"wake …: mapping … stays suspended, and its users wait: …",
				"mapping … is suspended, and its users wait",
			},
			Cause: "Nothing has been read or written since: the users of the volume wait. The text after the message is the reason, in the words of another entry on this page. If the volume's own key is not the reason, it is `it lies on …, which stays suspended`.",
			Hint:  "nothing was read or written with a wrong key: `imxcrypt unlock` proves the key again and resumes the volume, or says why it cannot. To give the volume up: `dmsetup wipe_table --noflush --nolockfs MAPPING`, then `imxcrypt lock NAME`",
			More:  "Everything was written back before the sleep. See [suspend.md](suspend.md).",
		},
		{
			Code:    fault.KeysLost,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The system was suspended, and the key of an unlocked volume in the kernel is dead or in doubt; or the volume was cut off from its device.",
			Messages: []string{
				"mapping … shows no … filesystem: its key was lost in a suspend: …",
				"whether the key under mapping … outlived a suspend is not known: the system was suspended since the key was proved",
				"mapping … has no key any more: it was cut off from its device, and every request fails",
				"there is no filesystem to test the key with",
				"the system was suspended while the volume was rotated, in which most chips lose the keys that are in the kernel; what was copied since the last record is not trusted, and stays as it was",
				"another program suspended the system while the keys were proved; nothing was written back",
			},
			Cause: "A black key from before a suspend-to-RAM turns what is read and written with it into noise (ECB), or every request fails (CCM). imxcrypt tests the key by reading through the mapping, but only if that does not write back what is in memory. If nothing can be read that way, or there is no filesystem, the key is in doubt as soon as the kernel counts a suspend since the key was proved. A rotation moves nothing with such a key. `imxcrypt lock` cuts a mapping off (its table is then `error`) before it unmounts with a dead key; so does `dmsetup wipe_table`.",
			Hint:  "`imxcrypt unlock NAME` restores the key in the kernel while the volume stays mounted; a rotation then continues with `imxcrypt rotate --resume-only NAME`. `imxcrypt sleep` suspends without losing keys (docs/suspend.md)",
			More:  "The key is proved first, and what is in memory is then written with the right key. Restart the programs that have read from the volume since the suspend. `imxcrypt lock NAME` discards what was written since the suspend, because it writes nothing with a dead key. Never unmount such a volume with `umount`, and never use `dmsetup wipe_table` on it without `--noflush --nolockfs`: both write noise. Install the hook that makes systemd suspend with `imxcrypt sleep`.",
		},
		{
			Code:    fault.IdentityWrong,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The identity file given to `imxcrypt recover` belongs to another recipient, the passphrase is wrong, or the recovery copy in the header is damaged.",
			Messages: []string{
				"the passphrase does not open the recovery copy",
				"the identity does not open the recovery copy, which was sealed to …",
			},
			Hint: "the recovery copy was sealed to another recipient, which `imxcrypt status` and `imxcrypt header check` name: use that recipient's identity. A passphrase must be the one from the last provision or rotate",
			More: "`provision` and `rotate` show a passphrase only once.",
		},
		{
			Code:    fault.KeyLengthMismatch,
			Exit:    fault.ExitKeyRejected,
			Meaning: "The blob and the header do not belong together, or the driver did not make the key that was asked for.",
			Messages: []string{
				"the blob holds a … key of … bytes, the header says …",
			},
			Hint: "the blob and the header do not belong together: restore the header that was written with this blob",
			More: "If this happens when a key is made: kernels up to 5.10 truncate an imported key at a zero byte; use another key.",
		},
	}
}
