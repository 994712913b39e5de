// SPDX-License-Identifier: Apache-2.0

package ext4shrink

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// superOf returns a superblock as a log has it.
func superOf(blocks, free uint32) []byte {
	b := make([]byte, superSize)
	le.PutUint32(b[0x4:], blocks)
	le.PutUint32(b[0xc:], free)
	le.PutUint32(b[0x18:], 2)
	le.PutUint16(b[0x38:], extMagic)
	le.PutUint32(b[0x4c:], 1)
	copy(b[0x68:], "0123456789abcdef")
	return b
}

func someLog() *Log {
	l := &Log{Block: 4096, Device: 100*4096 + 512, OldBlocks: 100, Blocks: 90, UUID: [16]byte([]byte("0123456789abcdef"))}
	first := bytes.Repeat([]byte("b"), 4096)
	copy(first[1024:], superOf(90, 20))
	l.add(0, first)
	for _, b := range []int64{7, 8, 9, 40, 89} {
		l.add(b, bytes.Repeat([]byte{byte(b)}, 4096))
	}
	return l
}

// signed returns the log with the hash that fits.
func signed(b []byte) []byte {
	b = bytes.Clone(b)
	sum := sha256.Sum256(b[:len(b)-sha256.Size])
	copy(b[len(b)-sha256.Size:], sum[:])
	return b
}

func TestALogReadsAsItWasWritten(t *testing.T) {
	t.Parallel()
	b := someLog().Encode()
	l, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.runs) != 4 || l.Bytes() != 6*4096 || !bytes.Equal(l.Encode(), b) || l.block(9)[0] != 9 || l.block(10) != nil {
		t.Errorf("%+v", l)
	}
}

func TestALogThatIsNotWhole(t *testing.T) {
	t.Parallel()
	b := someLog().Encode()
	for n := 0; n < len(b); n += 97 {
		if _, err := Decode(b[:n]); err == nil {
			t.Fatalf("the first %d bytes were taken", n)
		}
	}
	for i := 0; i < len(b); i += 97 {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, err := Decode(bad); err == nil {
			t.Fatalf("taken with another byte %d", i)
		}
	}
	for what, change := range map[string]func(b []byte){
		"version":                  func(b []byte) { b[16] = 2 },
		"blocks of 3 bytes":        func(b []byte) { b[20], b[21] = 3, 0 },
		"device too small":         func(b []byte) { le.PutUint64(b[24:], 99*4096) },
		"larger than before":       func(b []byte) { le.PutUint64(b[40:], 100) },
		"negative":                 func(b []byte) { le.PutUint64(b[40:], 1<<63) },
		"another filesystem":       func(b []byte) { b[48]++ },
		"more runs":                func(b []byte) { b[64]++ },
		"fewer runs":               func(b []byte) { b[64]-- },
		"no runs":                  func(b []byte) { b[64] = 0 },
		"a run behind the end":     func(b []byte) { le.PutUint64(b[len(b)-sha256.Size-4096-16:], 90) },
		"a run before the last":    func(b []byte) { le.PutUint64(b[len(b)-sha256.Size-4096-16:], 8) },
		"a run of 2^60 blocks":     func(b []byte) { le.PutUint64(b[len(b)-sha256.Size-4096-8:], 1<<60) },
		"no superblock":            func(b []byte) { b[logHead+runHead+1024+0x38] = 0 },
		"superblock of other size": func(b []byte) { b[logHead+runHead+1024+4]++ },
	} {
		bad := bytes.Clone(b)
		change(bad)
		if _, err := Decode(signed(bad)); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(someLog().Encode())
	f.Add([]byte(logMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > sha256.Size {
			b = signed(b) // otherwise nothing gets past the hash
		}
		l, err := Decode(b)
		if err == nil && !bytes.Equal(l.Encode(), b) {
			t.Error("it reads as another log")
		}
	})
}

func FuzzMark(f *testing.F) {
	f.Add(Mark{Log: [32]byte{1, 2}, Size: 77, Path: "/var/lib/imxcrypt/data-01.shrink"}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, markSize)...)[:markSize]
		sum := sha256.Sum256(b[:markSum])
		copy(b[markSum:], sum[:])
		m, ok := parseMark(b)
		if again, ok2 := parseMark(m.encode()); ok && (!ok2 || again != m) {
			t.Errorf("%+v reads as %+v", m, again)
		}
	})
}

// device is a Device in memory.
type device struct{ b []byte }

func (d *device) ReadAt(p []byte, off int64) (int, error)  { return copy(p, d.b[off:]), nil }
func (d *device) WriteAt(p []byte, off int64) (int, error) { return copy(d.b[off:], p), nil }
func (d *device) Flush() error                             { return nil }
func (d *device) Size() int64                              { return int64(len(d.b)) }

func someDevice() *device {
	d := &device{bytes.Repeat([]byte("o"), 100*4096+512)}
	copy(d.b[1024:], superOf(100, 30))
	return d
}

// Nothing is written to a device that the log was not made for.
func TestAnotherDevice(t *testing.T) {
	t.Parallel()
	log := someLog().Encode()
	for what, change := range map[string]func(d *device){
		"size":          func(d *device) { d.b = d.b[:len(d.b)-512] },
		"UUID":          func(d *device) { d.b[1024+0x68]++ },
		"blocks":        func(d *device) { d.b[1024+4]-- },
		"no filesystem": func(d *device) { d.b[1024+0x38] = 0 },
	} {
		d := someDevice()
		change(d)
		before := bytes.Clone(d.b)
		if _, err := Begin(d, log, "/log"); err == nil || !bytes.Equal(before, d.b) {
			t.Errorf("%s: begun: %v", what, err)
		}
	}
	d := someDevice()
	if _, err := Begin(d, log, "/"+strings.Repeat("n", MaxPath)); err == nil {
		t.Error("a path that is too long was taken")
	}
	m, err := Begin(d, log, "/log")
	if err != nil {
		t.Fatal(err)
	}
	if seen, found, err := FindMark(d); err != nil || !found || seen != m {
		t.Errorf("%+v, %v, %v", seen, found, err)
	}
	other := someLog()
	other.runs[1].data[5]++
	before := bytes.Clone(d.b)
	if err := Finish(d, m, other.Encode()); err == nil || !bytes.Equal(before, d.b) {
		t.Errorf("another log was written: %v", err)
	}
	whole := d.b
	d.b = d.b[:99*4096]
	if err := Finish(d, m, log); err == nil {
		t.Error("written to a device that is too small")
	}
	// It may have grown since, beyond everything that is written.
	d.b = append(whole, make([]byte, 4096)...)
	if err := Finish(d, m, log); err != nil {
		t.Error(err)
	}
}

// copyOf returns a copy with blocks of data, and holes.
func copyOf(t *testing.T, blocks map[int64]byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(100 * 4096); err != nil {
		t.Fatal(err)
	}
	for b, c := range blocks {
		put(t, f, b, c)
	}
	if _, err := f.WriteAt(superOf(100, 30), 1024); err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, f *os.File, b int64, c byte) {
	t.Helper()
	if _, err := f.WriteAt(bytes.Repeat([]byte{c}, 4096), b*4096); err != nil {
		t.Fatal(err)
	}
}

// Only what resizing may have changed, and had a copy of, goes into the log.
func TestTheDifference(t *testing.T) {
	t.Parallel()
	const freeBefore = "  Free blocks: 20-29, 50\n"
	for name, c := range map[string]struct {
		now  string
		do   func(f *os.File)
		want []int64 // besides the superblock; nil: refused
	}{
		"metadata changed":                    {freeBefore, func(f *os.File) { put(t, f, 3, 'x') }, []int64{3}},
		"a block moved":                       {"  Free blocks: 21-29, 50\n", func(f *os.File) { put(t, f, 20, 'x') }, []int64{20}},
		"a block of zeros moved":              {"  Free blocks: 21-29, 50\n", func(*os.File) {}, []int64{20}},
		"what was written into a free block":  {freeBefore, func(f *os.File) { put(t, f, 25, 'x') }, []int64{}},
		"data that was not copied is changed": {freeBefore, func(f *os.File) { put(t, f, 10, 'x') }, nil},
		"data that was not copied is moved":   {"  Free blocks: 10, 21-29, 50\n", func(*os.File) {}, nil},
		"metadata moved":                      {"  Free blocks: 3, 21-29, 50\n", func(f *os.File) { put(t, f, 20, 'o') }, []int64{}},
		"free blocks are not named":           {"", func(*os.File) {}, nil},
		"free blocks behind the end":          {"  Free blocks: 95\n", func(*os.File) {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := someDevice()
			f := copyOf(t, map[int64]byte{0: 'o', 3: 'o'})
			copied, err := NewCopy(f, []byte(freeBefore))
			if err != nil {
				t.Fatal(err)
			}
			c.do(f)
			if _, err := f.WriteAt(superOf(90, 20), 1024); err != nil {
				t.Fatal(err)
			}
			l, err := copied.Log(d, d.Size(), []byte(c.now))
			if c.want == nil {
				if err == nil {
					t.Fatalf("not refused: %+v", l)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for b := range l.Blocks {
				if b > 0 && l.block(b) != nil {
					got = append(got, b)
				}
			}
			if len(got) != len(c.want) || len(got) > 0 && got[0] != c.want[0] {
				t.Errorf("blocks %v, want %v", got, c.want)
			}
			if _, err := Decode(l.Encode()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMoved(t *testing.T) {
	t.Parallel()
	output := []byte("Resizing the filesystem\nMoving 3 blocks 95->20\nMoving inode table\n")
	if err := Moved(output, 90); err != nil {
		t.Error(err)
	}
	if Moved(output, 96) == nil {
		t.Error("what was not copied may move")
	}
	if Moved([]byte("Moving 3 blocks of something\n"), 90) == nil {
		t.Error("what is not understood was taken")
	}
}

func TestBackups(t *testing.T) {
	t.Parallel()
	got := Backups([]byte("  Primary superblock at 1, Group descriptors at 2-2\n  Reserved GDT blocks at 3-258\n  Backup superblock at 8193, Group descriptors at 8194\n  Block bitmap at 259\n"))
	if len(got) != 5 || got[2] != [2]int64{3, 258} || got[4] != [2]int64{8194, 8194} {
		t.Errorf("%v", got)
	}
}

func TestWhatIsNeeded(t *testing.T) {
	t.Parallel()
	s := Super{Block: 4096, Blocks: 16 << 20, inodes: 1000, inodeSize: 256} // 64 GiB
	if n := s.Need(s.Size() - 6<<20); n < 64<<20 || n > 200<<20 {
		t.Errorf("%d bytes", n)
	}
}
