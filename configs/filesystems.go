// SPDX-License-Identifier: Apache-2.0

package configs

// filesystemRules is what a filesystem's mkfs takes.
type filesystemRules struct {
	labelBytes int
	noLabel    string // characters that the label cannot hold
	options    func() mkfsRules
}

func filesystemTypes() []string {
	return []string{"ext4", "f2fs", "xfs", "btrfs", "vfat", FilesystemNone}
}

func filesystemOf(fstype string) (filesystemRules, bool) {
	switch fstype {
	case "ext4":
		return filesystemRules{labelBytes: 16, options: ext4Options}, true
	case "f2fs":
		return filesystemRules{labelBytes: 255, options: f2fsOptions}, true
	case "xfs":
		return filesystemRules{labelBytes: 12, noLabel: " \t", options: xfsOptions}, true
	case "btrfs":
		return filesystemRules{labelBytes: 255, noLabel: "\\/", options: btrfsOptions}, true
	case "vfat":
		return filesystemRules{labelBytes: 11, noLabel: "\"*+,./:;<=>?[\\]|", options: vfatOptions}, true
	}
	return filesystemRules{}, false
}
