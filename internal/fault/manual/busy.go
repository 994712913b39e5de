// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// busy has the faults where somebody else uses what is needed.
func busy() []Entry {
	return []Entry{
		{
			Code:    fault.NotFrozen,
			Meaning: "Before the system sleeps, every process must stop; this one did not.",
			Messages: []string{
				`not stopped after …: "…" (process …, state …, cgroup …)`,
			},
			Cause:  "One in state D waits for a device or a server that does not answer, such as NFS. All processes continue, nothing was suspended.",
			Remedy: "See dmesg, and `cat /proc/PID/stack`; then suspend again.",
		},
		{
			Code:    fault.Busy,
			Meaning: "Somebody has the device open; or the volume is suspended, by `dmsetup suspend` or `cryptsetup luksSuspend`, and its users wait.",
			Messages: []string{
				`"…": add … key: the thread has one of that name already: …`,
			},
			Cause:  "A key's name is taken only where the program itself uses the same key a second time, within one thread: a mistake in it.",
			Remedy: "`fuser -vm /dev/mapper/NAME`, then try again. A suspended volume: `imxcrypt unlock NAME`, which proves its key again. A key's name that is taken: run the command again, since each run begins with an empty keyring, and report it.",
		},
		{
			Code:    fault.LockHeld,
			Meaning: "Another imxcrypt works on the volume.",
			Messages: []string{
				"lock …: held by process … (…) since …",
			},
			Remedy: "Wait for it to end. A lock ends with its process: there are no stale ones.",
		},
		{
			Code:    fault.KeyQuota,
			Meaning: "The kernel's quota of keys for this user is used up.",
			Messages: []string{
				"\"…\": … … key: the quota for keys is used up (/proc/sys/kernel/keys): …",
			},
			Cause:  "`/proc/key-users` shows for each user how many keys and bytes are used, and how many are allowed.",
			Remedy: "Raise `kernel.keys.root_maxkeys` and `kernel.keys.root_maxbytes` (for users other than root: `maxkeys`, `maxbytes`) with `sysctl -w`, and for good in `/etc/sysctl.d`; or find the program that leaks keys.",
		},
		{
			Code:    fault.RotationUnderWay,
			Meaning: "The volume is being rotated, so it has two keys and no copy of its header can stand for it; or it is being encrypted or decrypted in place, and a part of its data is in plain text.",
			Messages: []string{
				"the key of the rotation under way was made with other recovery copies than are asked for now",
			},
			Cause:  "The rotation may be running, paused, or interrupted by a power cut.",
			Remedy: "`imxcrypt rotate --resume-only NAME` finishes the rotation, encryption or decryption; then run the command again.",
		},
		{
			Code:    fault.DeviceInUse,
			Meaning: "The device is mounted, mapped, or used as swap.",
			Messages: []string{
				"/dev/…: in use: …",
			},
			Remedy: "Take it out of use first: umount, swapoff, or `dmsetup remove` for what lies on it.",
		},
		{
			Code:    fault.MountBusy,
			Meaning: "Programs use files in the volume, or it is mounted in another mount namespace, too.",
			Messages: []string{
				"unmount …: …",
				"/dev/mapper/…: mounted on … in another mount namespace, too, where unmounting it here does not reach: process …",
			},
			Remedy: "Stop the programs named, then try again. A container keeps the mounts it began with, if they are private in it: stop it, or give it the mount as a slave (`rslave`), then it goes with the system's.",
		},
	}
}
