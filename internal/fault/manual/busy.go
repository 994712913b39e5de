// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// busy has the faults where somebody else uses what is needed.
func busy() []Entry {
	return []Entry{
		{
			Code:    fault.NotFrozen,
			Exit:    fault.ExitBusy,
			Meaning: "Before the system sleeps, every process must stop; this one did not.",
			Messages: []string{
				`not stopped after …: "…" (process …, state …, cgroup …)`,
			},
			Cause: "A process in state D waits for a device or a server that does not answer, such as NFS. All processes continue, and nothing was suspended.",
			Hint:  "nothing was suspended and all processes continue; a process in state D waits for a device or a server that does not answer: see dmesg",
			More:  "`cat /proc/PID/stack` shows what it waits for.",
		},
		{
			Code:    fault.Busy,
			Exit:    fault.ExitBusy,
			Meaning: "Something has the device open; or the volume is suspended, by `dmsetup suspend` or `cryptsetup luksSuspend`, and its users wait.",
			Messages: []string{
				`"…": add … key: the thread has one of that name already: …`,
			},
			Cause: "A key's name is taken only if imxcrypt itself uses the same key a second time within one thread. That is a bug in imxcrypt, not a problem with keys or the kernel (exit 3 or 4). A key of that name that a script or another program has left in a session, process or user keyring does not interfere, and is never taken for imxcrypt's: the thread's own keyring comes first, and is empty when a command begins.",
			Hint:  "find out what uses it with `fuser -vm` or `lsof`, then try again",
			More:  "For a suspended volume run `imxcrypt unlock NAME`, which proves its key again. If a key's name is taken, run the command again, since each run begins with an empty keyring, and report the bug.",
		},
		{
			Code:    fault.LockHeld,
			Exit:    fault.ExitBusy,
			Meaning: "Another imxcrypt process is working on the volume.",
			Messages: []string{
				"lock …: held by process … (…) since …",
			},
			Hint: "wait for the other imxcrypt process to end, then try again",
			More: "A lock ends with its process: there are no stale locks.",
		},
		{
			Code:    fault.KeyQuota,
			Exit:    fault.ExitBusy,
			Meaning: "The kernel's quota of keys for this user is used up.",
			Messages: []string{
				"\"…\": … … key: the quota for keys is used up (/proc/sys/kernel/keys): …",
			},
			Cause: "`/proc/key-users` shows for each user how many keys and bytes are used, and how many are allowed.",
			Hint:  "raise the quota, for instance `sysctl -w kernel.keys.root_maxkeys=1000000 kernel.keys.root_maxbytes=25000000` (for users other than root: maxkeys, maxbytes); /proc/key-users shows who uses how many",
			More:  "Put the setting into `/etc/sysctl.d` to keep it, or find the program that leaks keys.",
		},
		{
			Code:    fault.RotationUnderWay,
			Exit:    fault.ExitBusy,
			Meaning: "The volume is being rotated, so it has two keys and no copy of its header can stand in for it; or it is being encrypted or decrypted in place, and part of its data is in plain text.",
			Messages: []string{
				"the key of the rotation under way was made with other recovery copies than are asked for now",
			},
			Cause: "The rotation may be running, paused, or interrupted by a power cut.",
			Hint:  "the volume has two keys, or is partly in plain text, until its rotation is finished. `imxcrypt rotate --resume-only NAME` finishes it; then run this command again",
			More:  "The same command finishes an encryption or decryption in place.",
		},
		{
			Code:    fault.DeviceInUse,
			Exit:    fault.ExitBusy,
			Meaning: "The device is mounted, mapped, or used as swap.",
			Messages: []string{
				"/dev/…: in use: …",
			},
			Hint: "take the device out of use first: umount, swapoff, `losetup -d`; close a volume that another configuration opened with that configuration (`imxcrypt --config FILE lock --all`), and other mappings with `dmsetup remove`",
		},
		{
			Code:    fault.MountBusy,
			Exit:    fault.ExitBusy,
			Meaning: "Programs use files in the volume, or it is also mounted in another mount namespace.",
			Messages: []string{
				"unmount …: …",
				"/dev/mapper/…: also mounted on … in another mount namespace, which unmounting it here does not reach: process …",
			},
			Hint: "stop the programs named above, then try again",
			More: "A container keeps the mounts it started with if they are private in it: stop it, or give it the mount as a slave (`rslave`), so that it is unmounted together with the system's.",
		},
	}
}
