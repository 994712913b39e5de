// SPDX-License-Identifier: Apache-2.0

//go:build vm

package mkfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/blockdev/blocktest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
)

// A filesystem that is mounted and written to, or was when power was cut, still proves
// itself: the boot decides by that whether the key is right.
func TestSuperblockProvesItselfInUse(t *testing.T) {
	for fstype, size := range map[string]int64{"ext4": 32 << 20, "f2fs": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20, "vfat": 32 << 20} {
		t.Run(fstype, func(t *testing.T) {
			path := blocktest.Loop(t, size, blocktest.Options{BlockSize: 4096})
			o := mkfs.Options{Label: "data", SectorSize: 4096}
			if err := (mkfs.Maker{}).Make(t.Context(), fstype, path, o); err != nil {
				t.Fatal(err)
			}
			want := probe(t, path, fstype)
			target := filepath.Join(t.TempDir(), "m")
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := (mount.System{}).Mount(path, target, fstype, nil); err != nil {
				t.Fatal(err)
			}
			for i := range 5 {
				f, err := os.Create(filepath.Join(target, string(rune('a'+i))))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.Write(make([]byte, 50_000)); err != nil {
					t.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				_ = f.Close()
				got := probe(t, path, fstype)
				same(t, "mounted", got, want)
				if got.Unclean != (fstype == fsprobe.Ext4) {
					t.Errorf("mounted, unclean: %v", got.Unclean)
				}
			}
			if err := (mount.System{}).Unmount(target); err != nil {
				t.Fatal(err)
			}
			same(t, "unmounted", probe(t, path, fstype), want)
			if got := probe(t, path, fstype); got.NeedsCheck || got.Unclean {
				t.Error("needs a check after a clean unmount")
			} else if got.Mounted != (fstype == fsprobe.Ext4) {
				t.Errorf("says that it was mounted: %v", got.Mounted)
			}
			if _, err := (mkfs.Maker{}).Check(t.Context(), fstype, path); err != nil {
				t.Error(err)
			}
		})
	}
}

func probe(t *testing.T, path, fstype string) fsprobe.Superblock {
	t.Helper()
	d, err := blockdev.System{}.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sb, err := fsprobe.ReadType(d, d.Size(), fstype)
	if err != nil {
		t.Fatal(err)
	}
	return *sb
}

func same(t *testing.T, when string, got, want fsprobe.Superblock) {
	t.Helper()
	// A mounted vfat is marked dirty, a mounted ext4 records the mount, and that its
	// journal may have to be replayed.
	got.NeedsCheck, want.NeedsCheck = false, false
	got.Mounted, want.Mounted = false, false
	got.Unclean, want.Unclean = false, false
	if got != want || !got.Verified {
		t.Fatalf("%s\n got %+v\nwant %+v", when, got, want)
	}
}

func TestMakeOnAMountedDevice(t *testing.T) {
	path := blocktest.Loop(t, 16<<20, blocktest.Options{})
	if err := (mkfs.Maker{}).Make(t.Context(), "ext4", path, mkfs.Options{}); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if err := (mount.System{}).Mount(path, target, "ext4", nil); err != nil {
		t.Fatal(err)
	}
	if err := (mkfs.Maker{}).Make(t.Context(), "ext4", path, mkfs.Options{}); fault.CodeOf(err) != fault.ProgramFailed {
		t.Errorf("made over a mounted filesystem: %v", err)
	}
	if err := (mount.System{}).Unmount(target); err != nil {
		t.Fatal(err)
	}
}
