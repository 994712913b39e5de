// SPDX-License-Identifier: Apache-2.0

//go:build vm

package blockdev_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/blockdev/blocktest"
	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

var system blockdev.System

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func open(t *testing.T, path string, f blockdev.Flags) *blockdev.Device {
	t.Helper()
	d, err := system.Open(path, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestDirectIOOnRealDevices(t *testing.T) {
	const size = 4 << 20
	for _, block := range []int{512, 4096} {
		path := blocktest.Loop(t, size, blocktest.Options{BlockSize: block})
		d := open(t, path, blockdev.Flags{Write: true, Direct: true, Exclusive: true})
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		want := blockdev.Number{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}
		if !d.IsBlock() || d.Size() != size || d.LogicalBlockSize() != block || d.Number() != want || d.ReadOnly() {
			t.Errorf("%s with blocks of %d: size %d, blocks %d, %s", path, block, d.Size(), d.LogicalBlockSize(), d.Number())
		}
		content := make([]byte, size)
		rng, noise := rand.New(rand.NewPCG(1, 2)), rand.NewChaCha8([32]byte{})
		for range 100 {
			off := rng.Int64N(size)
			p := make([]byte, min(rng.Int64N(20000)+1, size-off))
			_, _ = noise.Read(p)
			copy(content[off:], p)
			if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
				t.Fatalf("write %d at %d: %d, %v", len(p), off, n, err)
			}
		}
		if err := d.Flush(); err != nil {
			t.Error(err)
		}
		got := make([]byte, size+1)
		if n, err := d.ReadAt(got, 0); n != size || err != io.EOF || !bytes.Equal(got[:size], content) {
			t.Errorf("read back %d bytes, %v", n, err)
		}
		if n, err := d.ReadAt(got[1:1000], 333); n != 999 || err != nil || !bytes.Equal(got[1:1000], content[333:1332]) {
			t.Errorf("unaligned memory: %d, %v", n, err)
		}
	}
}

func TestZeroAndDiscardOnARealDevice(t *testing.T) {
	const size = 1 << 20
	d := open(t, blocktest.Loop(t, size, blocktest.Options{}), blockdev.Flags{Write: true, Direct: true})
	full := bytes.Repeat([]byte{0x5a}, size)
	for name, do := range map[string]func() error{
		"Zero":    func() error { return d.Zero(4096, 65536) },
		"Discard": func() error { return d.Discard(4096, 65536, false) },
	} {
		if _, err := d.WriteAt(full, 0); err != nil {
			t.Fatal(err)
		}
		if err := do(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := bytes.Clone(full)
		clear(want[4096 : 4096+65536])
		got := make([]byte, size)
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s did not clear the range: %v", name, err)
		}
	}
	// The errno for "cannot" comes from the real driver.
	if err := d.Discard(0, size, true); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("secure discard of a loop device: %v", err)
	}
	if err := d.Zero(1, 512); !errors.Is(err, unix.EINVAL) || fault.CodeOf(err) != fault.DeviceUnsuitable {
		t.Errorf("unaligned Zero: %v", err)
	}
}

func TestReadOnlyDevice(t *testing.T) {
	path := blocktest.Loop(t, 1<<20, blocktest.Options{ReadOnly: true})
	if _, err := system.Open(path, blockdev.Flags{Write: true}); fault.CodeOf(err) != fault.DeviceReadOnly {
		t.Errorf("open for writing: %v (fault %s)", err, fault.CodeOf(err))
	}
	if d := open(t, path, blockdev.Flags{Direct: true}); !d.ReadOnly() {
		t.Error("not seen to be read-only")
	}
}

func TestBusyDeviceNamesItsUsers(t *testing.T) {
	free := func(path string) {
		t.Helper()
		d, err := system.Open(path, blockdev.Flags{Write: true, Exclusive: true})
		if err != nil {
			t.Errorf("freed again, but: %v", err)
			return
		}
		_ = d.Close()
	}
	busy := func(path, want string) {
		t.Helper()
		_, err := system.Open(path, blockdev.Flags{Write: true, Exclusive: true})
		var b *blockdev.BusyError
		if !errors.As(err, &b) || !errors.Is(err, unix.EBUSY) || fault.CodeOf(err) != fault.DeviceInUse || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it busy with %q", err, want)
		}
	}
	path := blocktest.Loop(t, 16<<20, blocktest.Options{})
	run(t, "mkfs.ext4", "-q", path)

	target := filepath.Join(t.TempDir(), "mount point")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(path, target, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	busy(path, filepath.Base(path)+" is mounted on "+target)
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatal(err)
	}
	free(path)

	run(t, "dmsetup", "create", "holder", "--table", "0 100 linear "+path+" 0")
	busy(path, "mapped as holder")
	run(t, "dmsetup", "remove", "--retry", "holder")
	free(path)

	d := open(t, path, blockdev.Flags{Exclusive: true})
	busy(path, "neither the list of mounts nor sysfs")
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	free(path)
}

func TestFindOnRealDisks(t *testing.T) {
	const table = `label: gpt
size=1MiB, name="boot part", uuid=11111111-2222-4333-8444-555555555555
size=4MiB, name=dätä, uuid=AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE
`
	for _, block := range []int{512, 4096} {
		disk := blocktest.Loop(t, 16<<20, blocktest.Options{BlockSize: block, Partitions: true})
		cmd := exec.Command("sfdisk", "-q", disk)
		cmd.Stdin = strings.NewReader(table)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v\n%s", err, out)
		}
		if _, err := system.Wait(t.Context(), disk+"p2"); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs.ext4", "-q", "-b", "4096", "-L", "inside", "-U", "12121212-3434-4565-8787-989898989898", disk+"p2")
		for spec, want := range map[string]string{
			"PARTLABEL=boot part":                                    disk + "p1",
			"PARTLABEL=dätä":                                         disk + "p2",
			"PARTUUID=11111111-2222-4333-8444-555555555555":          disk + "p1",
			"PARTUUID=aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee":          disk + "p2",
			"LABEL=inside":                                           disk + "p2",
			"UUID=12121212-3434-4565-8787-989898989898":              disk + "p2",
			"/dev/disk/by-partlabel/boot\\x20part":                   disk + "p1",
			"/dev/disk/by-uuid/12121212-3434-4565-8787-989898989898": disk + "p2",
		} {
			start := time.Now()
			if got, err := system.Find(t.Context(), spec); got != want || err != nil {
				t.Errorf("blocks of %d: %s = %q, %v, want %q", block, spec, got, err, want)
			}
			t.Logf("%s found in %v", spec, time.Since(start).Round(time.Microsecond))
		}
		// Two disks have the same label until the end of this round.
		twin := blocktest.Loop(t, 16<<20, blocktest.Options{BlockSize: block})
		run(t, "mkfs.ext4", "-q", "-b", "4096", "-L", "inside", twin)
		_, err := system.Find(t.Context(), "LABEL=inside")
		var several *blockdev.AmbiguousError
		if !errors.As(err, &several) || len(several.Candidates) != 2 {
			t.Errorf("two of one label: %v", err)
		}
		run(t, "wipefs", "-aq", twin)
		run(t, "wipefs", "-aq", disk+"p2")
		run(t, "wipefs", "-aq", disk)
	}
}

func TestFindDoesNotHangOnTheSuspended(t *testing.T) {
	path := blocktest.Loop(t, 16<<20, blocktest.Options{})
	run(t, "dmsetup", "create", "sleeper", "--table", "0 20000 linear "+path+" 0")
	defer run(t, "dmsetup", "remove", "--retry", "sleeper")
	run(t, "mkfs.ext4", "-q", "-L", "asleep", "/dev/mapper/sleeper")
	// The mapping shows the same as the device below it, which is the one that is meant.
	if found, err := system.Find(t.Context(), "LABEL=asleep"); err != nil || found != path {
		t.Errorf("found %q, %v; expected %s", found, err, path)
	}
	run(t, "dmsetup", "suspend", "sleeper")
	defer run(t, "dmsetup", "resume", "sleeper")
	done := make(chan error, 1)
	go func() {
		_, err := system.Find(t.Context(), "LABEL=nowhere")
		done <- err
	}()
	select {
	case err := <-done:
		if !strings.Contains(err.Error(), "sleeper: suspended") {
			t.Errorf("%v does not name the suspended mapping", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the search hangs")
	}
}

func TestSampleOfARealDevice(t *testing.T) {
	d := open(t, blocktest.Loop(t, 64<<20, blocktest.Options{}), blockdev.Flags{Write: true, Direct: true})
	if e, err := blockdev.Sample(d, d.Size()); err != nil || !e.Empty {
		t.Errorf("new device: %v, %v", e, err)
	}
	if _, err := d.WriteAt([]byte{1}, d.Size()-1); err != nil {
		t.Fatal(err)
	}
	if e, err := blockdev.Sample(d, d.Size()); err != nil || e.Empty || e.Offset != d.Size()-1 {
		t.Errorf("last byte written: %v, %v", e, err)
	}
}
