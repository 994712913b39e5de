// SPDX-License-Identifier: Apache-2.0

package atomicfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
)

// bench is a recorded filesystem.
type bench struct {
	rec  *crashtest.Recorder
	disk *crashtest.Disk
	tree *crashtest.Tree
}

func over(base *crashtest.Image) *bench {
	b := &bench{}
	b.rec, b.disk = crashtest.Record(base)
	b.tree = crashtest.NewTree(b.disk)
	return b
}

func (b *bench) writer() atomicfile.Writer { return atomicfile.Writer{FS: b.tree} }

// killed is the value that a step panics with.
type killed struct{}

// killAt runs run and kills it before its n-th operation. What run did before that stays.
// killAt reports whether run was killed: it may have fewer operations.
func (b *bench) killAt(n int, run func()) (was bool) {
	at := 0
	b.tree.Step = func(string) error {
		if at++; at == n {
			panic(killed{})
		}
		return nil
	}
	defer func() {
		b.tree.Step = nil
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			was = true
			// The locks of a process end with it, and its memory is not on the disk.
			b.tree = crashtest.NewTree(b.disk)
		}
	}()
	run()
	return false
}

const (
	target = "/var/lib/data.bb"
	mode   = fs.FileMode(0o640)
)

var (
	oldText = bytes.Repeat([]byte("old! "), 300)
	newText = bytes.Repeat([]byte("new one. "), 400)
)

// is returns what has the target's name: "old", "new", "none" or something that must
// never be there.
func is(t *crashtest.Tree) string {
	data, perm, err := t.Read(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "none"
	case err != nil:
		return err.Error()
	case bytes.Equal(data, oldText) && perm == mode:
		return "old"
	case bytes.Equal(data, newText) && perm == mode:
		return "new"
	}
	return fmt.Sprintf("%d bytes %.20q, mode %v", len(data), data, perm)
}

// writes lists what this package does to a file: what is there before, the operation, and
// what must be there once it has returned.
var writes = map[string]struct {
	before string
	run    func(atomicfile.Writer) error
	after  string
}{
	"create":          {"none", create, "new"},
	"create, folders": {"nothing", create, "new"},
	"replace nothing": {"none", replace, "new"},
	"replace":         {"old", replace, "new"},
	"remove":          {"old", remove, "none"},
	"remove nothing":  {"none", remove, "none"},
}

// create also makes the folders, as callers that keep keys in files do. An existing file
// is not an error here: an interrupted run made it.
func create(w atomicfile.Writer) error {
	if err := w.MkdirAll("/var/lib", 0o700); err != nil {
		return err
	}
	err := w.Create(target, newText, mode)
	if errors.Is(err, fs.ErrExist) {
		return w.Settle(target)
	}
	return err
}

func replace(w atomicfile.Writer) error { return w.Replace(target, newText, mode) }
func remove(w atomicfile.Writer) error  { return w.Remove(target) }

// prepared returns a disk that holds what is there before the write.
func prepared(t *testing.T, before string) *crashtest.Image {
	t.Helper()
	im := crashtest.NewImage(crashtest.TreeSize)
	w := atomicfile.Writer{FS: crashtest.NewTree(im)}
	var err error
	if before != "nothing" {
		err = w.MkdirAll("/var/lib", 0o700)
	}
	if before == "old" {
		err = errors.Join(err, w.Create(target, oldText, mode))
	}
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func limits() crashtest.Options {
	if os.Getenv("IMXCRYPT_SOAK") != "" {
		return crashtest.Options{Exhaustive: 12, Random: 512, Seed: 2}
	}
	if testing.Short() {
		return crashtest.Options{Exhaustive: 5, Limit: 8, Random: 4, Seed: 2}
	}
	return crashtest.Options{Exhaustive: 8, Limit: 64, Random: 32, Seed: 2}
}

// Power is cut at any point while a file is written or removed, and again while the next
// run repeats this. The old contents or the new ones are there, complete and with their
// mode. What was reported done stays done.
func TestEveryPowerCutOfAFile(t *testing.T) {
	t.Parallel()
	states, seconds, twice := 0, 0, 0
	for name, c := range writes {
		t.Run(name, func(t *testing.T) {
			base := prepared(t, c.before)
			b := over(base)
			if err := c.run(b.writer()); err != nil {
				t.Fatal(err)
			}
			done := b.rec.Epochs()
			check := func(what string, s *crashtest.State, d *crashtest.Disk, done int) *crashtest.Image {
				im := s.Image(d)
				got := is(crashtest.NewTree(im.Overlay()))
				before := strings.Replace(c.before, "nothing", "none", 1)
				if got != c.after && (got != before || s.Epoch >= done) {
					t.Fatalf("%s%v: found %s", what, s, got)
				}
				return im
			}
			for s := range b.rec.States(limits()) {
				states++
				next := over(check("", s, b.disk, done).Overlay())
				if err := c.run(next.writer()); err != nil {
					t.Fatalf("%v: the next run: %v", s, err)
				}
				if got := is(next.tree); got != c.after {
					t.Fatalf("%v: the next run left %s", s, got)
				}
				// Anything else that is left does not harm the next writer, which removes
				// it.
				if names := next.tree.Names("/var/lib"); len(names) > 1 {
					twice++
					then := over(next.disk.Live())
					if err := replace(then.writer()); err != nil {
						t.Fatalf("%v: the writer after that: %v", s, err)
					}
					for cut := range then.rec.States(limits()) {
						if got := is(crashtest.NewTree(cut.Image(then.disk))); got != "new" {
							t.Fatalf("%v, and %v: found %s", s, cut, got)
						}
					}
					if names := then.tree.Names("/var/lib"); len(names) > 1 {
						t.Fatalf("%v: %q are left", s, names)
					}
				}
				if states%7 != 0 {
					continue
				}
				again := next.rec.Epochs()
				for second := range next.rec.States(crashtest.Options{Exhaustive: 4, Limit: 8, Random: 4, Seed: uint64(states)}) {
					seconds++
					check(s.String()+"; then ", second, next.disk, again)
				}
			}
		})
	}
	if twice == 0 {
		t.Error("no state has a file under two names")
	}
	t.Logf("files: %d states tried, %d of them after a second cut, 0 lost", states+seconds, seconds)
}

// A process is killed. The next one finds what the first left, which may not be durable,
// and builds on it. What the next one reported done must be there after a power cut.
func TestEveryKillOfAFileAndThenAPowerCut(t *testing.T) {
	t.Parallel()
	kills, states := 0, 0
	for name, c := range writes {
		t.Run(name, func(t *testing.T) {
			base := prepared(t, c.before)
			for at := 1; ; at++ {
				b := over(base.Overlay())
				if !b.killAt(at, func() { _ = c.run(b.writer()) }) {
					break
				}
				kills++
				if err := c.run(b.writer()); err != nil {
					t.Fatalf("killed at operation %d: the next run: %v", at, err)
				}
				done := b.rec.Epochs()
				o := limits()
				o.Epochs = func(n int) bool { return n >= done }
				for s := range b.rec.States(o) {
					states++
					if got := is(crashtest.NewTree(s.Image(b.disk))); got != c.after {
						t.Fatalf("killed at operation %d, finished, and then %v: found %s", at, s, got)
					}
				}
			}
		})
	}
	t.Logf("files: %d kills, %d states tried after the next run, 0 lost", kills, states)
}

// The model is strict enough to catch what writers get wrong.
func TestCarelessWritersAreCaught(t *testing.T) {
	t.Parallel()
	lost := func(run func(d atomicfile.Folder) error) int {
		b := over(prepared(t, "old"))
		d, err := b.tree.OpenFolder("/var/lib")
		if err == nil {
			err = run(d)
		}
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for s := range b.rec.States(limits()) {
			if got := is(crashtest.NewTree(s.Image(b.disk))); got != "old" && got != "new" || s.Epoch >= b.rec.Epochs() && got != "new" {
				n++
			}
		}
		return n
	}
	write := func(d atomicfile.Folder, name string, sync bool) error {
		f, err := d.Open(name)
		if err != nil {
			return err
		}
		if _, err = f.Write(newText); err == nil {
			err = f.Chmod(mode)
		}
		if err == nil && sync {
			err = f.Sync()
		}
		return errors.Join(err, f.Close())
	}
	for name, c := range map[string]struct {
		run    func(d atomicfile.Folder) error
		caught bool
	}{
		"in place": {func(d atomicfile.Folder) error { return write(d, "data.bb", true) }, true},
		"file not flushed": {func(d atomicfile.Folder) error {
			return errors.Join(write(d, "temp", false), d.Rename("temp", "data.bb"), d.Sync())
		}, true},
		"folder not flushed": {func(d atomicfile.Folder) error {
			return errors.Join(write(d, "temp", true), d.Rename("temp", "data.bb"))
		}, true},
		"as it should be": {func(d atomicfile.Folder) error {
			return errors.Join(write(d, "temp", true), d.Rename("temp", "data.bb"), d.Sync())
		}, false},
	} {
		if n := lost(c.run); (n > 0) != c.caught {
			t.Errorf("%s: %d states lost", name, n)
		}
	}
}
