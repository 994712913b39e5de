// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// The kernel's requests to mounted filesystems: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h,
// include/uapi/linux/btrfs.h. systemd-growfs uses the same.
const (
	ext4ResizeFS = 0x40086610 // _IOW('f', 16, __u64)
	xfsGeometry  = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	xfsGrowData  = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data)
	btrfsResize  = 0x50009403 // _IOW(0x94, 3, struct btrfs_ioctl_vol_args)
)

type xfsGeom struct {
	BlockSize  uint32
	_          [6]uint32
	MaxPercent uint32
	DataBlocks uint64
	_          [9]uint64
}

type xfsGrow struct {
	NewBlocks  uint64
	MaxPercent uint32
	_          uint32
}

type btrfsArgs struct {
	FD   int64
	Name [4088]byte
}

// Grow makes the mounted filesystem at target take the size bytes that its device has
// now. grown is false if there was nothing to do. The kernel does the work, and a power
// cut leaves the old size or the new one.
func (Maker) Grow(fstype, target string, size int64) (grown bool, err error) {
	op := "grow " + fstype + " on " + target
	fail := func(err error) (bool, error) {
		code := fault.Failed
		if errors.Is(err, unix.EROFS) {
			code = fault.DeviceReadOnly
		}
		return false, &Error{Op: op, Code: code, Reason: "the kernel refuses", Err: err}
	}
	dir, err := os.OpenFile(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	fd := int(dir.Fd())
	var before, after unix.Statfs_t
	if err := unix.Fstatfs(fd, &before); err != nil {
		return fail(err)
	}
	switch fstype {
	case "ext4":
		blocks := uint64(size) / uint64(before.Bsize)
		err = request(fd, ext4ResizeFS, unsafe.Pointer(&blocks))
	case "xfs":
		err = growXFS(fd, uint64(size))
	case "btrfs":
		args := btrfsArgs{}
		copy(args.Name[:], "max")
		err = request(fd, btrfsResize, unsafe.Pointer(&args))
	default:
		return false, &OptionError{Type: fstype, Option: "grow", Reason: "such a filesystem does not grow"}
	}
	if err == nil {
		err = unix.Fstatfs(fd, &after)
	}
	if err != nil {
		return fail(err)
	}
	return after.Blocks != before.Blocks, nil
}

func growXFS(fd int, size uint64) error {
	var geom xfsGeom
	if err := request(fd, xfsGeometry, unsafe.Pointer(&geom)); err != nil {
		return err
	}
	grow := xfsGrow{NewBlocks: size / uint64(max(geom.BlockSize, 1)), MaxPercent: geom.MaxPercent}
	if grow.NewBlocks <= geom.DataBlocks {
		return nil
	}
	return request(fd, xfsGrowData, unsafe.Pointer(&grow))
}

func request(fd int, number uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
