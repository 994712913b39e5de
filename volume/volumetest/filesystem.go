// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
)

// filesystems makes small ext4 filesystems, whatever the size of the device.
type filesystems struct{ *Board }

func (f filesystems) Make(_ context.Context, fstype, device string, o mkfs.Options) error {
	if err := f.step("mkfs " + device); err != nil {
		return err
	}
	if f.Mkfs != nil {
		if err := f.Mkfs(fstype, device); err != nil {
			return err
		}
	}
	dev, err := f.DM.Open(device, true)
	if err != nil {
		return err
	}
	image, err := ext4Image(o.Label, o.UUID)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	for at := 0; at < len(image); at += ext4Block {
		block := image[at : at+ext4Block]
		if at > 0 && blank.Zero(block) {
			continue
		}
		err := f.step("mkfs write")
		if err == nil {
			_, err = dev.WriteAt(block, int64(at))
		}
		if err != nil {
			return errors.Join(err, dev.Close())
		}
	}
	f.mu.Lock()
	f.made = append(f.made, fstype+" on "+device)
	f.mu.Unlock()
	return errors.Join(dev.Flush(), dev.Close())
}

// Check implements volume.Filesystems.
func (f filesystems) Check(_ context.Context, fstype, device string) (bool, error) {
	if err := f.step("fsck " + device); err != nil {
		return false, err
	}
	if f.Fsck == nil {
		return false, nil
	}
	return f.Fsck(fstype, device)
}

// Grow implements volume.Filesystems. It only notes the filesystem's size.
func (f filesystems) Grow(fstype, target string, size int64) (bool, error) {
	if err := f.step("grow " + target); err != nil {
		return false, err
	}
	f.mountMu.Lock()
	at, ok := f.open[target]
	f.mountMu.Unlock()
	if !ok || at.Size() < size {
		return false, unix.EINVAL
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	grown := f.Grown[target] < size
	if f.Grown == nil {
		f.Grown = map[string]int64{}
	}
	f.Grown[target] = size
	return grown, nil
}

const ext4Block = 4096

// ext4Packed is an empty filesystem of 1 MiB as mke2fs makes it:
//
//	mke2fs -t ext4 -O metadata_csum,metadata_csum_seed,^has_journal,^resize_inode -N 16 -b 4096
//
// With metadata_csum_seed only the superblock's checksum depends on the UUID.
//
//go:embed ext4.img.gz
var ext4Packed []byte

// unpacked returns the unpacked image.
var unpacked = sync.OnceValues(func() ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(ext4Packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
})

// ext4Image returns that filesystem with a label and a UUID, a random one if uuid is
// empty. The offsets are those of struct ext4_super_block (kernel, fs/ext4/ext4.h).
func ext4Image(label, uuid string) ([]byte, error) {
	empty, err := unpacked()
	if err != nil {
		return nil, err
	}
	image := bytes.Clone(empty)
	sb := image[1024:2048]
	if uuid == "" {
		_, err = rand.Read(sb[0x68:0x78])
	} else {
		_, err = hex.Decode(sb[0x68:0x78], []byte(strings.ReplaceAll(uuid, "-", "")))
	}
	if err != nil {
		return nil, err
	}
	clear(sb[0x78:0x88])
	copy(sb[0x78:0x88], label)
	sum := ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(sb[0x3fc:], sum)
	return image, nil
}

// Mounts is the mount table. What is mounted keeps its mapping busy.
type Mounts struct {
	// Copies are mounts in other mount namespaces, which unmounting here does not reach.
	Copies []mount.Entry
	// Uses says what keeps mount points busy, by their paths.
	Uses map[string]string
	// Fstab is the mount point of the only line of /etc/fstab.
	Fstab string

	board   *Board
	mountMu sync.Mutex
	entries []mount.Entry
	open    map[string]*dmtest.File
}

// Mount implements volume.Mounts. It fails if the superblock does not fit.
func (m *Mounts) Mount(source, target, fstype string, options []string) error {
	if err := m.board.step("mount " + target); err != nil {
		return err
	}
	at, err := m.Look(target)
	if err = errors.Join(err, at.Usable()); err != nil {
		return err
	}
	f, err := m.board.DM.Open(source, !slices.Contains(options, "ro"))
	if err != nil {
		return err
	}
	if fsprobe.IsReadOnly(fstype) {
		var there bool
		if there, err = fsprobe.HasMark(f, f.Size(), fstype); err == nil && !there {
			err = fsprobe.ErrNone
		}
	} else {
		_, err = fsprobe.ReadType(f, f.Size(), fstype)
	}
	if err != nil {
		return errors.Join(&mount.Error{Op: "mount " + source + " on " + target, Code: fault.FilesystemWrong, Err: unix.EINVAL}, f.Close())
	}
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	if m.open == nil {
		m.open = map[string]*dmtest.File{}
	}
	n := f.Number()
	for _, other := range m.open { // a filesystem that is mounted twice opens its device once
		if other.Number() == n {
			if err := f.Close(); err != nil {
				return err
			}
			f = other
			break
		}
	}
	m.open[target] = f
	m.entries = append(m.entries, mount.Entry{
		Major: n.Major, Minor: n.Minor, Root: "/", Target: target, Source: source, Type: fstype, Options: options,
	})
	return nil
}

// Unmount implements volume.Mounts.
func (m *Mounts) Unmount(target string) error {
	if err := m.board.step("unmount " + target); err != nil {
		return err
	}
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	f, ok := m.open[target]
	if !ok {
		return &mount.Error{Op: "unmount " + target, Code: fault.Failed, Err: mount.ErrNotMounted}
	}
	if err := m.idle(target); err != nil {
		return err
	}
	minor := f.Number().Minor
	m.board.writeBack(minor, 0, 1<<62)
	m.board.pages.forget(func(p page, _ *cached) bool { return p.minor == minor })
	delete(m.open, target)
	m.entries = slices.DeleteFunc(m.entries, func(e mount.Entry) bool { return e.Target == target })
	err := f.Flush()
	for _, other := range m.open {
		if other == f {
			return err
		}
	}
	if slices.ContainsFunc(m.Copies, func(e mount.Entry) bool { return e.Minor == minor }) {
		return err // the filesystem is in use there
	}
	return errors.Join(err, f.Close())
}

// Idle implements volume.Mounts.
func (m *Mounts) Idle(target string) error {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	return m.idle(target)
}

func (m *Mounts) idle(target string) error {
	if use, ok := m.Uses[target]; ok {
		return &mount.BusyError{Target: target, Users: mount.Users{Processes: []mount.Process{{PID: 4711, Command: use, How: "open file", Path: target + "/file"}}}, Err: unix.EBUSY}
	}
	return nil
}

// Elsewhere implements volume.Mounts.
func (m *Mounts) Elsewhere(chosen func(*mount.Entry) bool) error {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	for i := range m.Copies {
		if chosen(&m.Copies[i]) {
			return &mount.ElsewhereError{Target: m.Copies[i].Target, Processes: []mount.Process{{PID: 812, Command: "containerd"}}}
		}
	}
	return nil
}

// Cover mounts something that is not on the board's disks over whatever is mounted on
// target.
func (m *Mounts) Cover(target string) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	m.entries = append(m.entries, mount.Entry{Minor: 77, Root: "/", Target: target, Source: "tmpfs", Type: "tmpfs"})
}

// Uncover removes that mount.
func (m *Mounts) Uncover(target string) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	m.entries = slices.DeleteFunc(m.entries, func(e mount.Entry) bool { return e.Target == target && e.Source == "tmpfs" })
}

// Change changes the entry of a mount in the table.
func (m *Mounts) Change(target string, change func(*mount.Entry)) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	for i := range m.entries {
		if m.entries[i].Target == target {
			change(&m.entries[i])
		}
	}
}

// List implements volume.Mounts.
func (m *Mounts) List() ([]mount.Entry, error) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	return slices.Clone(m.entries), nil
}

// of lists the mounts of a mapping.
func (m *Mounts) of(n dmcrypt.Number) (list []blockdev.Mounted) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	for _, e := range m.entries {
		if e.Major == n.Major && e.Minor == n.Minor {
			list = append(list, blockdev.Mounted{Device: fmt.Sprintf("dm-%d", n.Minor), Target: e.Target, Type: e.Type})
		}
	}
	return list
}

// Look implements volume.Mounts.
func (m *Mounts) Look(target string) (mount.Target, error) {
	m.mountMu.Lock()
	defer m.mountMu.Unlock()
	for _, e := range slices.Backward(m.entries) { // the topmost
		if e.Target == target {
			return mount.Target{Path: target, State: mount.TargetOccupied, Mounted: &e}, nil
		}
	}
	if !slices.Contains(m.board.Directories, target) {
		return mount.Target{Path: target, State: mount.TargetMissing}, nil
	}
	return mount.Target{Path: target, State: mount.TargetFree}, nil
}

// InFstab implements volume.Mounts.
func (m *Mounts) InFstab(file string) (string, error) {
	if m.Fstab != "" && strings.HasPrefix(file, m.Fstab+"/") {
		return m.Fstab, nil
	}
	return "", nil
}

// Mapping opens a public mapping, as a user of the volume does.
func (b *Board) Mapping(name string, write bool) (*dmtest.File, error) {
	return b.DM.Open(b.DM.Node(name), write)
}

// KeyOf returns the key reference of a live crypt table.
func (b *Board) KeyOf(name string) (dmcrypt.KeyRef, error) {
	t, err := b.DM.Table(name)
	if err != nil {
		return dmcrypt.KeyRef{}, err
	}
	for _, target := range t {
		if c, ok := target.(dmcrypt.Crypt); ok {
			return c.Key, nil
		}
	}
	return dmcrypt.KeyRef{}, fmt.Errorf("%s has no crypt target", name)
}

// Room implements volume.Filesystems.
func (f filesystems) Room(dir string, need int64) error {
	if f.NoRoom != nil {
		return f.NoRoom(dir, need)
	}
	return nil
}

// Sound implements volume.Filesystems, with the real program.
func (f filesystems) Sound(ctx context.Context, device string) error {
	return f.inFile(device, func(path, _ string) error { return mkfs.Maker{}.Sound(ctx, path) })
}

// Shrink implements volume.Filesystems, with the real programs.
func (f filesystems) Shrink(ctx context.Context, device, _ string, size int64) (log []byte, err error) {
	if err := f.step("resize a copy of " + device); err != nil {
		return nil, err
	}
	err = f.inFile(device, func(path, work string) (err error) {
		log, err = mkfs.Maker{}.Shrink(ctx, path, work, size)
		return err
	})
	return log, err
}

// inFile copies the content of a disk to a file of this system and calls do with it. work
// is a directory that do may make.
func (f filesystems) inFile(device string, do func(path, work string) error) (err error) {
	dir, err := os.MkdirTemp("", "volumetest")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	dev, err := devices(f).Open(device, blockdev.Flags{})
	if err != nil {
		return err
	}
	b := make([]byte, dev.Size())
	_, err = dev.ReadAt(b, 0)
	path := filepath.Join(dir, "device")
	if err = errors.Join(err, dev.Close()); err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return err
	}
	return do(path, filepath.Join(dir, "work"))
}
