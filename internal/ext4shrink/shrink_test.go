// SPDX-License-Identifier: Apache-2.0

package ext4shrink_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/ext4shrink"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
)

const mib = 1 << 20

// less is how much smaller a filesystem is made.
const less = 2 * mib

// layout is a filesystem to be made smaller.
type layout struct {
	size  int64
	args  string
	full  bool // what must become free is in use, by files in many pieces
	files int  // of about 40 KiB
}

func layouts() map[string]layout {
	return map[string]layout{
		"4 KiB, free tail":            {38 * mib, "-b 4096", false, 100},
		"4 KiB, used tail":            {38 * mib, "-b 4096", true, 0},
		"1 KiB, free tail":            {40 * mib, "-b 1024", false, 100},
		"1 KiB, used tail":            {40 * mib, "-b 1024", true, 0},
		"1 KiB, no flex_bg":           {40 * mib, "-b 1024 -O ^flex_bg", true, 0},
		"2 KiB":                       {48 * mib, "-b 2048", true, 0},
		"4 KiB, no checksums":         {38 * mib, "-b 4096 -O ^metadata_csum,uninit_bg", true, 0},
		"4 KiB, no extents":           {38 * mib, "-b 4096 -O ^extent,^64bit", true, 0},
		"4 KiB, no resize_inode":      {38 * mib, "-b 4096 -O ^resize_inode", true, 0},
		"4 KiB, no journal":           {38 * mib, "-b 4096 -O ^has_journal", true, 0},
		"1 KiB, seed, inline, orphan": {40 * mib, "-b 1024 -O metadata_csum_seed,inline_data,orphan_file -I 256", true, 0},
		"4 KiB, groups of 8 MiB":      {64 * mib, "-b 4096 -g 2048", true, 0},
		"1 KiB, group is dropped":     {65 * mib, "-b 1024 -O ^flex_bg -N 1400", true, 0},
		"4 KiB, small journal":        {64 * mib, "-b 4096 -J size=4", true, 0},
	}
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := mkfs.Maker{}.Programs.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"LC_ALL=C"}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v: %s%s", name, args, err, &out, &stderr)
	}
	return out.String()
}

// make makes the filesystem in a file over noise: on a device in the field, blocks that
// were never written are not zeros.
func (l layout) make(t *testing.T, path string) {
	t.Helper()
	rng := rand.NewChaCha8([32]byte{byte(l.size / mib), byte(len(l.args))})
	noise := make([]byte, l.size)
	_, _ = rng.Read(noise)
	if err := os.WriteFile(path, noise, 0o600); err != nil {
		t.Fatal(err)
	}
	from := t.TempDir()
	file := func(i, size int) string { // of data that repeats nowhere
		name := filepath.Join(from, fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i))
		b := make([]byte, size)
		_, _ = rng.Read(b)
		for _, err := range []error{os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return strings.TrimPrefix(name, from)
	}
	args := append(strings.Fields(l.args), "-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=1", "-d", from, path)
	for i := range l.files {
		file(i, 30000+100*i)
	}
	if !l.full {
		tool(t, "mke2fs", args...)
		return
	}
	// The filesystem is filled nearly to its end. Every third file is removed, and a few
	// files in many pieces take a part of that space.
	const each = 48 << 10
	empty := layout{size: l.size, args: l.args}
	empty.make(t, path)
	s := super(t, path)
	var script strings.Builder
	blocks := s.Free - 300<<10/s.Block
	for i := 0; blocks > 0; i++ {
		size := each - i%5*1000
		blocks -= (int64(size) + s.Block - 1) / s.Block
		if name := file(i, size); i%3 == 0 {
			fmt.Fprintln(&script, "rm", name)
		}
	}
	if err := os.WriteFile(path, noise, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", args...)
	for i := range 3 {
		big := filepath.Join(t.TempDir(), "big")
		b := make([]byte, 600<<10)
		_, _ = rng.Read(b)
		if err := os.WriteFile(big, b, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&script, "write %s big%d\n", big, i)
	}
	debugfs(t, path, script.String())
	tool(t, "e2fsck", "-f", "-n", path)
	l.zeros(t, path)
}

// debugfs runs a script.
func debugfs(t *testing.T, path, script string) string {
	t.Helper()
	commands := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(commands, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return tool(t, "debugfs", "-w", "-f", commands, path)
}

// zeros fills some blocks of files that have to move with zeros: in a copy with holes
// they look like blocks that were not copied.
func (l layout) zeros(t *testing.T, path string) {
	t.Helper()
	s, f := super(t, path), open(t, path)
	var script strings.Builder
	for i := range 2000 {
		if i%3 > 0 && i%5 == 0 {
			fmt.Fprintf(&script, "blocks /d%d/f%d\n", i%7, i)
		}
	}
	n := 0
	for _, word := range strings.Fields(debugfs(t, path, script.String())) {
		b, err := strconv.ParseInt(word, 10, 64)
		if err != nil || b*s.Block < l.size-less {
			continue
		}
		if _, err := f.WriteAt(make([]byte, s.Block), b*s.Block); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n == 0 {
		t.Fatal("nothing that has to move is zeros: the filesystem is not full")
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func super(t *testing.T, path string) ext4shrink.Super {
	t.Helper()
	s, err := ext4shrink.ReadSuper(open(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files returns all files of a filesystem, with the hash of their contents.
func files(t *testing.T, path string) map[string]string {
	t.Helper()
	to, all := t.TempDir(), map[string]string{}
	tool(t, "debugfs", "-R", "rdump / "+to, path)
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, to)] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func load(t *testing.T, path string) *crashtest.Image {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	im := crashtest.NewImage(int64(len(b)))
	if _, err := im.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return im
}

// The smaller filesystem is sound and has the same files, and the device is not written
// to before the mark. Power is cut at any point while the log is written, and once more
// while that is continued. Each time the device is the filesystem as it was, or has the
// mark and shows no filesystem, or is the smaller filesystem bit for bit; in the end it
// is the last.
func TestEveryPowerCutOfAShrink(t *testing.T) {
	t.Parallel()
	for name, l := range layouts() {
		t.Run(name, func(t *testing.T) {
			if crashtest.Slow() && !strings.Contains(name, "used tail") {
				t.Skip("NOT TESTED: two filesystems with -short and under the race detector; make test takes all, without it")
			}
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "device")
			l.make(t, path)
			before, had, old := load(t, path), super(t, path), files(t, path)
			log, err := mkfs.Maker{}.Shrink(context.Background(), path, filepath.Join(dir, "work"), l.size-less)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(before.Bytes(), load(t, path).Bytes()) {
				t.Fatal("something was written to the device")
			}
			if _, err := os.Stat(filepath.Join(dir, "work")); err == nil {
				t.Fatal("the copy is left")
			}
			e := newCuts(t, before, log)
			first, half, second := e.enumerate(t)
			if err := os.WriteFile(path, e.final, 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "e2fsck", "-f", "-n", path)
			now := files(t, path)
			if len(now) != len(old) {
				t.Fatalf("%d files, %d before", len(now), len(old))
			}
			for name, sum := range old {
				if now[name] != sum {
					t.Errorf("%s has another content", name)
				}
			}
			s := super(t, path)
			if s.Size() > l.size-less || s.UUID != had.UUID {
				t.Errorf("%+v", s)
			}
			sb, err := fsprobe.Read(bytes.NewReader(e.final), l.size)
			if err != nil || !sb.Verified || sb.NeedsCheck || sb.Unclean {
				t.Errorf("%+v, %v", sb, err)
			}
			t.Logf("%d files; log of %d bytes in %d writes; %d states tried, %d of them with the mark, and %d after a second cut, 0 lost",
				len(old), len(log), e.writes, first, half, second)
		})
	}
}

// cuts is the recorded writing of a log to a device, to be cut off.
type cuts struct {
	before     *crashtest.Image
	rec        *crashtest.Recorder
	disk       *crashtest.Disk
	log, final []byte
	writes     int
	spans      [][2]int64 // that are written to
}

func newCuts(t *testing.T, before *crashtest.Image, log []byte) *cuts {
	t.Helper()
	e := &cuts{before: before.Overlay(), log: log}
	e.rec, e.disk = crashtest.Record(before)
	m, err := ext4shrink.Begin(e.disk, log, "/var/lib/imxcrypt/data.shrink")
	if err == nil {
		err = ext4shrink.Finish(e.disk, m, log)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.final = e.disk.Live().Bytes()
	for _, op := range e.rec.Log() {
		if op.Kind == crashtest.Write {
			e.writes++
			e.spans = append(e.spans, [2]int64{op.Off, op.Length})
		}
	}
	return e
}

// is reports whether everything that is written to is as in want.
func (e *cuts) is(im *crashtest.Image, want *crashtest.Image) bool {
	for _, s := range e.spans {
		a, b := make([]byte, s[1]), make([]byte, s[1])
		_, _ = im.ReadAt(a, s[0])
		_, _ = want.ReadAt(b, s[0])
		if !bytes.Equal(a, b) {
			return false
		}
	}
	return true
}

func limits() crashtest.Options {
	if crashtest.Slow() {
		return crashtest.Options{Exhaustive: 4, Limit: 6, Random: 6, Seed: 3}
	}
	return crashtest.Options{Exhaustive: 6, Limit: 24, Random: 24, Seed: 3}
}

func (e *cuts) enumerate(t *testing.T) (first, half, second int) {
	t.Helper()
	final := e.disk.Live()
	for state := range e.rec.States(limits()) {
		first++
		im := state.Image(e.disk)
		m, marked := e.look(t, state.String(), im, final)
		if !marked {
			continue
		}
		half++
		if half == 2 {
			e.unchecked(t, im)
		}
		rec, disk := crashtest.Record(im)
		if err := ext4shrink.Finish(disk, m, e.log); err != nil {
			t.Fatalf("%v: %v", state, err)
		}
		if !e.is(disk.Live(), final) {
			t.Fatalf("%v: continued, it is another filesystem", state)
		}
		if half%40 != 1 {
			continue
		}
		for cut := range rec.States(crashtest.Options{Exhaustive: 3, Limit: 4, Random: 4, Seed: uint64(half)}) {
			second++
			im := cut.Image(disk)
			m, marked := e.look(t, state.String()+"; then "+cut.String(), im, final)
			if !marked {
				continue
			}
			if err := ext4shrink.Finish(im, m, e.log); err != nil || !e.is(im, final) {
				t.Fatalf("%v; then %v: %v, or another filesystem", state, cut, err)
			}
		}
	}
	if half == 0 {
		t.Error("the mark was never there: nothing was shown")
	}
	return first, half, second
}

// look checks that a device is one of the three things that it may be.
func (e *cuts) look(t *testing.T, what string, im, final *crashtest.Image) (ext4shrink.Mark, bool) {
	t.Helper()
	m, marked, err := ext4shrink.FindMark(im)
	if err != nil {
		t.Fatal(err)
	}
	if !marked {
		if !e.is(im, e.before) && !e.is(im, final) {
			t.Fatalf("%s: neither the old filesystem nor the new one, without a mark", what)
		}
		return m, false
	}
	seen, err := fsprobe.Signature(im, im.Size())
	if err != nil || seen != "" {
		t.Fatalf("%s: looks like %q, %v", what, seen, err)
	}
	if !m.Names(e.log) || m.Path != "/var/lib/imxcrypt/data.shrink" {
		t.Fatalf("%s: %+v", what, m)
	}
	return m, true
}

// unchecked checks that the checker, as it runs at boot, does not touch a device with the
// mark.
func (e *cuts) unchecked(t *testing.T, im *crashtest.Image) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, im.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (mkfs.Maker{}).Programs.Run(t.Context(), "e2fsck", "-p", path); err == nil {
		t.Error("e2fsck -p finds a filesystem")
	}
	if !bytes.Equal(load(t, path).Bytes(), im.Bytes()) {
		t.Error("e2fsck -p has written")
	}
}

// A filesystem that does not fit, has errors, or has features that were not tried is
// refused, with the device as it was.
func TestShrinkRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		layout layout
		to     int64
		do     func(t *testing.T, path string)
		code   fault.Code
	}{
		"no room":   {layout{40 * mib, "-b 1024", true, 0}, 16 * mib, nil, fault.ShrinkRefused},
		"bigalloc":  {layout{64 * mib, "-b 4096 -O bigalloc", false, 3}, 50 * mib, nil, fault.ShrinkRefused},
		"too small": {layout{38 * mib, "-b 4096", false, 3}, 64 << 10, nil, fault.ShrinkRefused},
		"a damaged bitmap": {layout{38 * mib, "-b 4096", false, 3}, 32 * mib, func(t *testing.T, path string) {
			tool(t, "debugfs", "-w", "-R", "setb 5000 50", path)
		}, fault.FilesystemUnclean},
		"no filesystem": {layout{38 * mib, "-b 4096", false, 3}, 32 * mib, func(t *testing.T, path string) {
			if _, err := open(t, path).WriteAt(make([]byte, 2048), 0); err != nil {
				t.Fatal(err)
			}
		}, fault.ShrinkRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "device")
			c.layout.make(t, path)
			if c.do != nil {
				c.do(t, path)
			}
			before := load(t, path)
			_, err := mkfs.Maker{}.Shrink(context.Background(), path, filepath.Join(dir, "work"), c.to)
			if fault.CodeOf(err) != c.code {
				t.Errorf("%v (code %s)", err, fault.CodeOf(err))
			}
			t.Log(err)
			if left, _ := os.ReadDir(dir); len(left) != 1 || !bytes.Equal(before.Bytes(), load(t, path).Bytes()) {
				t.Errorf("changed, or left behind: %v", left)
			}
		})
	}
}
