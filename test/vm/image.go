// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/test/vm/initramfs"
)

// baseVersion is part of the cached image's name. Raise it when a change of the code
// makes a different image from the same lists.
const baseVersion = "3"

// packages are unpacked for the guest's architecture. fetch-debian does not follow
// dependencies, so libraries are listed too. If one is missing, making the image fails
// with an error that names it.
var packages = strings.Fields(`
	busybox-static dash
	e2fsprogs libext2fs2 libcom-err2 libss2
	util-linux fdisk libfdisk1 libreadline8 mount libmount1 libblkid1 libsmartcols1 libuuid1 libselinux1 libpcre2-8-0 libtinfo6 libudev1 libcap-ng0 libcrypt1
	dmsetup libdevmapper1.02.1
	cryptsetup-bin libcryptsetup12 libargon2-1 libjson-c5 libssl3 libpopt0
	keyutils libkeyutils1
	dosfstools xfsprogs libinih1 liburcu8 libedit2 libbsd0 libmd0 f2fs-tools btrfs-progs liblzo2-2 libzstd1 zlib1g libsystemd0
	libc6 libgcc-s1`)

// programs are taken from the packages. busybox provides everything else except the
// shell: its shell prefers its own mount, losetup and blkid to any in PATH.
var programs = strings.Fields(`
	dash mke2fs mkfs.ext2 mkfs.ext3 mkfs.ext4 e2fsck fsck.ext2 fsck.ext3 fsck.ext4 dumpe2fs tune2fs debugfs resize2fs e2image e2label
	blkid lsblk mount umount findmnt losetup blockdev wipefs blkdiscard sfdisk unshare nsenter setpriv dmesg flock
	dmsetup cryptsetup keyctl
	mkfs.fat mkfs.vfat fsck.fat fsck.vfat mkfs.xfs fsck.xfs xfs_repair mkfs.f2fs fsck.f2fs mkfs.btrfs btrfs fsck.btrfs`)

// bootModules are loaded before the agent says hello. guestModules are available for
// the kernel and modprobe to load.
var (
	// The order of virtio's modules is virtio's own; modules.dep orders the rest.
	bootModules = strings.Fields(`virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci
		virtio_console virtio_blk dm-mod dm-crypt ext4 loop ecb xts`)
	guestModules = strings.Fields(`
		virtio-rng virtio_scsi sd_mod brd
		dm-flakey dm-delay dm-log-writes dm-snapshot
		essiv sha256_generic crc32c_generic crc32_generic xxhash_generic blake2b_generic
		algif_skcipher
		xfs f2fs btrfs vfat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8`)
)

// image is what a boot needs on the host.
type image struct {
	kernel  string
	base    string // initramfs shared by all machines of the architecture
	release string
	modules *initramfs.Modules
	models  string // of CAAM and DCP, preloaded into QEMU, for the mainline kernel
	lacks   []string
}

// prepare returns the image and makes what is not in the cache.
func prepare(ctx context.Context, arch Arch, p platform) (*image, error) {
	kernel := "stock"
	if p.mainline != nil {
		kernel = "mainline " + string(*p.mainline)
	}
	return makeOnce(fmt.Sprintf("image %s %v %s", arch, p.kernelELF, kernel), func() (*image, error) {
		return prepareImage(ctx, arch, p)
	})
}

// prepareImage takes the image from the cache or makes it. Concurrent test processes
// wait for each other.
func prepareImage(ctx context.Context, arch Arch, p platform) (*image, error) {
	top, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(top, "build/vm", string(arch))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lockFile(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	debian := filepath.Join(top, "build/debian")
	release, err := fetchDebian(ctx, top, debian, arch, packages)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(debian, string(arch))
	im := &image{release: release, kernel: filepath.Join(dir, "vmlinuz"), lacks: p.lacks}
	modulesDir, madeOf := filepath.Join(dir, "modules"), ""
	if p.mainline != nil {
		if im.release, madeOf, err = buildMainline(ctx, top, *p.mainline); err != nil {
			return nil, err
		}
		im.kernel = filepath.Join(debian, p.mainline.flavour(), "vmlinuz")
		im.models = filepath.Join(top, "build/mainline/imx-crypto.so")
		modulesDir = filepath.Join(top, "build", p.mainline.modules())
	}
	if im.modules, err = initramfs.OpenModules(modulesDir, im.release); err != nil {
		return nil, err
	}
	if p.kernelELF {
		elf := filepath.Join(cache, "vmlinux-"+release)
		if _, err := os.Stat(elf); err != nil {
			if err := unpackKernel(im.kernel, elf); err != nil {
				return nil, err
			}
		}
		im.kernel = elf
	}
	modules := im.has(slices.Concat(bootModules, guestModules, p.modules))
	key := sha256.Sum256([]byte(strings.Join(slices.Concat([]string{baseVersion, im.release + madeOf}, packages, programs, modules), " ")))
	im.base = filepath.Join(cache, "base-"+hex.EncodeToString(key[:6])+".cpio")
	if _, err := os.Stat(im.base); err == nil {
		return im, nil
	}
	tree, err := baseTree(filepath.Join(dir, "root"), p, im.modules, modules)
	if err != nil {
		return nil, fmt.Errorf("make the %s guest image: %w", arch, err)
	}
	var buffer bytes.Buffer
	if _, err := tree.WriteTo(&buffer); err != nil {
		return nil, err
	}
	return im, writeAtomically(im.base, buffer.Bytes(), 0o644)
}

// has returns the modules except those that the kernel lacks.
func (im *image) has(modules []string) []string {
	return slices.DeleteFunc(slices.Clone(modules), func(name string) bool { return slices.Contains(im.lacks, name) })
}

// fetchDebian fetches the kernel and the packages and returns the kernel's release.
func fetchDebian(ctx context.Context, top, debian string, arch Arch, packages []string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(top, "test/tools/fetch-debian"),
		slices.Concat([]string{string(arch), debian}, packages)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("fetch-debian %s: %w: %s", arch, err, tail(stderr.String(), 10))
	}
	return strings.TrimSpace(string(out)), nil
}

func baseTree(root string, p platform, m *initramfs.Modules, modules []string) (initramfs.Tree, error) {
	t := initramfs.Tree{
		"/bin":         {Link: "usr/bin"},
		"/sbin":        {Link: "usr/sbin"},
		"/lib":         {Link: "usr/lib"},
		"/lib64":       {Link: "usr/lib64"},
		"/etc/mtab":    {Link: "/proc/self/mounts"},
		"/etc/passwd":  {Data: []byte("root:x:0:0:root:/root:/bin/sh\n"), Perm: 0o644},
		"/etc/group":   {Data: []byte("root:x:0:\n"), Perm: 0o644},
		"/root/.empty": {Perm: 0o644},
		"/mnt/.empty":  {Perm: 0o644},
	}
	if err := m.AddTo(t, modules...); err != nil {
		return nil, err
	}
	from := initramfs.Programs{Root: root, Triplet: p.triplet}
	if err := from.AddTo(t, slices.Concat(programs, []string{"busybox"})...); err != nil {
		return nil, err
	}
	// Opened at run time by libpthread when a thread ends early.
	if err := from.Library(t, "libgcc_s.so.1"); err != nil {
		return nil, err
	}
	t["/usr/sbin/modprobe"] = initramfs.Entry{Link: "../bin/busybox"} // the kernel calls it by this path
	t["/usr/bin/sh"] = initramfs.Entry{Link: "dash"}
	names, err := initramfs.BusyboxApplets(t["/usr/bin/busybox"].Data)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, real := t["/usr/sbin/"+name]; real {
			continue
		}
		if _, real := t["/usr/bin/"+name]; !real {
			t["/usr/bin/"+name] = initramfs.Entry{Link: "busybox"}
		}
	}
	return t, nil
}
