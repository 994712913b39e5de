// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/ext4shrink"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume/header"
)

// A filesystem that leaves no room for a header on the device is made smaller first,
// before there is a key. Wherever that is interrupted, the device is the filesystem as it
// was, or has the mark of package ext4shrink, by which the next Encrypt finishes from the
// log, or is the smaller filesystem.

// waysOut is what helps if a filesystem is not made smaller.
const waysOut = "make the partition larger, or set header: /path/of/a/file, which needs no room"

const (
	logSuffix  = ".shrink"
	workSuffix = ".shrinking" // of the directory with the copy
	logSum     = 8            // bytes of a log's hash in its name
)

// workspace returns the directory for the log and the copy of the metadata.
func (x *rotating) workspace() string {
	if x.o.Workspace != "" {
		return x.o.Workspace
	}
	return x.s.StateDir
}

// logOf returns the file for a log. No other log has the same name, so a log that another
// device still needs is not overwritten.
func (x *rotating) logOf(log []byte) string {
	sum := sha256.Sum256(log)
	return filepath.Join(x.workspace(), fmt.Sprintf("%s-%x%s", x.s.Name, sum[:logSum], logSuffix))
}

// namesLog reports whether name is one that logOf gives for this volume. A name of
// another volume may begin the same way, as data-b does for data.
func (x *rotating) namesLog(name string) bool {
	rest, ours := strings.CutSuffix(name, logSuffix)
	sum, named := strings.CutPrefix(rest, x.s.Name+"-")
	b, err := hex.DecodeString(sum)
	return ours && named && err == nil && len(b) == logSum
}

// mayShrink checks that the filesystem can be expected to shrink to shrinkTo. To be
// certain takes a copy of its metadata.
func (x *rotating) mayShrink(path string) (err error) {
	dev, err := x.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	super, err := ext4shrink.ReadSuper(dev)
	if x.unclean {
		super = super.Checked() // as it will be by then
	}
	if err == nil {
		err = super.Tried()
	}
	switch {
	case err != nil:
		return fault.New(fault.ShrinkRefused, fmt.Sprintf("the ext4 filesystem on %s has %d bytes, and a header on the device needs it to have %d at most; it is not made smaller: %s", path, super.Size(), x.shrinkTo, waysOut), err)
	case !x.unclean && super.Used() > x.shrinkTo: // of an unclean one the checker counts
		return fault.Newf(fault.ShrinkRefused, "the ext4 filesystem on %s has %d bytes in use, and a header on the device needs it to have %d at most: delete files, %s", path, super.Used(), x.shrinkTo, waysOut)
	case super.Block < int64(dev.LogicalBlockSize()):
		return fault.Newf(fault.DeviceUnsuitable, "the ext4 filesystem on %s has blocks of %d bytes, and the device sectors of %d", path, super.Block, dev.LogicalBlockSize())
	case len(x.logOf(nil)) > ext4shrink.MaxPath:
		return fault.Newf(fault.ShrinkRefused, "the path of %s is too long for a workspace", x.workspace())
	}
	if why := x.sys.Fleeting(x.workspace()); why != "" {
		return fault.Newf(fault.ShrinkRefused, "%s %s: name a folder on other storage (--workspace)", x.workspace(), why)
	}
	x.shrinkNeed = super.Need(x.shrinkTo)
	return x.sys.Filesystems.Room(x.workspace(), x.shrinkNeed)
}

// announceShrink announces the step that a dry run found.
func (x *rotating) announceShrink(path string) {
	x.j.would(fmt.Sprintf("check the ext4 filesystem on %s, and make it smaller: from %d to %d bytes; the copy of its metadata and the log take about %d bytes in %s", path, x.shrinkFrom, x.shrinkTo, x.shrinkNeed, x.workspace()))
}

// shrink makes the filesystem as small as shrinkTo, on a device that no one else uses:
//
//  1. it is checked, and resized in a copy of its metadata; the difference becomes a log
//  2. the log is stored, and read back
//  3. a mark on the device says that the log is being written
//  4. the log is written to the device; last, the superblock replaces the mark
func (x *rotating) shrink(ctx context.Context, path string) (err error) {
	dev, err := x.sys.Devices.Open(path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if _, err := x.plainFilesystem(dev); err != nil {
		return err
	}
	log, err := x.sys.Filesystems.Shrink(ctx, path, filepath.Join(x.workspace(), x.s.Name+workSuffix), x.shrinkTo)
	if err != nil {
		return err
	}
	x.j.did("filesystem checked, and resized in a copy of its metadata")
	file := x.logOf(log)
	if err := x.sys.Files.Replace(file, log, 0o600); err != nil {
		return err
	}
	stored, err := x.readLog(file)
	if err == nil && !bytes.Equal(stored, log) {
		err = fault.Newf(fault.IOFailed, "%s does not read back as it was written", file)
	}
	if err == nil {
		err = ctx.Err()
	}
	var mark ext4shrink.Mark
	if err == nil {
		if mark, err = ext4shrink.Begin(dev, stored, file); err != nil {
			return err // the mark may be there
		}
		return x.finishShrink(ctx, dev, mark, stored, file)
	}
	return errors.Join(err, x.sys.Files.Remove(file))
}

// dropLogs removes what interrupted runs have left: it is in plaintext, and useless if no
// mark names it. A log that may be another device's stays. A log that was written to the
// end is removed only once the checker has found nothing wrong.
func (x *rotating) dropLogs(ctx context.Context, path string) error {
	dev, err := x.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	super, other := ext4shrink.ReadSuper(dev)
	if err := dev.Close(); err != nil || other != nil {
		return err
	}
	for _, dir := range slices.Compact([]string{x.workspace(), x.s.StateDir}) {
		names, err := x.sys.Files.List(dir)
		if err != nil {
			return fmt.Errorf("look for what was left in %s: %w", dir, err)
		}
		for _, name := range names {
			if !x.namesLog(name) {
				continue
			}
			file := filepath.Join(dir, name)
			var l *ext4shrink.Log
			stored, err := x.readLog(file)
			if err == nil {
				l, err = ext4shrink.Decode(stored)
			}
			if err != nil || l.UUID != super.UUID || l.Device != dev.Size() {
				x.j.warn(fmt.Sprintf("%s, of an encryption that was interrupted, is left alone: it is not known to be this device's", file))
				continue
			}
			if l.Blocks == super.Blocks {
				if err := x.sys.Filesystems.Sound(ctx, path); err != nil {
					return err
				}
			}
			if err := x.sys.Files.Remove(file); err != nil {
				return err
			}
		}
		// The directory exists only if a run was interrupted.
		err = x.sys.Files.Remove(filepath.Join(dir, x.s.Name+workSuffix, mkfs.ShrinkCopy))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (x *rotating) readLog(file string) ([]byte, error) {
	return x.sys.Files.Read(file, atomicfile.ReadOptions{MaxSize: ext4shrink.MaxLog, RootOwned: true, Forbid: 0o022})
}

// finishShrink writes the log that the mark names. It cannot be cancelled: until it is
// done there is no filesystem.
func (x *rotating) finishShrink(ctx context.Context, dev header.Device, mark ext4shrink.Mark, log []byte, file string) error {
	if err := ext4shrink.Finish(dev, mark, log); err != nil {
		return fault.New(fault.ShrinkStarted, "write the log "+file+" to "+dev.Path(), err)
	}
	if err := x.sys.Filesystems.Sound(context.WithoutCancel(ctx), dev.Path()); err != nil {
		return err
	}
	x.j.did("ext4 filesystem made smaller")
	return x.sys.Files.Remove(file)
}

// continueShrink finishes making a filesystem smaller if that was interrupted.
func (x *rotating) continueShrink(ctx context.Context, path string) (found bool, err error) {
	dev, err := x.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return false, err
	}
	mark, found, err := ext4shrink.FindMark(dev)
	if err = errors.Join(err, dev.Close()); err != nil || !found {
		return false, err
	}
	file := mark.Path
	if x.o.Workspace != "" || x.unattended {
		// In an unattended run the device does not decide which file is opened: anyone
		// may have written the path there.
		file = filepath.Join(x.workspace(), filepath.Base(file))
	}
	if x.o.DryRun {
		x.j.would(fmt.Sprintf("finish making the filesystem on %s smaller, by the log %q", path, file))
		return true, nil
	}
	if dev, err = x.sys.Devices.Open(path, blockdev.Flags{Write: true, Exclusive: true, Direct: true}); err != nil {
		return true, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// Another process may have finished it meanwhile, and the filesystem may have been
	// mounted.
	if now, found, err := ext4shrink.FindMark(dev); err != nil || !found || now != mark {
		return true, fault.New(fault.DeviceInUse, fmt.Sprintf("another process has made the filesystem on %s smaller meanwhile", path), err)
	}
	log, err := x.readLog(file)
	switch {
	case err != nil:
		return true, fault.New(fault.ShrinkStarted, fmt.Sprintf("the filesystem on %s was being made smaller, and the log of that cannot be read: mount what %q lies on, or name its folder (--workspace)", path, file), err)
	case !mark.Names(log):
		return true, fault.Newf(fault.ShrinkStarted, "the filesystem on %s was being made smaller, and %q is not the log of that", path, file)
	}
	return true, x.finishShrink(ctx, dev, mark, log, file)
}
