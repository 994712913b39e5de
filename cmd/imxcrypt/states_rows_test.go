// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// configured returns oneDisk with more members.
func configured(more string) string { return strings.Replace(oneDisk, "}", ", "+more+"}", 1) }

// reconfigure returns the event of a session that changes the configuration.
func reconfigure(config string) string {
	return "> config\n  " + strings.ReplaceAll(strings.TrimSuffix(config, "\n"), "\n", "\n  ") + "\n"
}

const (
	openIt      = "$ imxcrypt unlock --mount data\n"
	restoreIt   = "$ imxcrypt header restore data /backup\n" + openIt
	repairIt    = "$ imxcrypt header repair data\n" + openIt
	scratchDisk = "> disk /dev/disk/by-partlabel/scratch 8\n"
	plainIt     = "> ext4 /dev/mmcblk2p3\n> put /dev/mmcblk2p3 3145728 " + `the\x20quick\x20brown\x20fox` + "\n" // mark at markAt
	partition   = "/dev/disk/by-path/platform-30b60000.mmc-part3"                                                // a path that is the same at each boot
	// laterLUKS makes a header with another version, and a checksum that does not fit
	// this one.
	laterLUKS = `> put /dev/mmcblk2p3 6 \x00\x03` + "\n" + `> put /dev/mmcblk2p3 448 another` + "\n" +
		`> put /dev/mmcblk2p3 16390 \x00\x03` + "\n" + `> put /dev/mmcblk2p3 16832 another` + "\n"
	scratchIt   = "$ imxcrypt provision --no-mount data\n$ imxcrypt unlock --mount data\n> write\n"
	encryptIt   = "> encrypt\n" + openIt
	provisionIt = "$ imxcrypt provision data\n> write\n"
	detachedAt  = "header: /var/lib/imxcrypt/data.luks"
	scratch     = "volumes:\n  - {name: data, device: /dev/disk/by-partlabel/scratch, mount: /data, key: ephemeral, filesystem: ext4, timeout: 0s}\n"
	// zeroFirst overwrites the first MiB.
	zeroFirst = "> zero /dev/mmcblk2p3 0 1048576\n"
)

// states returns the states that a volume can be in.
func states() []stateRow {
	return []stateRow{
		// Normal states and use.
		{name: "locked", follow: "$ imxcrypt boot\n"},
		{name: "mounted", how: openIt},
		{name: "unlocked, not mounted", how: "$ imxcrypt unlock data\n", advice: "imxcrypt unlock --mount", follow: openIt},
		{name: "mounted elsewhere only", how: "> mkdir /mnt\n$ imxcrypt unlock data\n> mount /dev/mapper/data /mnt\n", advice: "imxcrypt unlock --mount", follow: openIt},
		{name: "something mounted over it", how: openIt + "> cover /data\n", advice: "unmount what is there", follow: "> uncover /data\n" + openIt},
		{name: "mounted read-only", how: openIt + "> remount /data ro\n", advice: "dmesg", follow: "$ imxcrypt lock data\n" + openIt},
		{name: "the device is read-only", how: "> read-only /dev/mmcblk2p3\n", follow: openIt, after: 1},
		{name: "the mount point is occupied", how: "> cover /data\n", advice: "unmount what is there", follow: "> uncover /data\n" + openIt},
		{name: "the mount point is missing", how: "> rmdir /data\n", advice: "mkdir -p", follow: "> mkdir /data\n" + openIt},
		{name: "locked; the latest unlock failed, its reason is gone", how: "> rmdir /data\n" + openIt + "$ imxcrypt lock data\n> mkdir /data\n", advice: "mkdir -p", follow: openIt},
		{name: "another imxcrypt works on it", how: "> lock-held data\n", advice: "wait", follow: "> lock-free\n" + openIt},

		// Not made yet, erased.
		{name: "an empty device", fresh: true, advice: "imxcrypt provision data", follow: provisionIt},
		{name: "provisioning interrupted in mkfs", fresh: true, how: "> mkfs-fails\n$ imxcrypt provision data\n> mkfs-works\n", advice: "imxcrypt provision data", follow: provisionIt},
		{name: "provisioning interrupted in the header", fresh: true, how: "> fails-after 10\n$ imxcrypt provision data\n> works\n", advice: "provision", follow: provisionIt},
		{name: "erased", how: "$ imxcrypt erase --yes data\n", advice: "imxcrypt provision data", lost: "no: the key is destroyed; `provision` makes a new volume"},
		{name: "erase interrupted", how: "> fails-after 4\n$ imxcrypt erase --yes data\n> works\n", advice: "imxcrypt header restore", follow: "$ imxcrypt header restore --yes data /backup\n" + openIt},
		{name: "all of the device discarded, or another disk that is empty", how: "> zero /dev/mmcblk2p3 0 8388608\n", advice: "check that it is the right disk", lost: "no: the device holds nothing; a backup of the data does"},

		// The header.
		{name: "the header overwritten", how: zeroFirst, advice: "imxcrypt header restore", follow: restoreIt},
		{name: "the header overwritten, and the board remembers nothing", how: zeroFirst + "> remove /var/lib/imxcrypt/volumes/data.json\n", advice: "imxcrypt header restore", follow: restoreIt},
		{name: "the header overwritten, and no backup of it", how: zeroFirst + "> remove /backup\n", advice: "imxcrypt header restore", lost: "no: the only copies of the key are gone; a backup of the data is left"},
		{name: "the header overwritten while it is mounted", how: openIt + zeroFirst, advice: "imxcrypt header restore", follow: "$ imxcrypt lock data\n" + restoreIt},
		{name: "the same, and no backup of it", how: openIt + zeroFirst + "> remove /backup\n", advice: "the data may be whole", follow: "", after: 1},
		{name: "a filesystem made over the header", how: zeroFirst + `> put /dev/mmcblk2p3 1080 \x53\xef` + "\n", advice: "imxcrypt header restore --force", follow: "$ imxcrypt header restore --force --yes data /backup\n" + openIt},
		{name: "the same, and plain text is to be encrypted unasked (on_plaintext)", config: strings.Replace(configured("on_plaintext: encrypt"), "/dev/mmcblk2p3", partition, 1), fresh: true,
			how:    "> disk " + partition + " 8\n$ imxcrypt provision data\n$ imxcrypt header backup data /backup\n> write\n$ imxcrypt lock data\n" + strings.ReplaceAll(zeroFirst, "/dev/mmcblk2p3", partition) + "> put " + partition + ` 1080 \x53\xef` + "\n",
			advice: "imxcrypt header restore", follow: "$ imxcrypt header restore --force --yes data /backup\n" + openIt},
		{name: "a foreign LUKS header", how: zeroFirst + `> put /dev/mmcblk2p3 0 LUKS\xba\xbe\x00\x01` + "\n", advice: "imxcrypt header restore", follow: "$ imxcrypt header restore --force --yes data /backup\n" + openIt},
		{name: "the first copy of the header damaged", how: "> flip /dev/mmcblk2p3 4200\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "the first copy damaged while it is mounted", how: openIt + "> flip /dev/mmcblk2p3 4200\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "the first copy overwritten by noise", how: "> noise /dev/mmcblk2p3 0 8192\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "the first copy overwritten by noise while it is mounted", how: openIt + "> noise /dev/mmcblk2p3 0 8192\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "mkswap over the first copy", how: "> zero /dev/mmcblk2p3 0 4096\n> noise /dev/mmcblk2p3 1024 64\n> put /dev/mmcblk2p3 4086 SWAPSPACE2\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "the second copy damaged", how: "> flip /dev/mmcblk2p3 20600\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "both copies damaged in different places", how: "> flip /dev/mmcblk2p3 4200\n> flip /dev/mmcblk2p3 20700\n", advice: "imxcrypt header repair", follow: repairIt},
		{name: "both copies damaged in the same place", how: "> flip /dev/mmcblk2p3 4200\n> flip /dev/mmcblk2p3 20584\n", advice: "imxcrypt header restore", follow: restoreIt},
		{name: "the check area damaged", how: "> zero /dev/mmcblk2p3 32768 4096\n", follow: openIt},
		{name: "the header breaks a rule", how: "> member /dev/mmcblk2p3 colour\n", advice: "breaks the rule", follow: restoreIt},
		{name: "the header has a requirement of a later version", how: "> requirement /dev/mmcblk2p3 imxcrypt-v2\n", advice: "use that one", lost: "not with this version: the later one opens it"},
		{name: "the header is of a later LUKS version", how: laterLUKS, advice: "use a newer imxcrypt", lost: "not with this version: the later one opens it"},
		{name: "an old header put back after a rotation", how: "> save /dev/mmcblk2p3 0 36864\n> rotate\n$ imxcrypt header backup data /backup2\n> bring /dev/mmcblk2p3 0\n", advice: "imxcrypt header restore",
			follow: "$ imxcrypt header restore --yes --force data /backup2\n" + openIt},
		{name: "the file of a detached header missing", config: configured(detachedAt), how: "> remove /var/lib/imxcrypt/data.luks\n", advice: "imxcrypt header restore", follow: restoreIt},
		{name: "the volume of another board of the same name", how: "> save /dev/mmcblk2p3 0 8388608\n> other-chip\n", advice: "put the storage back there", follow: "> home-chip\n> mkdir /data\n" + openIt},

		// The key.
		{name: "made on an open chip, and that was closed", config: configured("allow_open_state: true"), fresh: true,
			how:    "> open-chip\n> mkdir /data\n$ imxcrypt provision data\n> write\n$ imxcrypt lock data\n> close-chip\n",
			advice: "recovery copy", lost: "no: without a recovery copy only a backup of the data helps"},
		{name: "made on an open chip, which the configuration no longer allows", config: configured("allow_open_state: true"), fresh: true,
			how:    "> open-chip\n> mkdir /data\n$ imxcrypt provision data\n> write\n$ imxcrypt lock data\n" + reconfigure(oneDisk),
			advice: "allow_open_state: true", follow: reconfigure(configured("allow_open_state: true")) + openIt},
		{name: "the CAAM does not answer", how: "> caam-fails ENODEV\n", advice: "job ring", follow: "> caam-works\n" + openIt},
		{name: "keys by NXP's program, which is not there", how: reconfigure("caam: {engine: caam-keygen, program: /opt/nxp/caam-keygen}\n"+oneDisk) + "> no-program /opt/nxp/caam-keygen\n", advice: "install the package", follow: "> program\n" + openIt},
		{name: "the kernel lacks dm-crypt", how: "> no-targets crypt\n", advice: "load the module dm-crypt", follow: "> no-targets\n" + openIt},
		{name: "the kernel's quota of keys is used up", how: "> key-quota\n", advice: "raise the quota", follow: "> key-room\n" + openIt},
		{name: "the key lost in a suspend while it is mounted", how: openIt + "> suspend\n", advice: "imxcrypt unlock data", follow: openIt},
		{name: "suspended", how: openIt + "> suspended data\n", advice: "imxcrypt unlock", follow: openIt},
		{name: "source dev, which is not allowed", config: configured("source: dev"), advice: "--allow-insecure", follow: "$ imxcrypt unlock --allow-insecure --mount data\n"},

		// The data.
		{name: "the superblock of the filesystem damaged", how: "$ imxcrypt unlock data\n> wipe-superblock\n$ imxcrypt lock data\n", advice: "the filesystem may still be repaired", follow: "$ imxcrypt unlock --for-repair data\n", after: 1},
		{name: "the filesystem damaged beyond what its checker repairs unasked", how: "$ imxcrypt unlock data\n> fsck-fails\n$ imxcrypt lock data\n", advice: "the checker of the filesystem", follow: "$ imxcrypt unlock --for-repair data\n", after: 1},
		{name: "a rotation interrupted", how: "> fails-after 60\n> rotate\n> works\n> power-cycle\n> mkdir /data\n", advice: "", follow: openIt},
		{name: "a rotation interrupted, and its records lost", how: "> fails-after 60\n> rotate\n> works\n> power-cycle\n> mkdir /data\n> zero /dev/mmcblk2p3 45056 8192\n", advice: "copy what can still be read", lost: "no: nobody knows which part of the data is under which key"},

		// In plain text, and on the way to and from it.
		{name: "a filesystem in plain text where no volume was", fresh: true, how: plainIt, advice: "check `device`", follow: encryptIt},
		{name: "decrypted", config: configured(detachedAt), how: "> decrypt\n", advice: "imxcrypt encrypt", follow: encryptIt},
		{name: "an encryption interrupted", config: configured(detachedAt), how: "> decrypt\n> fails-after 60\n> encrypt\n> works\n> power-cycle\n> mkdir /data\n", follow: openIt},
		{name: "an encryption interrupted before its key was proved", config: configured(detachedAt), fresh: true, how: plainIt + "> fails-after 18\n> encrypt\n> works\n> power-cycle\n> mkdir /data\n", advice: "nothing is lost", follow: encryptIt},
		{name: "a decryption interrupted", config: configured(detachedAt), how: "> fails-after 60\n> decrypt\n> works\n> power-cycle\n> mkdir /data\n", follow: openIt},
		// The second copy of the header is the first to be overwritten.
		{name: "a decryption interrupted in its last moment", fresh: true, how: plainIt + "> encrypt\n> fails-without /dev/mmcblk2p3 16384 SKUL\n> decrypt\n> works\n> power-cycle\n> mkdir /data\n", advice: "do not mount the device yet", follow: "> decrypt\n" + encryptIt},
		{name: "the filesystem was being made smaller before its encryption", fresh: true, how: plainIt + "> fails-after 19\n> encrypt\n> works\n> power-cycle\n> mkdir /data\n", advice: "nothing is lost", follow: encryptIt},
		{name: "a filesystem in plain text in the place of a volume", how: "> ext4 /dev/mmcblk2p3\n", advice: "imxcrypt header restore --force", lost: "no: the filesystem was made over the data; only a backup of the data helps"},

		// With a throw-away key.
		{name: "throw-away key: a device that provisioning has not marked", config: scratch, fresh: true, how: scratchDisk, advice: "imxcrypt provision data", follow: scratchIt},
		{name: "throw-away key: after a power cycle", config: scratch, fresh: true, how: scratchDisk + scratchIt + "> power-cycle\n> mkdir /data\n", follow: openIt + "> write\n"},

		// The device.
		{name: "the device is absent", how: "> pull /dev/mmcblk2p3\n", advice: "compare `device`", follow: "> plug /dev/mmcblk2p3\n" + openIt},
		{name: "several devices answer to the name", how: reconfigure(strings.Replace(oneDisk, "/dev/mmcblk2p3", "PARTLABEL=data", 1)) + "> answer PARTLABEL=data /dev/mmcblk2p3 /dev/mmcblk1p3\n", advice: "by its path", follow: reconfigure(oneDisk) + openIt},
		{name: "absent while it is mounted", how: openIt + "> pull /dev/mmcblk2p3\n", advice: "compare `device`", follow: "> plug /dev/mmcblk2p3\n" + openIt},
		{name: "reads fail", how: "> io-error /dev/mmcblk2p3\n", advice: "dmesg", follow: "> io-works /dev/mmcblk2p3\n" + openIt},
		{name: "the device is in use", how: "> used /dev/mmcblk2p3\n", advice: "out of use", follow: "> unused /dev/mmcblk2p3\n" + openIt},
		{name: "the partition has grown", how: "> resize /dev/mmcblk2p3 16\n", advice: "nothing needs to be done", follow: openIt},
		{name: "the partition has shrunk", how: "> save /dev/mmcblk2p3 7340032 1048576\n> resize /dev/mmcblk2p3 7\n", advice: "restore the old size of the partition",
			follow: "> resize /dev/mmcblk2p3 8\n> bring /dev/mmcblk2p3 7340032\n" + openIt},
		{name: "another mapping has its name", how: "> foreign-mapping data\n", advice: "dmsetup remove", follow: "> no-mapping data\n" + openIt},

		// The configuration.
		{name: "configured with another sector size", how: reconfigure(configured("sector_size: 512")), advice: "correct it", follow: reconfigure(oneDisk) + openIt},
		{name: "configured with another uuid", how: reconfigure(configured("uuid: 01234567-89ab-4cde-8f01-23456789abcd")), advice: "correct it", follow: reconfigure(oneDisk) + openIt},
		{name: "configured with another filesystem", how: reconfigure(configured("filesystem: {type: xfs}")), advice: "correct `filesystem`", follow: reconfigure(oneDisk) + openIt},
		{name: "the configuration is not valid", how: reconfigure(configured("sectorsize: 512")), advice: "", follow: reconfigure(oneDisk) + openIt},
		{name: "the device of another volume", how: "> disk /dev/mmcblk2p4 8\n> mkdir /data\n" + reconfigure("volumes:\n  - {name: other, device: /dev/mmcblk2p4}\n") + "$ imxcrypt provision --no-mount other\n" + reconfigure(oneDisk) + "> swap /dev/mmcblk2p3 /dev/mmcblk2p4\n> mkdir /data\n",
			advice: "this is not the volume it means", follow: "> swap /dev/mmcblk2p3 /dev/mmcblk2p4\n> mkdir /data\n" + openIt},
	}
}
