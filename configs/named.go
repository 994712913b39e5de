// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Dirs returns the folders of the system's configuration.
func Dirs() []string { return []string{ownDir, vendorDir} }

// NamedAtBoot refuses a file that the kernel command line may not name: the command line
// is not protected on every board, so it may only choose among the files that root has
// put into the configuration's folders. Files in /proc and /sys are refused, because
// their text comes from other sources, including the command line itself.
func NamedAtBoot(path string, dirs []string) error {
	untrusted := func(reason string) error {
		return &Error{File: path, code: fault.ConfigUntrusted, Reason: "is named by imxcrypt.config= on the kernel command line, and " + reason,
			Remedy: "put the file into " + dirs[0] + ", and name it by its path there"}
	}
	if path != filepath.Clean(path) || !slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
		return untrusted("does not lie in " + strings.Join(dirs, " or "))
	}
	end, err := filepath.EvalSymlinks(path)
	if err != nil {
		return openError(path, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(end, &st); err != nil {
		return openError(path, err)
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		return untrusted("leads to " + end + ", which is a file of the kernel's")
	}
	return nil
}
