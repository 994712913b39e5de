// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

const table = `22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:5 / /proc rw,nosuid,nodev,noexec,relatime shared:2 master:1 - proc proc rw
40 22 253:0 /sub\040dir /mnt/a\040b\011c\134d ro,noatime - ext4 /dev/mapper/data ro,errors=remount-ro
41 22 0:50 /@home /home rw - btrfs /dev/mmcblk2p4 rw,space_cache=v2,subvol=/@home
42 41 253:1 / /home rw unbindable - f2fs /dev/dm-1 rw
`

// fakeProc returns a /proc with that table of mounts.
func fakeProc(t *testing.T, mountinfo string) string {
	t.Helper()
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "self/mountinfo"), []byte(mountinfo), 0o644); err != nil {
		t.Fatal(err)
	}
	return proc
}

func TestList(t *testing.T) {
	t.Parallel()
	entries, err := ListAt(fakeProc(t, table))
	if err != nil || len(entries) != 5 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	want := Entry{
		ID: 40, Parent: 22, Major: 253, Minor: 0, Root: "/sub dir", Target: "/mnt/a b\tc\\d",
		Options: []string{"ro", "noatime"}, SuperOptions: []string{"ro", "errors=remount-ro"}, Type: "ext4", Source: "/dev/mapper/data",
	}
	if !reflect.DeepEqual(entries[2], want) {
		t.Errorf("\n got %+v\nwant %+v", entries[2], want)
	}
	if !entries[2].ReadOnly() || entries[0].ReadOnly() {
		t.Error("ReadOnly is wrong")
	}
	if own, err := (System{}).List(); err != nil || len(own) == 0 {
		t.Errorf("this system: %d entries, %v", len(own), err)
	}
}

func TestListDamaged(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"x", "22 1 8:2 / / rw", "22 1 8:2 / / rw shared:1 ext4 /dev/root rw", "22 1 8:2 / / rw - ext4 /dev/root",
		"a 1 8:2 / / rw - ext4 /dev/root rw", "22 b 8:2 / / rw - ext4 /dev/root rw", "22 1 82 / / rw - ext4 /dev/root rw",
		"22 1 8:-2 / / rw - ext4 /dev/root rw", strings.Repeat("x", maxLine+1),
	} {
		_, err := ListAt(fakeProc(t, table+line+"\n"))
		var bad *ListError
		if !errors.As(err, &bad) || bad.Line != 6 {
			t.Errorf("%.60q: %v", line, err)
		}
	}
	if _, err := ListAt(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /proc: %v", err)
	}
}

func FuzzParseLine(f *testing.F) {
	for _, l := range strings.Split(table, "\n") {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, line string) {
		e, err := parseLine(line)
		if err != nil && !reflect.DeepEqual(e, Entry{}) {
			t.Errorf("%+v with %v", e, err)
		}
		// The kernel escapes what would make a line ambiguous, so that an
		// entry without escapes is found in the line word by word.
		if err == nil && !strings.Contains(line, `\`) && !strings.Contains(line, " "+e.Target+" ") {
			t.Errorf("target %q is not in %q", e.Target, line)
		}
	})
}

func TestParseOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words string
		flags uintptr
		data  string
	}{
		{"", 0, ""},
		{"defaults", 0, ""},
		{"noatime nodev nosuid noexec ro", unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"ro rw", 0, ""},
		{"rw ro", unix.MS_RDONLY, ""},
		{"nosuid nodev defaults", 0, ""},
		{"noatime relatime", unix.MS_RELATIME, ""},
		{"strictatime lazytime", unix.MS_STRICTATIME | unix.MS_LAZYTIME, ""},
		{"sync dirsync nodiratime", unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_NODIRATIME, ""},
		{"noatime commit=30 discard errors=remount-ro", unix.MS_NOATIME, "commit=30,discard,errors=remount-ro"},
		{"nofail noauto _netdev x-systemd.device-timeout=5 X-mount.mkdir comment=hello", 0, ""},
	} {
		flags, data, err := ParseOptions(strings.Fields(c.words))
		if err != nil || flags != c.flags || data != c.data {
			t.Errorf("%q: %#x, %q, %v, want %#x, %q", c.words, flags, data, err, c.flags, c.data)
		}
	}
	for _, words := range [][]string{
		{"bind"}, {"remount", "ro"}, {"loop"}, {"user"}, {""}, {"a,b"}, {"a\x00b"}, {strings.Repeat("x", 4096)},
	} {
		_, _, err := ParseOptions(words)
		var bad *OptionError
		if !errors.As(err, &bad) || fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%.40q: %v, want an *OptionError", words, err)
		}
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"free", "used", "two words"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("used", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	proc := fakeProc(t, "40 22 253:0 / "+dir+"/used rw - ext4 /dev/mapper/first rw\n"+
		"41 40 253:1 / "+dir+"/used rw - ext4 /dev/mapper/second rw\n"+
		"42 22 253:2 / "+dir+"/two\\040words rw - xfs /dev/mapper/third rw\n")
	for _, c := range []struct {
		name   string
		state  TargetState
		source string
		code   fault.Code
	}{
		{"free", TargetFree, "", ""},
		{"missing", TargetMissing, "", fault.MountPointMissing},
		{"file", TargetNotDirectory, "", fault.MountPointMissing},
		{"file/below", TargetMissing, "", fault.MountPointMissing},
		{"used", TargetOccupied, "/dev/mapper/second", fault.MountPointOccupied},
		{"link", TargetOccupied, "/dev/mapper/second", fault.MountPointOccupied},
		{"two words", TargetOccupied, "/dev/mapper/third", fault.MountPointOccupied},
	} {
		got, err := LookAt(proc, filepath.Join(dir, c.name))
		if err != nil || got.State != c.state || (got.Mounted != nil) != (c.source != "") || got.Mounted != nil && got.Mounted.Source != c.source {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if fault.CodeOf(got.Usable()) != c.code {
			t.Errorf("%s: %v", c.name, got.Usable())
		}
	}
	if _, err := LookAt(proc, "relative"); fault.CodeOf(err) != fault.Usage {
		t.Errorf("a relative path: %v", err)
	}
}

func TestFindUsers(t *testing.T) {
	t.Parallel()
	proc := fakeProc(t, "40 22 253:0 / /data rw - ext4 /dev/mapper/data rw\n41 40 253:1 / /data/sub rw - ext4 /dev/sda1 rw\n42 22 8:1 / /database rw - ext4 /dev/sda2 rw\n")
	sys := t.TempDir()
	process := func(pid, comm string, links map[string]string, maps string) {
		t.Helper()
		dir := filepath.Join(proc, pid)
		if err := os.MkdirAll(filepath.Join(dir, "fd"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, target := range links {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{"comm": comm + "\n", "maps": maps} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	process("10", "shell", map[string]string{"cwd": "/data/dir", "root": "/", "exe": "/bin/sh"}, "")
	process("11", "logger", map[string]string{"cwd": "/", "root": "/", "exe": "/bin/logger", "fd/3": "/data/log (deleted)"}, "")
	process("12", "mapped", map[string]string{"cwd": "/", "root": "/", "exe": "/bin/x"},
		"00400000-00452000 r-xp 00000000 fd:00 173521 /data/lib with blank.so\n")
	process("13", "innocent", map[string]string{"cwd": "/database", "root": "/", "exe": "/bin/x", "fd/0": "/dev/null"}, "7f 0 /database/x\n")
	process("14", "chrooted", map[string]string{"cwd": "/", "root": "/data/root"}, "")
	loop := filepath.Join(sys, "block/loop3/loop")
	if err := os.MkdirAll(loop, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(loop, "backing_file"), []byte("/data/image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "swaps"), []byte("Filename Type\n/data/swap\\040file file 1 2 3\n/dev/sda3 partition 1 2 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u, err := findUsers(proc, sys, "/data")
	if err != nil {
		t.Fatal(err)
	}
	want := "process 10 (shell): working folder /data/dir, process 11 (logger): open file /data/log (deleted), " +
		"process 12 (mapped): mapped file /data/lib with blank.so, process 14 (chrooted): root folder /data/root, " +
		"mount on /data/sub, loop device loop3, swap file /data/swap file"
	if u.String() != want {
		t.Errorf("\n got %s\nwant %s", u, want)
	}
	busy := error(&BusyError{Target: "/data", Users: u, Err: unix.EBUSY})
	if !errors.Is(busy, unix.EBUSY) || fault.CodeOf(busy) != fault.MountBusy || !strings.Contains(busy.Error(), "shell") {
		t.Errorf("%v", busy)
	}
	for range 10 {
		u.Processes = append(u.Processes, u.Processes[0])
	}
	if s := u.String(); !strings.Contains(s, "9 more processes") {
		t.Errorf("with 14 processes: %s", s)
	}
}

// Look asks the kernel in a shorter way if that is enough. The list of all mounts must
// agree.
func TestLookAgreesWithTheListOfMounts(t *testing.T) {
	t.Parallel()
	entries, err := System{}.List()
	if err != nil {
		t.Fatal(err)
	}
	occupied := 0
	for i, e := range entries {
		hidden := slices.ContainsFunc(entries[i+1:], func(later Entry) bool {
			return strings.HasPrefix(e.Target, strings.TrimSuffix(later.Target, "/")+"/")
		})
		if st, err := os.Lstat(e.Target); hidden || err != nil || !st.IsDir() {
			continue // below another mount, or a mounted file
		}
		at, err := (System{}).Look(e.Target)
		if err != nil || at.State != TargetOccupied {
			t.Errorf("%s: %s, %v", e.Target, at.State, err)
		}
		occupied++
	}
	if occupied == 0 {
		t.Error("nothing is mounted: nothing was compared")
	}
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("/proc", link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]TargetState{
		dir: TargetFree, file: TargetNotDirectory, link: TargetOccupied, filepath.Join(dir, "missing"): TargetMissing,
	} {
		if at, err := (System{}).Look(path); err != nil || at.State != want {
			t.Errorf("%s: %s, %v; expected %s", path, at.State, err, want)
		}
	}
}

// EINVAL has several meanings, which the kernel's log distinguishes.
func TestWhatTheKernelSaidExplainsAFailedMount(t *testing.T) {
	t.Parallel()
	for messages, want := range map[string]fault.Code{
		"":                                    fault.FilesystemWrong,
		"ext4-fs (dm-0): bad block size 1024": fault.FilesystemWrong,
		"ext4-fs (dm-0): blocksize too small for device":                             fault.FilesystemWrong,
		"xfs (dm-0): device supports 4096 byte sectors (not 512)":                    fault.FilesystemWrong,
		"ext4: unknown parameter 'nosuchoption'":                                     fault.ConfigInvalid,
		"ext4-fs (dm-0): unrecognized mount option \"foo\" or missing value":         fault.ConfigInvalid,
		"jbd2: journal checksum error\next4-fs (dm-0): error loading journal":        fault.FilesystemDamaged,
		"f2fs-fs (dm-0): mismatch valid blocks\nf2fs-fs (dm-0): failed, corrupt":     fault.FilesystemDamaged,
		"ext4-fs (dm-0): ext4_check_descriptors: checksum for group 0 failed (1!=2)": fault.FilesystemDamaged,
		"ext4-fs (dm-0): vfs: can't find ext4 filesystem":                            fault.FilesystemWrong,
	} {
		if got, _ := explainMount(unix.EINVAL, "ext4", false, messages); got != want {
			t.Errorf("%q: %s, expected %s", messages, got, want)
		}
	}
	if got, _ := explainMount(unix.EUCLEAN, "ext4", false, ""); got != fault.FilesystemDamaged {
		t.Errorf("EUCLEAN: %s", got)
	}
}
