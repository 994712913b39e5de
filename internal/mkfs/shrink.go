// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/ext4shrink"
	"imxcrypt/internal/fault"
)

// maxDump is how much of the output of dumpe2fs and resize2fs is kept. It has to be all
// of it: no block may be written without knowing which ones are free.
const maxDump = 64 << 20

// shrinkTries is how often another size is tried: resize2fs gives up a last group that
// would be too small for what belongs in it.
const shrinkTries = 4

// Room checks that Shrink's programs are there, and that dir, or the folder that it will
// be made in, belongs to root, is on storage that survives a power cut, and has room for
// need bytes.
func (m Maker) Room(dir string, need int64) error {
	for _, name := range []string{"e2fsck", "e2image", "resize2fs", "dumpe2fs"} {
		if _, err := m.Programs.Find(name); err != nil {
			return &Error{Op: "make an ext4 filesystem smaller", Code: fault.CodeOf(err), Err: err}
		}
	}
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for ; errors.Is(err, unix.ENOENT) && len(dir) > 1; err = unix.Statfs(dir, &st) {
		dir = filepath.Dir(dir)
	}
	what, free, kind := "", int64(st.Bavail)*int64(st.Bsize), uint32(st.Type)
	switch {
	case err != nil:
		return fmt.Errorf("look at %s: %w", dir, err)
	case kind == unix.TMPFS_MAGIC, kind == unix.RAMFS_MAGIC:
		what = "is in memory, which is lost in a power cut"
	case kind == unix.OVERLAYFS_SUPER_MAGIC:
		what = "is an overlay, of which the upper layer may be in memory"
	case kind == unix.MSDOS_SUPER_MAGIC:
		what = "is a vfat filesystem, which has no sparse files"
	case st.Flags&unix.ST_RDONLY != 0:
		what = "is read-only"
	case free < need:
		return fault.Newf(fault.StorageFull, "%s has %d bytes free, and about %d are needed", dir, free, need)
	default:
		return atomicfile.TrustedFolder(dir)
	}
	return fault.Newf(fault.ShrinkRefused, "%s %s: name a folder on other storage (--workspace)", dir, what)
}

// Sound checks that the checker of ext4 finds nothing wrong on a device, without writing
// to it.
func (m Maker) Sound(ctx context.Context, device string) error {
	if _, err := m.Programs.Run(ctx, "e2fsck", "-f", "-n", device); err != nil {
		code := fault.CodeOf(err)
		if code == fault.ProgramFailed {
			code = fault.FilesystemUnclean
		}
		return &Error{Op: "check ext4 on " + device, Code: code, Err: err}
	}
	return nil
}

// ShrinkCopy is the file that Shrink works on.
const ShrinkCopy = "metadata"

// Shrink finds out how the ext4 filesystem on a device fits into size bytes, and writes
// nothing to the device. It works in the folder work, which it removes with everything in
// it. It returns a log for package ext4shrink, which is valid as long as nothing writes
// to the device.
func (m Maker) Shrink(ctx context.Context, device, work string, size int64) (log []byte, err error) {
	op := "make the ext4 filesystem on " + device + " smaller"
	l, err := m.shrink(ctx, device, work, size)
	if err != nil {
		code := fault.CodeOf(err)
		switch {
		case errors.Is(err, unix.ENOSPC):
			code = fault.StorageFull
		case code == fault.Failed, code == fault.ProgramFailed:
			code = fault.ShrinkRefused
		}
		return nil, &Error{Op: op, Code: code, Err: err}
	}
	return l.Encode(), nil
}

func (m Maker) shrink(ctx context.Context, device, work string, size int64) (l *ext4shrink.Log, err error) {
	dev, err := os.Open(device)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	super, err := ext4shrink.ReadSuper(dev)
	if err == nil {
		err = super.Tried()
	}
	if err == nil {
		err = m.Sound(ctx, device)
	}
	path := filepath.Join(work, ShrinkCopy)
	clear := func() error { return errors.Join(gone(path), gone(work)) }
	if err == nil {
		err = clear() // what an interrupted run left
	}
	if err == nil {
		err = atomicfile.Kernel().MkdirAll(filepath.Dir(work), 0o700)
	}
	if err == nil {
		err = os.Mkdir(work, 0o700) // fails if it exists: another user could see and change what is in it
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clear()) }()
	c := shrinking{Maker: m, dev: dev, super: super, path: path}
	c.Programs.Keep = maxDump
	blocks := size / super.Block
	for range shrinkTries {
		var left int64
		if l, left, err = c.try(ctx, blocks); err != nil || left == blocks {
			return l, err
		}
		blocks = left
	}
	return nil, fmt.Errorf("resize2fs chooses another size each time, at last %d blocks", blocks)
}

// gone removes a file or a folder, if it is there.
func gone(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// shrinking is one filesystem to be made smaller.
type shrinking struct {
	Maker
	dev   *os.File
	super ext4shrink.Super
	path  string // of the copy
}

// try resizes a copy of the metadata. left is how many blocks resize2fs leaves. If that
// is not what was asked for, there is no log, because too little was copied.
func (s *shrinking) try(ctx context.Context, blocks int64) (l *ext4shrink.Log, left int64, err error) {
	// An existing file would keep its blocks where e2image leaves holes.
	if err := gone(s.path); err != nil {
		return nil, 0, err
	}
	if _, err := s.Programs.Run(ctx, "e2image", "-r", s.dev.Name(), s.path); err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	dumped, err := s.run(ctx, "dumpe2fs", s.path)
	if err == nil {
		err = f.Truncate(s.super.Size())
	}
	if err == nil {
		err = s.copy(f, blocks, s.super.Blocks-1)
	}
	for _, run := range ext4shrink.Backups(dumped) {
		if err == nil {
			err = s.copy(f, run[0], min(run[1], s.super.Blocks-1))
		}
	}
	if err != nil {
		return nil, 0, err
	}
	c, err := ext4shrink.NewCopy(f, dumped)
	if err != nil {
		return nil, 0, err
	}
	output, err := s.run(ctx, "resize2fs", "-f", "-d", "2", s.path, strconv.FormatInt(blocks, 10))
	if err != nil {
		return nil, 0, err
	}
	now, err := ext4shrink.ReadSuper(f)
	if err != nil || now.Blocks != blocks {
		if now.Blocks > blocks {
			err = fmt.Errorf("resize2fs has left %d blocks, and %d are wanted", now.Blocks, blocks)
		}
		return nil, now.Blocks, err
	}
	if err := ext4shrink.Moved(output, blocks); err != nil {
		return nil, 0, err
	}
	if err := s.Sound(ctx, s.path); err != nil {
		return nil, 0, fmt.Errorf("resize2fs has not left a sound filesystem: %w", err)
	}
	if dumped, err = s.run(ctx, "dumpe2fs", s.path); err != nil {
		return nil, 0, err
	}
	size, err := s.dev.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, err
	}
	l, err = c.Log(s.dev, size, dumped)
	return l, blocks, err
}

// run returns everything that a program prints.
func (s *shrinking) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	r, err := s.Programs.Run(ctx, name, args...)
	if err == nil && len(r.Stdout) >= maxDump {
		err = fmt.Errorf("%s says more than %d bytes: the filesystem lies in too many pieces", name, maxDump)
	}
	return r.Stdout, err
}

// copy copies the blocks from first to last. Blocks of zeros stay holes.
func (s *shrinking) copy(f *os.File, first, last int64) error {
	block, zeros := make([]byte, s.super.Block), make([]byte, s.super.Block)
	for at := first * s.super.Block; at <= last*s.super.Block; at += s.super.Block {
		if _, err := s.dev.ReadAt(block, at); err != nil {
			return err
		}
		if bytes.Equal(block, zeros) {
			continue
		}
		if _, err := f.WriteAt(block, at); err != nil {
			return err
		}
	}
	return nil
}
