// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"errors"
	"io/fs"
	"testing"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	disk := b.device("", "mmcblk2", empty())
	one := b.device("mmcblk2", "mmcblk2p1", empty())
	two := b.device("mmcblk2", "mmcblk2p2", empty())
	three := b.device("mmcblk2", "mmcblk2p3", empty())
	free := b.device("mmcblk2", "mmcblk2p4", empty())
	b.mapping("dm-0", "data", "CRYPT-LUKS2-x-data", "mmcblk2p2", empty())
	b.file("proc/self/mountinfo",
		"22 1 "+one.String()+" / /boot\\040dir rw - vfat /dev/mmcblk2p1 rw\n"+
			"23 1 0:5 / /proc rw - proc proc rw\n")
	b.file("proc/swaps", "Filename Type Size Used Priority\n/dev/mmcblk2p3 partition 1 0 -2\n/swapfile file 1 0 -3\n")

	for _, c := range []struct {
		n    Number
		want string
	}{
		{one, "mmcblk2p1 is mounted on /boot dir"},
		{two, "mapped as data"},
		{three, "mmcblk2p3 is swap"},
		{free, ""},
		{disk, "mmcblk2p1 is mounted on /boot dir, mapped as data, mmcblk2p3 is swap"},
	} {
		u, err := b.Users(c.n)
		if err != nil || u.String() != c.want || u.None() != (c.want == "") {
			t.Errorf("users of %s: %q, %v, want %q", c.n, u, err, c.want)
		}
	}
	u, err := b.Users(two)
	if want := (Holder{Device: "dm-0", Name: "data", UUID: "CRYPT-LUKS2-x-data"}); err != nil || len(u.Holders) != 1 || u.Holders[0] != want {
		t.Errorf("holders %+v, %v, want %+v", u.Holders, err, want)
	}
	if _, err := b.Users(Number{Major: 1, Minor: 2}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("users of a device that is not there: %v", err)
	}
}

// A kernel without swap has no /proc/swaps.
func TestUsersWithoutSwap(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	n := b.device("", "sda", empty())
	if u, err := b.Users(n); err != nil || !u.None() {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	disk := b.device("", "mmcblk2", empty())
	dm := b.mapping("dm-0", "data", "", "mmcblk2", empty())
	for n, want := range map[Number]string{disk: "mmcblk2", dm: "data", {Major: 9, Minor: 9}: "9:9"} {
		if got := b.Name(n); got != want {
			t.Errorf("Name(%s) = %q, want %q", n, got, want)
		}
	}
}

func TestEraseSize(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	disk := b.device("", "mmcblk2", empty())
	part := b.device("mmcblk2", "mmcblk2p1", empty())
	if got := b.eraseSize(part); got != 0 {
		t.Errorf("unknown: %d", got)
	}
	b.file("sys/devices/mmcblk2/queue/discard_granularity", "512\n")
	if got := b.eraseSize(part); got != 512 {
		t.Errorf("discard granularity: %d", got)
	}
	b.file("sys/devices/mmcblk2/device/preferred_erase_size", "4194304\n")
	if got := b.eraseSize(part); got != 4194304 || b.eraseSize(disk) != got {
		t.Errorf("the eMMC's figure: %d", got)
	}
	b.file("sys/devices/mmcblk2/device/preferred_erase_size", "4294966784\n")
	if got := b.eraseSize(part); got != 512 {
		t.Errorf("with a figure beyond belief: %d", got)
	}
}
