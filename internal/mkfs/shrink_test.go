// SPDX-License-Identifier: Apache-2.0

package mkfs

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/program"
)

// Storage that does not survive a power cut, or that other users can change, is refused
// for a log.
func TestRoom(t *testing.T) {
	t.Parallel()
	m, dir := Maker{}, t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Skip("NOT TESTED: /dev/shm is no tmpfs here")
	}
	if err := m.Room("/dev/shm/not/there/yet", 1); !fault.Is(err, fault.ShrinkRefused) {
		t.Errorf("a tmpfs: %v", err)
	}
	if err := m.Room("/proc/self/fdinfo", 1); err == nil {
		t.Error("/proc is taken for storage")
	}
	if err := unix.Statfs(dir, &st); err != nil || st.Type == unix.TMPFS_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skip("NOT TESTED: temporary files are no storage here")
	}
	if err := m.Room(dir, 1<<60); !fault.Is(err, fault.StorageFull) {
		t.Errorf("an exbibyte: %v", err)
	}
	bare := Maker{Programs: program.Runner{Dirs: []string{dir}}}
	if err := bare.Room(dir, 1); !fault.Is(err, fault.ProgramMissing) || !strings.Contains(err.Error(), "e2fsck") {
		t.Errorf("without the programs: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := m.Room(dir, 1); !fault.Is(err, fault.FileUnsafe) {
		t.Errorf("a folder of everybody's: %v", err)
	}
}
