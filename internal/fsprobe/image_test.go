// SPDX-License-Identifier: Apache-2.0

package fsprobe_test

import (
	"bufio"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"imxcrypt/internal/fsprobe"
)

var record = flag.Bool("record", false, "recreate the filesystems and record what is read of them under testdata")

// sample is a filesystem to recognise: how it is made, and what must be seen.
type sample struct {
	name    string
	size    int64
	command []string // the image is appended
	want    fsprobe.Superblock
}

const uuid = "0f5c7d1e-3b2a-4c8d-9e6f-a1b2c3d4e5f6"

const (
	mib = 1 << 20

	byBackup = "backup superblock"
)

var samples = []sample{
	{"ext4", 64 * mib, []string{"mkfs.ext4", "-q", "-b", "4096", "-L", "data", "-U", uuid, "-O", "metadata_csum,64bit"},
		fsprobe.Superblock{Type: "ext4", Label: "data", Verified: true, HasChecksum: true, Proof: "checksums of superblock and group descriptor", BlockSize: 4096, Size: 64 * mib}},
	{"ext4-seed", 64 * mib, []string{"mkfs.ext4", "-q", "-b", "4096", "-U", uuid, "-O", "metadata_csum,metadata_csum_seed,^64bit"},
		fsprobe.Superblock{Type: "ext4", Verified: true, HasChecksum: true, Proof: "checksums of superblock and group descriptor", BlockSize: 4096, Size: 64 * mib}},
	{"ext4-1k", 16 * mib, []string{"mkfs.ext4", "-q", "-b", "1024", "-U", uuid, "-O", "metadata_csum"},
		fsprobe.Superblock{Type: "ext4", Verified: true, HasChecksum: true, Proof: "checksums of superblock and group descriptor", BlockSize: 1024, Size: 16 * mib}},
	{"ext4-bigalloc", 512 * mib, []string{"mkfs.ext4", "-q", "-U", uuid, "-O", "bigalloc,metadata_csum"},
		fsprobe.Superblock{Type: "ext4", Verified: true, HasChecksum: true, Proof: "checksums of superblock and group descriptor", BlockSize: 4096, Size: 512 * mib}},
	{"ext4-nosum", 256 * mib, []string{"mkfs.ext4", "-q", "-b", "4096", "-L", "sixteen-byte-lbl", "-U", uuid, "-O", "^metadata_csum"},
		fsprobe.Superblock{Type: "ext4", Label: "sixteen-byte-lbl", Verified: true, Proof: byBackup, BlockSize: 4096, Size: 256 * mib}},
	{"ext4-nosum-1k", 64 * mib, []string{"mkfs.ext4", "-q", "-b", "1024", "-U", uuid, "-O", "^metadata_csum"},
		fsprobe.Superblock{Type: "ext4", Verified: true, Proof: byBackup, BlockSize: 1024, Size: 64 * mib}},
	{"ext4-nosum-one-group", 8 * mib, []string{"mkfs.ext4", "-q", "-b", "4096", "-U", uuid, "-O", "^metadata_csum"},
		fsprobe.Superblock{Type: "ext4", Verified: true, Proof: "group descriptor and root directory", BlockSize: 4096, Size: 8 * mib}},
	{"ext4-sparse2", 512 * mib, []string{"mkfs.ext4", "-q", "-b", "4096", "-U", uuid, "-O", "^metadata_csum,sparse_super2,^resize_inode", "-E", "num_backup_sb=2"},
		fsprobe.Superblock{Type: "ext4", Verified: true, Proof: byBackup, BlockSize: 4096, Size: 512 * mib}},
	{"ext3", 64 * mib, []string{"mkfs.ext3", "-q", "-b", "1024", "-U", uuid},
		fsprobe.Superblock{Type: "ext3", Verified: true, Proof: byBackup, BlockSize: 1024, Size: 64 * mib}},
	{"ext2", 64 * mib, []string{"mkfs.ext2", "-q", "-b", "1024", "-U", uuid},
		fsprobe.Superblock{Type: "ext2", Verified: true, Proof: byBackup, BlockSize: 1024, Size: 64 * mib}},
	{"xfs", 320 * mib, []string{"mkfs.xfs", "-q", "-m", "uuid=" + uuid, "-L", "xdata"},
		fsprobe.Superblock{Type: "xfs", Label: "xdata", Verified: true, HasChecksum: true, Proof: "superblock checksum", BlockSize: 4096, Size: 320 * mib}},
	{"xfs-sector-4096", 320 * mib, []string{"mkfs.xfs", "-q", "-m", "uuid=" + uuid, "-s", "size=4096"},
		fsprobe.Superblock{Type: "xfs", Verified: true, HasChecksum: true, Proof: "superblock checksum", BlockSize: 4096, Size: 320 * mib}},
	{"xfs-v4", 320 * mib, []string{"mkfs.xfs", "-q", "-m", "crc=0,uuid=" + uuid},
		fsprobe.Superblock{Type: "xfs", Verified: true, Proof: "superblock of the second allocation group", BlockSize: 4096, Size: 320 * mib}},
	{"btrfs", 128 * mib, []string{"mkfs.btrfs", "-q", "-U", uuid, "-L", "bdata"},
		fsprobe.Superblock{Type: "btrfs", Label: "bdata", Verified: true, HasChecksum: true, Proof: "superblock checksum", BlockSize: 4096, Size: 128 * mib}},
	{"btrfs-xxhash", 128 * mib, []string{"mkfs.btrfs", "-q", "-U", uuid, "--csum", "xxhash"},
		fsprobe.Superblock{Type: "btrfs", Verified: true, HasChecksum: true, Proof: "superblock checksum", BlockSize: 4096, Size: 128 * mib}},
	{"btrfs-sha256", 128 * mib, []string{"mkfs.btrfs", "-q", "-U", uuid, "--csum", "sha256"},
		fsprobe.Superblock{Type: "btrfs", Verified: true, HasChecksum: true, Proof: "superblock checksum", BlockSize: 4096, Size: 128 * mib}},
	{"btrfs-blake2", 128 * mib, []string{"mkfs.btrfs", "-q", "-U", uuid, "--csum", "blake2"},
		fsprobe.Superblock{Type: "btrfs", HasChecksum: true, Proof: "none: BLAKE2b checksums are not verified", BlockSize: 4096, Size: 128 * mib}},
	{"f2fs", 64 * mib, []string{"mkfs.f2fs", "-q", "-U", uuid, "-l", "flash"},
		fsprobe.Superblock{Type: "f2fs", Label: "flash", Verified: true, Proof: "second superblock and checksum of the checkpoint", BlockSize: 4096, Size: 64 * mib}},
	{"f2fs-sum", 64 * mib, []string{"mkfs.f2fs", "-q", "-U", uuid, "-i", "-l", "größe", "-O", "extra_attr,sb_checksum"},
		fsprobe.Superblock{Type: "f2fs", Label: "größe", Verified: true, HasChecksum: true, Proof: "checksums of superblock and checkpoint", BlockSize: 4096, Size: 64 * mib}},
	{"fat12", 2 * mib, []string{"mkfs.vfat", "-i", "1a2b3c4d", "-n", "TWELVE"},
		fsprobe.Superblock{Type: "vfat", UUID: "1A2B-3C4D", Label: "TWELVE", Verified: true, Proof: "allocation tables", BlockSize: 2048, Size: 2 * mib}},
	{"fat16", 32 * mib, []string{"mkfs.vfat", "-i", "1a2b3c4d"},
		fsprobe.Superblock{Type: "vfat", UUID: "1A2B-3C4D", Verified: true, Proof: "allocation tables", BlockSize: 2048, Size: 32 * mib}},
	{"fat32", 64 * mib, []string{"mkfs.vfat", "-F", "32", "-i", "1a2b3c4d", "-n", "THIRTY TWO"},
		fsprobe.Superblock{Type: "vfat", UUID: "1A2B-3C4D", Label: "THIRTY TWO", Verified: true, Proof: "backup boot sector", BlockSize: 512, Size: 64 * mib}},
	{"fat32-sector-4096", 300 * mib, []string{"mkfs.vfat", "-F", "32", "-S", "4096", "-i", "1a2b3c4d"},
		fsprobe.Superblock{Type: "vfat", UUID: "1A2B-3C4D", Verified: true, Proof: "backup boot sector", BlockSize: 4096, Size: 300 * mib}},
}

// expected returns what must be read from a sample.
func (s sample) expected() fsprobe.Superblock {
	w := s.want
	if w.UUID == "" {
		w.UUID = uuid
	}
	w.Sector = sectorOf(s)
	return w
}

// image is a device of which only some pages are known; the others are zero.
type image struct {
	size  int64
	pages map[int64][]byte
}

const pageSize = 4096

func (m *image) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) && off < m.size {
		in := off % pageSize
		n := int(min(int64(len(p)-done), pageSize-in, m.size-off))
		part := p[done : done+n]
		clear(part)
		if page := m.pages[off/pageSize]; page != nil {
			copy(part, page[in:])
		}
		done += n
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// set changes one byte.
func (m *image) set(off int64, b byte) {
	page := m.pages[off/pageSize]
	if page == nil {
		page = make([]byte, pageSize)
		m.pages[off/pageSize] = page
	}
	page[off%pageSize] = b
}

func (m *image) get(off int64) byte {
	if p := m.pages[off/pageSize]; p != nil {
		return p[off%pageSize]
	}
	return 0
}

// recorder records what is read from a device.
type recorder struct {
	io.ReaderAt
	mu    sync.Mutex
	pages map[int64][]byte
	reads []string
}

func (r *recorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads = append(r.reads, fmt.Sprintf("%d+%d", off, len(p)))
	if r.pages == nil {
		r.pages = map[int64][]byte{}
	}
	r.pages[off/pageSize] = append([]byte(nil), p[:n]...)
	return n, err
}

func recordingPath(name string) string { return filepath.Join("testdata", name+".hex") }

// load reads a recording: the size, then each run of 16 bytes that is not all
// zero, with its offset, in hexadecimal.
func load(t testing.TB, name string) *image {
	t.Helper()
	f, err := os.Open(recordingPath(name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &image{pages: map[int64][]byte{}}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		key, value, _ := strings.Cut(sc.Text(), " ")
		if key == "size" {
			if m.size, err = strconv.ParseInt(value, 10, 64); err != nil {
				t.Fatal(err)
			}
			continue
		}
		off, err1 := strconv.ParseInt(key, 16, 64)
		row, err2 := hex.DecodeString(value)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, b := range row {
			m.set(off+int64(i), b)
		}
	}
	return m
}

func save(t *testing.T, name string, size int64, pages map[int64][]byte) {
	t.Helper()
	var numbers []int64
	for i := range pages {
		numbers = append(numbers, i)
	}
	sort.Slice(numbers, func(a, b int) bool { return numbers[a] < numbers[b] })
	var b strings.Builder
	fmt.Fprintf(&b, "size %d\n", size)
	for _, i := range numbers {
		for o := 0; o+16 <= len(pages[i]); o += 16 {
			row := pages[i][o : o+16]
			if strings.Trim(string(row), "\x00") != "" {
				fmt.Fprintf(&b, "%08x %x\n", i*pageSize+int64(o), row)
			}
		}
	}
	if err := os.WriteFile(recordingPath(name), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRealFilesystems makes each filesystem with its own program and reads it. It reports
// programs that are not installed; the recordings are tested anyway.
func TestRealFilesystems(t *testing.T) {
	t.Parallel()
	var missing []string
	for _, s := range samples {
		program := findProgram(s.command[0])
		if program == "" {
			missing = append(missing, s.command[0])
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, s.size); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(program, append(s.command[1:], path)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %v\n%s", s.command, err, out)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r := &recorder{ReaderAt: f}
			compare(t, r, s)
			if *record {
				save(t, s.name, s.size, r.pages)
			}
		})
	}
	if len(missing) > 0 {
		t.Logf("only the recordings of %v are tested: the programs are not installed", missing)
	}
}

func findProgram(name string) string {
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p
		}
	}
	return ""
}

func compare(t *testing.T, r io.ReaderAt, s sample) {
	t.Helper()
	got, err := fsprobe.Read(r, s.size)
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	if want := s.expected(); *got != want {
		t.Errorf("Read\n got %+v\nwant %+v", *got, want)
	}
	again, err := fsprobe.ReadType(r, s.size, s.want.Type)
	if err != nil {
		t.Fatalf("ReadType: %v", err)
	}
	if *again != *got {
		t.Errorf("ReadType\n got %+v\nwant %+v", *again, *got)
	}
	name, err := fsprobe.Signature(r, s.size)
	if err != nil || name != s.want.Type {
		t.Errorf("Signature = %q, %v, want %q", name, err, s.want.Type)
	}
}
