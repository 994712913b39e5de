// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"imxcrypt/internal/plainfile"
)

// heard reports whether udev or anything else may be listening to the kernel's uevents.
// It is false only if certainly nothing is, as in an initramfs without udev.
//
// Only the sockets of this process's network namespace are visible, and a service may
// have its own; so udev is also detected by its own file.
func (d nodes) heard() bool {
	if _, err := os.Stat(filepath.Join(d.run, "udev/control")); err == nil {
		return true
	}
	text, err := plainfile.Read(filepath.Join(d.proc, "net/netlink"))
	return err != nil || listening(string(text))
}

// listening looks for a socket of the protocol of uevents that is in a group
// (net/netlink/af_netlink.c, netlink_native_seq_show):
//
//	sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
//	ffff8881035cb000 15  1          00000001 0        0        0     2        0        2087
func listening(table string) bool {
	const ueventProtocol = "15" // NETLINK_KOBJECT_UEVENT
	head, rest, _ := strings.Cut(table, "\n")
	if f := strings.Fields(head); len(f) < 4 || f[1] != "Eth" || f[3] != "Groups" {
		return true // unknown format
	}
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if len(f) < 4 {
			return true
		}
		if groups, err := strconv.ParseUint(f[3], 16, 32); f[1] == ueventProtocol && (err != nil || groups != 0) {
			return true
		}
	}
	return false
}
