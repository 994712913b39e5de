// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/klog"
)

// status builds an answer to DM_TABLE_STATUS as the kernel writes it.
func status(targets ...[2]string) []byte {
	var out []byte
	for i, target := range targets {
		size := (unix.SizeofDmTargetSpec + len(target[1]) + 1 + 7) &^ 7
		spec := make([]byte, size)
		binary.NativeEndian.PutUint64(spec[0:], uint64(8*i))
		binary.NativeEndian.PutUint64(spec[8:], 8)
		binary.NativeEndian.PutUint32(spec[20:], uint32(len(out)+size))
		copy(spec[24:40], target[0])
		copy(spec[40:], target[1])
		out = append(out, spec...)
	}
	return out
}

func TestReadStatus(t *testing.T) {
	t.Parallel()
	out := status([2]string{"linear", "8:1 0"}, [2]string{"error", ""}, [2]string{"linear", "8:1 16 "})
	table, err := readStatus(out, 3)
	if want := "0 8 linear 8:1 0\n8 8 error\n16 8 linear 8:1 16"; err != nil || table.String() != want {
		t.Errorf("got %s, %v", table, err)
	}
	if table, err := readStatus(nil, 0); table != nil || err != nil {
		t.Errorf("no table: %v, %v", table, err)
	}
	for name, bad := range map[string][]byte{
		"cut short": out[:len(out)-50], "empty": nil, "in circles": append(append([]byte(nil), out[:20]...), append([]byte{0, 0, 0, 0}, out[24:]...)...),
	} {
		if table, err := readStatus(bad, 3); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", name, table, err)
		}
	}
}

func FuzzReadStatus(f *testing.F) {
	f.Add(status([2]string{"linear", "8:1 0"}, [2]string{"crypt", "aes-xts-plain64 :64:logon:a:b 0 8:1 0"}), 2)
	f.Add([]byte{}, 1)
	f.Fuzz(func(t *testing.T, out []byte, count int) {
		table, err := readStatus(out, count)
		if err == nil && len(table) != max(count, 0) {
			t.Errorf("%d targets of %d", len(table), count)
		}
	})
}

func TestFindVersion(t *testing.T) {
	t.Parallel()
	entry := func(next uint32, name string, v ...uint32) []byte {
		b := make([]byte, 16, 32)
		for i, n := range append([]uint32{next}, v...) {
			binary.NativeEndian.PutUint32(b[4*i:], n)
		}
		b = append(b, name...)
		return append(b, make([]byte, 32-len(b))...)
	}
	out := append(entry(32, "linear", 1, 4, 0), entry(0, "crypt", 1, 24, 2)...)
	if v, ok := findVersion(out, "crypt"); !ok || v.String() != "1.24.2" {
		t.Errorf("got %s, %v", v, ok)
	}
	for _, bad := range [][]byte{nil, out[:8], entry(4, "linear", 1, 4, 0), entry(4000, "linear", 1, 4, 0)} {
		if v, ok := findVersion(bad, "crypt"); ok {
			t.Errorf("got %s", v)
		}
	}
}

// fakeNodes is a /dev without device files: a file's content is its number.
func fakeNodes(t *testing.T) nodes {
	t.Helper()
	root := t.TempDir()
	d := newNodes(Options{Dev: filepath.Join(root, "dev"), Run: filepath.Join(root, "run"), NodeWait: 2 * time.Minute})
	d.rules = []string{filepath.Join(root, "rules.d")}
	d.isDevice = func(path string, n Number) bool {
		text, err := os.ReadFile(path)
		return err == nil && string(text) == n.String()
	}
	for _, dir := range []string{filepath.Join(d.dev, "mapper"), filepath.Join(d.run, "udev"), d.rules[0]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

var dm3 = Number{Major: 253, Minor: 3}

func TestWithoutUdevTheLinkIsMadeAndRemoved(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before  func(t *testing.T, d nodes)
		refused bool
	}{
		"nothing is there":        {before: func(*testing.T, nodes) {}},
		"the right link is there": {before: func(t *testing.T, d nodes) { link(t, "../dm-3", d.path("v")) }},
		"a link to nothing":       {before: func(t *testing.T, d nodes) { link(t, "../dm-9", d.path("v")) }},
		"a link to another mapping": {before: func(t *testing.T, d nodes) {
			write(t, filepath.Join(d.dev, "dm-4"), "253:4")
			link(t, "../dm-4", d.path("v"))
		}},
		"an absolute link to another": {before: func(t *testing.T, d nodes) {
			write(t, filepath.Join(d.dev, "dm-4"), "253:4")
			link(t, filepath.Join(d.dev, "dm-4"), d.path("v"))
		}},
		"a link to a disk is kept": {before: func(t *testing.T, d nodes) {
			write(t, filepath.Join(d.dev, "sda"), "8:0")
			link(t, "../sda", d.path("v"))
		}, refused: true},
		"a file of somebody's is kept": {before: func(t *testing.T, d nodes) { write(t, d.path("v"), "x") }, refused: true},
		"a directory is kept":          {before: func(t *testing.T, d nodes) { _ = os.Mkdir(d.path("v"), 0o755) }, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := fakeNodes(t)
			write(t, d.dmPath(dm3), dm3.String())
			c.before(t, d)
			err := d.appear(t.Context(), "v", dm3)
			if c.refused {
				if !errors.Is(err, ErrNode) || !errors.Is(err, unix.EEXIST) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if to, err := os.Readlink(d.path("v")); err != nil || !d.isDevice(d.path("v"), dm3) {
				t.Errorf("leads to %s, %v", to, err)
			}
			if entries, _ := os.ReadDir(filepath.Join(d.dev, "mapper")); len(entries) != 1 {
				t.Errorf("left in /dev/mapper: %v", entries)
			}
			d.disappear("v", dm3, false)
			if to, _ := os.Readlink(d.path("v")); to == "../dm-3" {
				// The device is still there: a new one was made.
				if err := os.Remove(d.dmPath(dm3)); err != nil {
					t.Fatal(err)
				}
				d.disappear("v", dm3, false)
				if _, err := os.Lstat(d.path("v")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the link is still there (%v)", err)
				}
			}
		})
	}
}

func TestALinkThatIsNotOursIsNotRemoved(t *testing.T) {
	t.Parallel()
	d := fakeNodes(t)
	link(t, "../dm-4", d.path("v"))
	d.disappear("v", dm3, true)
	if _, err := os.Lstat(d.path("v")); err != nil {
		t.Error(err)
	}
}

func TestUdevIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := fakeNodes(t)
	if d.udev() {
		t.Error("udev is seen where none is")
	}
	write(t, filepath.Join(d.run, "udev/control"), "")
	if d.udev() {
		t.Error("a udev without the device-mapper's rules makes no nodes")
	}
	write(t, filepath.Join(d.rules[0], "55-dm.rules"), "")
	if !d.udev() {
		t.Fatal("udev is not seen")
	}
	write(t, d.dmPath(dm3), dm3.String())
	made := make(chan struct{})
	go func() {
		defer close(made)
		time.Sleep(20 * time.Millisecond)
		// As udev does: make a link with another name, then rename it. Before that, do
		// something irrelevant.
		_ = os.WriteFile(d.path("other"), nil, 0o644)
		_ = os.Symlink("../dm-3", d.path(".v.tmp"))
		_ = os.Rename(d.path(".v.tmp"), d.path("v"))
	}()
	began := time.Now()
	if err := d.appear(t.Context(), "v", dm3); err != nil {
		t.Fatal(err)
	}
	if elapsed := time.Since(began); elapsed > time.Minute {
		t.Errorf("took %v", elapsed)
	}
	<-made
	if err := os.Remove(d.path("v")); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := d.appear(ctx, "v", dm3); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrNode) {
		t.Errorf("with a context that ends: %v", err)
	}
	if _, err := os.Lstat(d.path("v")); err == nil {
		t.Error("the link was made for a caller who had given up")
	}

	d.wait = 30 * time.Millisecond
	if err := d.appear(t.Context(), "v", dm3); err != nil {
		t.Errorf("with a udev that does nothing: %v", err)
	}
}

func TestKernelLogOfOneMappingOnly(t *testing.T) {
	t.Parallel()
	read := func(n Number, lines ...string) string {
		path := filepath.Join(t.TempDir(), "kmsg")
		write(t, path, "")
		mark := klog.Now(path)
		defer mark.Close()
		var all []string
		for i, l := range lines {
			// A file, unlike the device, returns everything it has at once: check after
			// each line.
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("3," + string(rune('0'+i)) + ",1,-;" + l + "\n"); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			all = append(all, kernelLog(&mark, n)...)
		}
		return strings.Join(all, "|")
	}
	if got, want := read(dm3,
		"device-mapper: table: 253:4: crypt: Device lookup failed (-ENODEV)",
		"device-mapper: table: 253:3: crypt: Error decoding and setting key (-EINVAL)",
		"usb 1-1: new device",
		"caam 30900000.crypto: key size mismatch",
	), "crypt: Error decoding and setting key (-EINVAL)|caam 30900000.crypto: key size mismatch"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func fakeMapper(t *testing.T, files map[string]string) *Mapper {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, text)
	}
	return &Mapper{options: Options{Sys: filepath.Join(root, "sys"), Proc: filepath.Join(root, "proc"), KernelLog: filepath.Join(root, "none")}}
}

func TestUsersThatStayAreNamed(t *testing.T) {
	t.Parallel()
	m := fakeMapper(t, map[string]string{
		"sys/dev/block/253:3/holders/dm-7": "",
		"sys/dev/block/253:4/size":         "8\n",
		"proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/root rw\nshort\n" +
			"23 22 253:4 / /mnt/a\\040b rw,noatime - ext4 /dev/mapper/v rw\n",
	})
	for n, want := range map[Number]string{
		dm3: "held by dm-7", {Major: 253, Minor: 4}: `mounted on "/mnt/a b"`, {Major: 253, Minor: 5}: "", {Major: 253, Minor: 40}: "",
	} {
		if got := m.longUser(n); got != want {
			t.Errorf("%s: got %q, want %q", n, got, want)
		}
	}
}

// ENOENT and EINVAL have several causes; sysfs distinguishes them if the kernel log
// cannot be read.
func TestDevicesAreLookedAtInSysfs(t *testing.T) {
	t.Parallel()
	m := fakeMapper(t, map[string]string{"sys/dev/block/8:1/size": "2048\n"})
	linear := func(n Number, length uint64) Table { return Table{Linear{Length: length, Device: n, Offset: 48}} }
	here, gone := Number{Major: 8, Minor: 1}, Number{Major: 8, Minor: 2}
	if got := m.missing(linear(here, 8)); got != "" {
		t.Errorf("missing: %q", got)
	}
	if got := m.missing(linear(gone, 8)); got != "device 8:2" {
		t.Errorf("missing: %q", got)
	}
	if e := m.tooSmall(linear(here, 2000)); e != nil {
		t.Errorf("to the last sector: %v", e)
	}
	if e := m.tooSmall(linear(here, 2001)); !errors.Is(e, ErrDeviceTooSmall) || !strings.Contains(e.Error(), "2049") {
		t.Errorf("one beyond: %v", e)
	}
	if e := m.tooSmall(linear(gone, 1<<40)); e != nil {
		t.Errorf("a size that is not known: %v", e)
	}
	if got := fakeMapper(t, nil).missing(linear(gone, 8)); got != "" {
		t.Errorf("without sysfs: %q", got)
	}
}

func TestAKernelWithoutDeviceMapperSaysSo(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/mapper/control"); err == nil {
		t.Skip("NOT TESTED HERE: this kernel has a device-mapper; VM tests withhold the module")
	}
	if _, err := New(Options{}); !errors.Is(err, ErrNoDeviceMapper) {
		t.Errorf("got %v", err)
	}
}

// Without a device-mapper every method reports that, the first one and later ones.
func TestLazyWithoutADeviceMapper(t *testing.T) {
	t.Parallel()
	m := Lazy(Options{})
	m.control = sync.OnceValues(func() (*os.File, error) {
		return nil, &Error{Op: "open the device-mapper", Kind: ErrNoDeviceMapper, Err: unix.ENOENT}
	})
	ctx, table := t.Context(), Table{Zero{Length: 8}}
	for name, do := range map[string]func() error{
		"Activate":  func() error { _, err := m.Activate(ctx, "data", "CRYPT-x", table, false); return err },
		"Announce":  func() error { return m.Announce(ctx, "data") },
		"Announced": func() error { _, err := m.Announced("data"); return err },
		"Remove":    func() error { return m.Remove(ctx, "data") },
		"Info":      func() error { _, err := m.Info("data"); return err },
		"ByNumber":  func() error { _, err := m.ByNumber(Number{Major: 253}); return err },
		"Table":     func() error { _, err := m.Table("data"); return err },
		"List":      func() error { _, err := m.List(); return err },
		"Load":      func() error { return m.Load(ctx, "data", table, false) },
		"Clear":     func() error { return m.Clear("data") },
		"Suspend":   func() error { return m.Suspend(ctx, "data", 0) },
		"Resume":    func() error { return m.Resume("data", Private, 0) },
		"Swap":      func() error { return m.Swap(ctx, "data", table, false, Private, 0) },
		"Version":   func() error { _, err := m.Version(); return err },
	} {
		err := do()
		if !errors.Is(err, ErrNoDeviceMapper) || err.Error() != "open the device-mapper: this kernel has no device-mapper: no such file or directory" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
