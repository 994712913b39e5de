// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/fault"
)

const (
	uuidA = "11111111-2222-4333-8444-555555555555"
	uuidB = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
)

func TestFindByPartition(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "mmcblk2", gptDisk(part{1, uuidA, "boot"}, part{2, uuidB, "dätén"}, part{3, "01020304-0506-4708-890a-0b0c0d0e0f10", "has space"}))
	b.device("mmcblk2", "mmcblk2p1", empty(), "PARTNAME=boot")
	// How kernels show what is not ASCII.
	b.device("mmcblk2", "mmcblk2p2", empty(), "PARTNAME=d!t!n")
	b.device("mmcblk2", "mmcblk2p3", empty(), "PARTNAME=has space")
	b.device("", "mmcblk1", gptDisk(part{1, "99999999-0506-4708-890a-0b0c0d0e0f10", "unnamed"}))
	b.device("mmcblk1", "mmcblk1p1", empty(), "PARTUUID=77777777-0506-4708-890a-0b0c0d0e0f10")

	for spec, want := range map[string]string{
		"PARTLABEL=boot":                                "/dev/mmcblk2p1",
		"PARTLABEL=dätén":                               "/dev/mmcblk2p2",
		"PARTLABEL=has space":                           "/dev/mmcblk2p3",
		`PARTLABEL="has space"`:                         "/dev/mmcblk2p3",
		"PARTLABEL=unnamed":                             "/dev/mmcblk1p1",
		"PARTUUID=" + uuidB:                             "/dev/mmcblk2p2",
		"PARTUUID=" + upper(uuidA):                      "/dev/mmcblk2p1",
		"PARTUUID=77777777-0506-4708-890a-0b0c0d0e0f10": "/dev/mmcblk1p1",
		b.root + "/dev/disk/by-partlabel/boot":          "/dev/mmcblk2p1",
		b.root + `/dev/disk/by-partlabel/has\x20space`:  "/dev/mmcblk2p3",
		b.root + "/dev/disk/by-partuuid/" + uuidA:       "/dev/mmcblk2p1",
		b.root + "/dev/mmcblk2p3":                       "/dev/mmcblk2p3",
		b.root + "/dev/mapper/../mmcblk2p3":             "/dev/mmcblk2p3",
	} {
		if got, err := b.find(spec); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", spec, got, err, want)
		}
	}
	for _, spec := range []string{
		"PARTLABEL=Boot", "PARTLABEL=d", "PARTUUID=" + uuidA[:35],
		// The kernel's own PARTUUID counts, not the table's.
		"PARTUUID=99999999-0506-4708-890a-0b0c0d0e0f10",
		b.root + "/dev/mmcblk9", b.root + "/dev/disk/by-partlabel/none", b.root + "/dev/mmcblk2/p1",
	} {
		got, err := b.find(spec)
		var missing *NotFoundError
		if !errors.As(err, &missing) || fault.CodeOf(err) != fault.DeviceMissing || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s = %q, %v, want a *NotFoundError", spec, got, err)
		}
	}
}

func upper(s string) string {
	return string(slices.Collect(func(yield func(byte) bool) {
		for _, c := range []byte(s) {
			if c >= 'a' && c <= 'f' {
				c -= 'a' - 'A'
			}
			if !yield(c) {
				return
			}
		}
	}))
}

func TestFindBySecondGPT(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	disk := gptDisk(part{1, uuidA, "data"})
	disk[512+60]++ // the first header
	b.device("", "sda", disk)
	b.device("sda", "sda1", empty())
	if got, err := b.find("PARTUUID=" + uuidA); got != "/dev/sda1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFindInMBR(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	disk := make([]byte, 64<<10)
	copy(disk[440:], "\x78\x56\x34\x12")
	disk[510], disk[511] = 0x55, 0xaa
	b.device("", "mmcblk0", disk)
	b.device("mmcblk0", "mmcblk0p2", empty())
	b.device("mmcblk0", "mmcblk0p10", empty())
	for spec, want := range map[string]string{
		"PARTUUID=12345678-02": "/dev/mmcblk0p2",
		"PARTUUID=12345678-0A": "/dev/mmcblk0p10",
	} {
		if got, err := b.find(spec); got != want || err != nil {
			t.Errorf("%s = %q, %v", spec, got, err)
		}
	}
}

func TestFindByContent(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "mmcblk2", gptDisk())
	b.device("mmcblk2", "mmcblk2p1", fatImage(0x1a2b3c4d, "BOOT"))
	b.device("mmcblk2", "mmcblk2p2", luks(2, 0, uuidA, "data"))
	b.device("mmcblk2", "mmcblk2p3", luks(1, 0, uuidB, ""))
	// The first copy was overwritten.
	b.device("mmcblk2", "mmcblk2p4", luks(2, 0x8000, "damaged1-2222-4333-8444-555555555555", "mendme"))
	b.mapping("dm-0", "data", "CRYPT-LUKS2-x-data", "mmcblk2p2", fatImage(0x99990001, "INNER"))
	b.device("", "loop0", fatImage(0x99990002, "LOOP"))
	for spec, want := range map[string]string{
		"UUID=1A2B-3C4D":                       "/dev/mmcblk2p1",
		"UUID=1a2b-3c4d":                       "/dev/mmcblk2p1",
		"LABEL=BOOT":                           "/dev/mmcblk2p1",
		"UUID=" + uuidA:                        "/dev/mmcblk2p2",
		"LABEL=data":                           "/dev/mmcblk2p2",
		"UUID=" + uuidB:                        "/dev/mmcblk2p3",
		"LABEL=mendme":                         "/dev/mmcblk2p4",
		"LABEL=INNER":                          "/dev/mapper/data",
		"LABEL=LOOP":                           "/dev/loop0",
		b.root + "/dev/disk/by-uuid/1A2B-3C4D": "/dev/mmcblk2p1",
		b.root + "/dev/disk/by-label/data":     "/dev/mmcblk2p2",
	} {
		if got, err := b.find(spec); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", spec, got, err, want)
		}
	}
}

// A mapping without its link is found by the kernel's node: early in the boot the link
// does not exist yet.
func TestFindMappingWithoutLink(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "sda", empty())
	b.mapping("dm-3", "vol", "", "sda", fatImage(5, "DEEP"))
	if err := os.Remove(b.root + "/dev/mapper/vol"); err != nil {
		t.Fatal(err)
	}
	if got, err := b.find("LABEL=DEEP"); got != "/dev/dm-3" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFindRefusesTheAmbiguous(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "sdb", fatImage(7, "DATA"))
	b.device("", "sda", luks(2, 0, uuidA, "DATA"))
	b.device("", "sdc", fatImage(8, "OTHER"))
	_, err := b.find("LABEL=DATA")
	var several *AmbiguousError
	if !errors.As(err, &several) || fault.CodeOf(err) != fault.DeviceAmbiguous {
		t.Fatalf("%v, want an *AmbiguousError", err)
	}
	want := []string{b.root + "/dev/sda", b.root + "/dev/sdb"}
	if !slices.Equal(several.Candidates, want) {
		t.Errorf("candidates %v, want %v", several.Candidates, want)
	}
	for _, c := range want {
		if !strings.Contains(err.Error(), c+" (") || !strings.Contains(err.Error(), " MiB") {
			t.Errorf("%q does not name %s", err, c)
		}
	}
}

func TestFindLeavesOut(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "mmcblk2", append(fatImage(1, "ONE"), empty()...))
	b.device("mmcblk2", "mmcblk2p1", fatImage(1, "ONE"))
	// The private pieces of a volume under rotation show the same as the volume.
	b.mapping("dm-0", "vol", "CRYPT-LUKS2-x-vol", "mmcblk2p1", fatImage(2, "VOL"))
	b.mapping("dm-1", "vol-new", "CRYPT-SUBDEV-x-vol-new", "mmcblk2p1", fatImage(2, "VOL"))
	for _, name := range []string{"ram0", "mtdblock3", "mmcblk2rpmb", "nbd0"} {
		b.device("", name, fatImage(1, "ONE"))
	}
	b.device("", "fdisk", fatImage(3, "NODRIVE")) // only its name begins like a drive's
	b.device("", "loop7", nil)                    // not in use
	for spec, want := range map[string]string{
		"LABEL=ONE": "/dev/mmcblk2p1", "LABEL=VOL": "/dev/mapper/vol", "LABEL=NODRIVE": "/dev/fdisk",
	} {
		if got, err := b.find(spec); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", spec, got, err, want)
		}
	}
}

// Reading a suspended mapping would hang.
func TestFindLeavesOutTheSuspended(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "sda", empty())
	b.mapping("dm-0", "below", "", "sda", fatImage(1, "BELOW"))
	b.mapping("dm-1", "above", "", "dm-0", fatImage(2, "ABOVE"))
	b.file("sys/devices/dm-0/dm/suspended", "1\n")
	for _, spec := range []string{"LABEL=BELOW", "LABEL=ABOVE"} {
		_, err := b.find(spec)
		var missing *NotFoundError
		if !errors.As(err, &missing) || len(missing.Unreadable) != 2 || !strings.Contains(err.Error(), "suspended") {
			t.Errorf("%s: %v, want it not found and the reason named", spec, err)
		}
	}
}

func TestFindTellsWhatItCouldNotRead(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "sda", empty())
	if err := os.Remove(b.root + "/dev/sda"); err != nil {
		t.Fatal(err)
	}
	_, err := b.find("UUID=" + uuidA)
	var missing *NotFoundError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "sda") {
		t.Errorf("%v does not name the device without a node", err)
	}
}

func TestFindRefusesTheSpec(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	for _, spec := range []string{"", "sda", "mmcblk2p3", "PARTLABEL=", `UUID=""`, "ID=x", "uuid=" + uuidA, "/dev/sda\x00", "LABEL=a\nb", "./x"} {
		_, err := b.find(spec)
		if fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%q: %v, want a *SpecError", spec, err)
		}
	}
	if _, err := b.find(b.root + "/dev"); !errors.Is(err, ErrNotBlock) || fault.CodeOf(err) != fault.DeviceUnsuitable {
		t.Errorf("a folder: %v", err)
	}
}

func TestWaitForALateDevice(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		path, err := b.Wait(ctx, "PARTLABEL=late")
		if err == nil && filepath.Base(path) != "sda1" {
			err = errors.New("found " + path)
		}
		done <- err
	}()
	time.Sleep(20 * time.Millisecond)
	b.device("", "sda", empty())
	b.device("sda", "sda1", empty(), "PARTNAME=late")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := b.Wait(ctx, "PARTLABEL=never")
	if !errors.Is(err, context.DeadlineExceeded) || fault.CodeOf(err) != fault.DeviceMissing {
		t.Errorf("%v, want it missing and the deadline named", err)
	}
}

// An open volume may hold a filesystem with the same label as its header. The device
// below is meant, before the volume is open and after.
func TestFindTakesTheLowestOfAStack(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	b.device("", "sda", luks(2, 0, uuidA, "DATA"))
	b.mapping("dm-0", "between", "", "sda", empty())
	b.mapping("dm-1", "data", "", "dm-0", fatImage(1, "DATA"))
	if got, err := b.find("LABEL=DATA"); got != "/dev/sda" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	b.device("", "sdb", fatImage(2, "DATA"))
	if _, err := b.find("LABEL=DATA"); fault.CodeOf(err) != fault.DeviceAmbiguous {
		t.Fatalf("%v", err)
	}
}
