// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package mkfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/program"
)

const uuid = "0f5c7d1e-3b2a-4c8d-9e6f-a1b2c3d4e5f6"

func TestArguments(t *testing.T) {
	t.Parallel()
	const lazy = "nodiscard,lazy_itable_init=1,lazy_journal_init=0"
	for _, c := range []struct {
		fstype string
		o      Options
		want   string
	}{
		{"ext4", Options{}, "-F -q -E " + lazy},
		{"ext4", Options{Label: "data", UUID: uuid, SectorSize: 512}, "-F -q -E " + lazy + " -L data -U " + uuid},
		{"ext4", Options{SectorSize: 4096}, "-F -q -E " + lazy + " -b 4096"},
		{"ext4", Options{SectorSize: 4096, Extra: []string{"-b", "4096", "-m", "0"}}, "-F -q -E " + lazy + " -b 4096 -m 0"},
		{"ext4", Options{SectorSize: 4096, Extra: []string{"-b", "-4096"}}, "-F -q -E " + lazy + " -b -4096"},
		{"ext4", Options{Extra: []string{"-E", "stride=4", "-m0", "-Elazy_itable_init=0"}}, "-F -q -E " + lazy + ",stride=4,lazy_itable_init=0 -m0"},
		{"f2fs", Options{Label: "data", UUID: uuid, SectorSize: 4096}, "-f -q -t 0 -l data -U " + uuid},
		{"xfs", Options{Label: "data", UUID: uuid, SectorSize: 4096}, "-f -q -K -s size=4096 -m uuid=" + uuid + " -L data"},
		{"xfs", Options{SectorSize: 512}, "-f -q -K"},
		{"xfs", Options{UUID: uuid, Extra: []string{"-m", "crc=1"}}, "-f -q -K -m uuid=" + uuid + " -m crc=1"},
		{"btrfs", Options{Label: "data", UUID: uuid, SectorSize: 4096}, "-f -q -K -L data -U " + uuid},
		{"vfat", Options{Label: "data", UUID: "1A2B-3C4D", SectorSize: 4096}, "-I -S 4096 -i 1A2B3C4D -n DATA"},
		{"vfat", Options{Extra: []string{"-F", "32"}}, "-I -F 32"},
	} {
		fs, _ := typeOf(c.fstype)
		got, err := fs.arguments(c.o)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s %+v:\n got %q, %v\nwant %q", c.fstype, c.o, strings.Join(got, " "), err, c.want)
		}
	}
}

func TestArgumentsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fstype string
		o      Options
	}{
		{"ext4", Options{Label: strings.Repeat("l", 17)}},
		{"xfs", Options{Label: strings.Repeat("l", 13)}},
		{"vfat", Options{Label: strings.Repeat("l", 12)}},
		{"ext4", Options{Label: "-F"}},
		{"ext4", Options{Label: "a\nb"}},
		{"ext4", Options{UUID: "--help"}},
		{"vfat", Options{UUID: uuid}},
		{"ext4", Options{SectorSize: 4096, Extra: []string{"-b", "1024"}}},
		{"ext4", Options{SectorSize: 4096, Extra: []string{"-b2048"}}},
		{"xfs", Options{SectorSize: 4096, Extra: []string{"-s", "size=512"}}},
		{"vfat", Options{SectorSize: 4096, Extra: []string{"-S", "512"}}},
		{"btrfs", Options{Extra: []string{""}}},
		// What the configuration refuses is refused from any other caller, too.
		{"xfs", Options{UUID: uuid, Extra: []string{"-m", "crc=1,uuid=generate"}}},
		{"ext4", Options{Extra: []string{"-E", "offset=4096"}}},
		{"ext4", Options{Extra: []string{"/dev/sda"}}},
		{"f2fs", Options{Label: strings.Repeat("l", 256)}},
		{"btrfs", Options{Label: "a/b"}},
		{"ntfs", Options{}},
	} {
		err := Maker{}.Make(t.Context(), c.fstype, "/nonexistent", c.o)
		var bad *OptionError
		if !errors.As(err, &bad) || fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%s %+v: %v, want an *OptionError", c.fstype, c.o, err)
		}
	}
}

// A program that cannot be given a UUID makes the filesystem with its own.
func TestAProgramWithoutUUIDs(t *testing.T) {
	t.Parallel()
	for message, retried := range map[string]bool{
		"mkfs.f2fs: invalid option -- 'U'":          true,
		"mkfs.f2fs: unrecognized option: U":         true,
		"ERROR: non-unique UUID: " + uuid:           true,
		"Error: the device is too small for f2fs U": false,
	} {
		t.Run(message, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			device := filepath.Join(dir, "device")
			script := "#!/bin/sh\ncase \"$*\" in *-U*) echo \"" + message + "\" >&2; exit 1;; esac\n"
			for path, mode := range map[string]os.FileMode{device: 0o600, filepath.Join(dir, "mkfs.f2fs"): 0o700} {
				if err := os.WriteFile(path, []byte(script), mode); err != nil {
					t.Fatal(err)
				}
			}
			m := Maker{Programs: program.Runner{Dirs: []string{dir, "/usr/bin", "/bin"}}}
			if err := m.Make(t.Context(), "f2fs", device, Options{UUID: uuid}); (err == nil) != retried {
				t.Fatalf("retried %v: %v", !retried, err)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext4", "f2fs", "xfs", "btrfs", "vfat"} {
		mkfs, _ := Programs(fstype)
		if !Known(fstype) || mkfs != "mkfs."+fstype || FitLabel(fstype, "data") != "data" || !fsprobe.Known(fstype) {
			t.Errorf("%s: %v, %q", fstype, Known(fstype), mkfs)
		}
	}
	if Known("none") || Known("") || FitLabel("none", "data") != "" {
		t.Error("none is known")
	}
}

// TestRealPrograms makes each filesystem on a file, over another one, and
// reads back what was asked for.
func TestRealPrograms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fstype string
		size   int64
		o      Options
		want   fsprobe.Superblock
	}{
		{"ext4", 16 << 20, Options{Label: "data", UUID: uuid, SectorSize: 4096}, fsprobe.Superblock{Label: "data", UUID: uuid, BlockSize: 4096}},
		{"f2fs", 64 << 20, Options{Label: "data", UUID: uuid, SectorSize: 4096}, fsprobe.Superblock{Label: "data", UUID: uuid, BlockSize: 4096}},
		{"xfs", 320 << 20, Options{Label: "data", UUID: uuid, SectorSize: 4096}, fsprobe.Superblock{Label: "data", UUID: uuid, BlockSize: 4096}},
		{"btrfs", 128 << 20, Options{Label: "data", UUID: uuid, SectorSize: 4096}, fsprobe.Superblock{Label: "data", UUID: uuid, BlockSize: 4096}},
		{"vfat", 64 << 20, Options{Label: "data", UUID: "1A2B-3C4D", SectorSize: 4096}, fsprobe.Superblock{Label: "DATA", UUID: "1A2B-3C4D", BlockSize: 16384}},
	} {
		t.Run(c.fstype, func(t *testing.T) {
			t.Parallel()
			mkfs, fsck := Programs(c.fstype)
			for _, p := range []string{mkfs, fsck} {
				if _, err := (program.Runner{}).Find(p); err != nil && p != "" {
					t.Skipf("NOT TESTED HERE: %v", err)
				}
			}
			path := image(t, c.size)
			for range 2 { // the second time there is a filesystem already
				if err := (Maker{}).Make(t.Context(), c.fstype, path, c.o); err != nil {
					t.Fatal(err)
				}
			}
			got := probe(t, path)
			if got.Type != c.fstype || got.Label != c.want.Label || got.UUID != c.want.UUID || got.BlockSize != c.want.BlockSize || !got.Verified {
				t.Errorf("%+v", got)
			}
			if repaired, err := (Maker{}).Check(t.Context(), c.fstype, path); repaired || err != nil {
				t.Errorf("check of a new filesystem: %v, %v", repaired, err)
			}
		})
	}
}

// By default, mke2fs uses blocks of 1 KiB for a small device.
func TestSmallExt4KeepsTheSectorSize(t *testing.T) {
	t.Parallel()
	path := image(t, 8<<20)
	if err := (Maker{}).Make(t.Context(), "ext4", path, Options{SectorSize: 512}); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, path); got.BlockSize != 1024 {
		t.Errorf("premise: blocks of %d bytes", got.BlockSize)
	}
	if err := (Maker{}).Make(t.Context(), "ext4", path, Options{SectorSize: 4096}); err != nil {
		t.Fatal(err)
	}
	if got := probe(t, path); got.BlockSize != 4096 {
		t.Errorf("blocks of %d bytes", got.BlockSize)
	}
}

// A device that fits into one block group has a backup of the superblock, from which
// e2fsck repairs it.
func TestSmallExt4HasABackupSuperblock(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{16 << 20, 62 << 20, 100<<20 + 12288, 128 << 20} {
		path := image(t, size)
		o := Options{SectorSize: 4096}
		if err := (Maker{}).Make(t.Context(), "ext4", path, o); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 8192), 0); err != nil {
			t.Fatal(err)
		}
		// Half of the blocks, rounded up to a multiple of 8.
		backup := strconv.FormatInt((size/4096+15)/16*8, 10)
		_, err = (program.Runner{}).Run(t.Context(), "e2fsck", "-f", "-y", "-b", backup, "-B", "4096", path)
		var exit *program.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := probe(t, path); got.Type != "ext4" || !got.Verified {
			t.Errorf("%d bytes, backup at %s: %+v, %v", size, backup, got, err)
		}
		if repaired, err := (Maker{}).Check(t.Context(), "ext4", path); repaired || err != nil {
			t.Errorf("%d bytes, after the repair: %v, %v", size, repaired, err)
		}
	}
	// The configuration has precedence.
	for _, o := range []Options{{SectorSize: 4096, Extra: []string{"-g", "8192"}}, {SectorSize: 512}} {
		if o.size = 62 << 20; ext4Group(o) != 0 {
			t.Errorf("%+v: %d", o, ext4Group(o))
		}
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	path := image(t, 8<<20)
	if err := (Maker{}).Make(t.Context(), "ext4", path, Options{SectorSize: 4096}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// This is the first copy of everything. There is no second group with a backup, so it
	// is beyond repair without questions.
	if _, err := f.WriteAt(make([]byte, 12<<10), 0); err != nil {
		t.Fatal(err)
	}
	_, err = Maker{}.Check(t.Context(), "ext4", path)
	var e *Error
	if !errors.As(err, &e) || fault.CodeOf(err) != fault.ProgramFailed || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func TestMakeFails(t *testing.T) {
	t.Parallel()
	path := image(t, 4096) // too small for any filesystem
	err := Maker{}.Make(t.Context(), "ext4", path, Options{})
	var exit *program.ExitError
	if !errors.As(err, &exit) || fault.CodeOf(err) != fault.ProgramFailed || !strings.HasPrefix(err.Error(), "make ext4 on "+path+": mkfs.ext4 failed") {
		t.Errorf("%v", err)
	}
	m := Maker{Programs: program.Runner{Dirs: []string{t.TempDir()}}}
	if err := m.Make(t.Context(), "ext4", path, Options{}); fault.CodeOf(err) != fault.ProgramMissing {
		t.Errorf("without the program: %v", err)
	}
	if _, err := m.Check(t.Context(), "ext4", path); fault.CodeOf(err) != fault.ProgramMissing {
		t.Errorf("check without the program: %v", err)
	}
	if _, err := m.Check(t.Context(), "xfs", path); err != nil {
		t.Errorf("xfs needs no checker: %v", err)
	}
}

func TestExitStatusOfCheckers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fstype   string
		status   string // of the first run and of those after it
		again    string
		repaired bool
		code     fault.Code
	}{
		{"ext4", "0", "0", false, ""},
		{"ext4", "1", "0", true, ""},
		{"ext4", "3", "0", true, ""},
		{"ext4", "4", "4", false, fault.ProgramFailed},
		{"ext4", "5", "4", true, fault.ProgramFailed},
		{"ext4", "8", "8", false, fault.ProgramFailed},
		{"ext4", "32", "32", false, fault.Interrupted},
		{"ext4", "64", "64", false, fault.ProgramFailed},
		{"f2fs", "1", "0", true, ""},
		{"f2fs", "255", "255", false, fault.ProgramFailed},
		{"vfat", "0", "0", false, ""},
		{"vfat", "1", "0", true, ""},
		{"vfat", "1", "1", false, fault.ProgramFailed},
		{"vfat", "2", "2", false, fault.ProgramFailed},
	} {
		_, fsck := Programs(c.fstype)
		dir := t.TempDir()
		body := "#!/bin/sh\nif [ -e " + dir + "/again ]; then exit " + c.again + "; fi\n: >" + dir + "/again\nexit " + c.status + "\n"
		syscall.ForkLock.RLock() // see program's tests: no ETXTBSY
		err := os.WriteFile(filepath.Join(dir, fsck), []byte(body), 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
		m := Maker{Programs: program.Runner{Dirs: []string{dir}}}
		repaired, err := m.Check(t.Context(), c.fstype, "/dev/none")
		if repaired != c.repaired || fault.CodeOf(err) != c.code {
			t.Errorf("%s with status %s: %v, %v", c.fstype, c.status, repaired, err)
		}
	}
}

func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func probe(t *testing.T, path string) *fsprobe.Superblock {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sb, err := fsprobe.Read(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return sb
}
