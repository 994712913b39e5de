// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// damagedFilesystem is a provisioned volume after a power cycle, whose
// superblock says that errors were found (s_state at 0x3a, EXT4_ERROR_FS).
func damagedFilesystem(t *testing.T) *volumetest.Board {
	t.Helper()
	b := newBoard(crashtest.NewImage(64 * mib))
	r, err := b.Manager().Provision(context.Background(), spec(), volume.ProvisionOptions{})
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
			r, err := b.Manager().Unlock(context.Background(), spec(), volume.UnlockOptions{Mount: true})
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

// An unlocked volume that is mounted later is looked at then.
func TestAMountThatComesLaterChecksToo(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	checks := 0
	b.Fsck = func(string, string) (bool, error) { checks++; return false, nil }
	for i, mount := range []bool{false, true, true} {
		r, err := b.Manager().Unlock(context.Background(), spec(), volume.UnlockOptions{Mount: mount})
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
	r, err := b.Manager().Provision(context.Background(), spec(), volume.ProvisionOptions{})
	must(t, r, err)
	b = powerCycle(b)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	r, err = b.Manager().Unlock(context.Background(), spec(), volume.UnlockOptions{Mount: true})
	must(t, r, err)
}

// What is mounted read-only must not be written to by a checker.
func TestAReadOnlyMountIsNotChecked(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	s := spec()
	s.Mount.Options = []string{"noatime", "ro"}
	r, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
}

// A checker may take a filesystem apart that somebody has mounted by hand elsewhere.
func TestAFilesystemThatIsMountedElsewhereIsNotChecked(t *testing.T) {
	t.Parallel()
	b := damagedFilesystem(t)
	b.Fsck = func(string, string) (bool, error) { t.Error("checked"); return false, nil }
	b.Directories = append(b.Directories, "/mnt")
	r, err := b.Manager().Unlock(context.Background(), spec(), volume.UnlockOptions{})
	must(t, r, err)
	if err := b.System().Mounts.Mount(r.Mapping, "/mnt", "ext4", nil); err != nil {
		t.Fatal(err)
	}
	r, err = b.Manager().Unlock(context.Background(), spec(), volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if got := strings.Join(r.Warnings, "; "); !strings.Contains(got, "mounted on /mnt") {
		t.Errorf("warnings %q", got)
	}
}
