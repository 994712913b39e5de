// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// damagedFilesystem returns a provisioned volume after a power cycle, whose superblock
// says that errors were found (s_state at 0x3a, EXT4_ERROR_FS).
func damagedFilesystem(t *testing.T) *volumetest.Board {
	t.Helper()
	b := newBoard(crashtest.NewImage(64 * mib))
	r, err := b.Manager().Provision(context.Background(), newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		t.Fatal(err)
	}
	sb[0x3a] |= 2
	binary.LittleEndian.PutUint32(sb[0x3fc:], ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := f.WriteAt(sb, 1024); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return powerCycle(b)
}

func TestAFilesystemThatAsksIsCheckedBeforeItIsMounted(t *testing.T) {
	t.Parallel()
	uncorrected := fault.New(fault.ProgramFailed, "check ext4", errors.New("exit status 4"))
	for name, c := range map[string]struct {
		repaired bool
		err      error
		code     fault.Code // of unlock
		warning  string
	}{
		"sound after all":      {},
		"repaired":             {repaired: true, warning: "repaired"},
		"beyond repair":        {err: uncorrected, code: fault.FilesystemDamaged},
		"no program":           {err: fault.New(fault.ProgramMissing, "e2fsck", nil), warning: "no program"},
		"repaired, then wrong": {repaired: true, err: uncorrected, code: fault.FilesystemDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := damagedFilesystem(t)
			var steps []string
			b.Step = func(what string) error { steps = append(steps, what); return nil }
			b.Fsck = func(fstype, device string) (bool, error) {
				if fstype != "ext4" || device != "/dev/mapper/data" {
					t.Errorf("checked %s on %s", fstype, device)
				}
				return c.repaired, c.err
			}
			r, err := b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Mount: true})
			if fault.CodeOf(err) != c.code {
				t.Fatalf("%v, expected code %q", err, c.code)
			}
			if got := strings.Join(r.Warnings, "; "); !strings.Contains(got, c.warning) || c.warning == "" && got != "" {
				t.Errorf("warnings %q, expected %q", got, c.warning)
			}
			checked, mounted := slices.Index(steps, "fsck /dev/mapper/data"), slices.Index(steps, "mount /data")
			if checked < 0 || (c.code == "") != (mounted > checked) || c.code != "" && mounted >= 0 {
				t.Errorf("checked at %d, mounted at %d: %v", checked, mounted, steps)
			}
			if r.Mapping != "/dev/mapper/data" {
				t.Errorf("the volume is not unlocked for a repair: %+v", r)
			}
		})
	}
}

// An unlocked volume that is mounted later is checked then.
func TestAMountThatComesLaterChecksToo(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	checks := 0
	b.Fsck = func(string, string) (bool, error) { checks++; return false, nil }
	for i, mount := range []bool{false, true, true} {
		r, err := b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Mount: mount})
		must(t, r, err)
		if want := min(i, 1); checks != want {
			t.Errorf("%d checks after run %d, expected %d", checks, i, want)
		}
	}
}

func TestASoundFilesystemIsNotChecked(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(64 * mib))
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	r, err := b.Manager().Provision(context.Background(), newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	b = powerCycle(b)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	r, err = b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Mount: true})
	must(t, r, err)
}

// A checker must not write to a filesystem that is mounted read-only.
func TestAReadOnlyMountIsNotChecked(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	s := newSpec()
	s.Mount.Options = []string{"noatime", "ro"}
	r, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
}

// A checker may destroy a filesystem that was mounted by hand elsewhere.
func TestAFilesystemThatIsMountedElsewhereIsNotChecked(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	b.Directories = append(b.Directories, "/mnt")
	r, err := b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{})
	must(t, r, err)
	if err := b.System().Mounts.Mount(r.Mapping, "/mnt", "ext4", nil); err != nil {
		t.Fatal(err)
	}
	r, err = b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if got := strings.Join(r.Warnings, "; "); !strings.Contains(got, "mounted on /mnt") {
		t.Errorf("warnings %q", got)
	}
}

// An updater wrote, through the mapping, an image that was made for smaller sectors: the
// kernel would report only EINVAL.
func TestAnImageForSmallerSectorsIsRefusedByName(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(64 * mib))
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	must(t, r, err)
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	writeSample(t, f, "ext4-1k")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
	refused(t, err, fault.FilesystemWrong)
	const says = "the ext4 filesystem was made for blocks of 1024 bytes, and the volume has sectors of 4096: make it with mkfs.ext4 -b 4096"
	if !strings.Contains(err.Error(), says) {
		t.Error(err)
	}
	if at, err := b.Look("/data"); err != nil || at.Mounted != nil {
		t.Errorf("%+v, %v", at, err)
	}
}

// writeSample writes the sectors that are not zero of a filesystem that package fsprobe
// has recorded.
func writeSample(t *testing.T, f interface {
	ReadAt([]byte, int64) (int, error)
	WriteAt([]byte, int64) (int, error)
}, name string) {
	t.Helper()
	text, err := os.ReadFile("../internal/fsprobe/testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < mib; off += 4096 {
		if _, err := f.WriteAt(make([]byte, 4096), off); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		at, bytes, ok := strings.Cut(line, " ")
		off, err := strconv.ParseInt(at, 16, 64)
		data, err2 := hex.DecodeString(strings.TrimSpace(bytes))
		if !ok || errors.Join(err, err2) != nil {
			continue
		}
		block := make([]byte, 4096)
		start := off &^ 4095
		if _, err := f.ReadAt(block, start); err != nil {
			t.Fatal(err)
		}
		copy(block[off-start:], data)
		if _, err := f.WriteAt(block, start); err != nil {
			t.Fatal(err)
		}
	}
}
