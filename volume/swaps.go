// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/plainfile"
)

// swapHeader returns the first page of a swap area, as mkswap(8) makes it (Linux,
// include/linux/swap.h, union swap_header). The rest need not be written.
func swapHeader(size int64, page int, uuid, label string) ([]byte, error) {
	pages := size / int64(page)
	if pages < 10 {
		return nil, fault.Newf(fault.DeviceUnsuitable, "%d bytes are too few to swap to", size)
	}
	b := make([]byte, page)
	binary.NativeEndian.PutUint32(b[1024:], 1)
	binary.NativeEndian.PutUint32(b[1028:], uint32(min(pages-1, 1<<32-1)))
	id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", ""))
	if err != nil {
		return nil, fmt.Errorf("uuid %q: %w", uuid, err)
	}
	copy(b[1036:1052], id)
	copy(b[1052:1067], label)
	copy(b[page-10:], "SWAPSPACE2")
	return b, nil
}

type realSwaps struct{}

// swapDiscard is SWAP_FLAG_DISCARD (Linux, include/linux/swap.h).
const swapDiscard = 0x10000

func (realSwaps) SwapOn(device string, discard bool) error {
	flags := uintptr(0)
	if discard {
		flags = swapDiscard
	}
	return swapCall("swap on", unix.SYS_SWAPON, device, flags)
}

func (realSwaps) SwapOff(device string) error {
	return swapCall("swap off", unix.SYS_SWAPOFF, device, 0)
}

func swapCall(what string, trap uintptr, device string, flags uintptr) error {
	path, err := unix.BytePtrFromString(device)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(trap, uintptr(unsafe.Pointer(path)), flags, 0)
	switch errno {
	case 0:
		return nil
	case unix.ENOMEM:
		return fault.New(fault.Busy, what+" "+device+": what is swapped out has no room in memory; end some programs first", errno)
	case unix.EPERM:
		return fault.New(fault.PermissionMissing, what+" "+device, errno)
	}
	return fault.New(fault.Failed, what+" "+device, errno)
}

// hibernates is System.Hibernates for the running kernel: resume= on its command line,
// and the device in /sys/power/resume, which that option or a program since has set.
func hibernates() ([]string, error) {
	var list []string
	text, err := plainfile.Read("/proc/cmdline")
	for _, word := range strings.Fields(string(text)) {
		if device, ok := strings.CutPrefix(strings.ReplaceAll(word, `"`, ""), "resume="); ok {
			list = append(list, device)
		}
	}
	number, err2 := os.ReadFile("/sys/power/resume")
	if errors.Is(err2, fs.ErrNotExist) {
		err2 = nil // a kernel without hibernation
	}
	if n := strings.TrimSpace(string(number)); n != "" && n != "0:0" {
		list = append(list, n)
	}
	return list, errors.Join(err, err2)
}
