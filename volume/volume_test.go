// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

const mib = 1 << 20

// spec is the volume of most tests, as the configuration's defaults have it.
func spec() volume.Spec {
	return volume.Spec{
		Name: "data", Mapping: "data", Device: "/dev/mmcblk2p3", Source: volume.SourceCAAM, Wrap: "ccm", KeySize: 32,
		Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096, Header: volume.HeaderOnDevice, HeaderSize: mib, Gap: mib,
		Filesystem: volume.Filesystem{Type: "ext4", Label: "data"}, Mount: volume.MountSpec{Path: "/data"},
		StateDir: "/var/lib/imxcrypt",
	}
}

func newBoard(disk volumetest.Store) *volumetest.Board {
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
	b.Directories = []string{"/data"}
	return b
}

// powerCycle is the same board, off and on again.
func powerCycle(b *volumetest.Board) *volumetest.Board {
	b.Chip.PowerCycle()
	n := volumetest.New(b.Chip, b.Files, b.Disks...)
	n.Directories, n.State = b.Directories, b.State
	return n
}

func must(t *testing.T, r volume.Result, err error) volume.Result {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
	}
	return r
}

func refused(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Fatalf("expected code %s, got %s: %v", code, fault.CodeOf(err), err)
	}
}

// Users of the mounted volume write and read here, behind the filesystem that
// the fake mkfs makes.
const userData = 2 * mib

func put(t *testing.T, b *volumetest.Board, text string) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), userData); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, b *volumetest.Board, n int) string {
	t.Helper()
	f, err := b.Mapping("data", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, userData); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func TestDataIsBackAfterThePowerCycle(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ccm", "ecb"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			s := spec()
			s.Wrap = wrap
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); r.Mounted != "/data" || r.Already {
				t.Fatalf("%+v", r)
			}
			put(t, b, "the quick brown fox")
			if bytes.Contains(disk.Bytes(), []byte("quick brown")) {
				t.Fatal("plaintext on the disk")
			}
			if b.Ring.Left() != 0 {
				t.Fatalf("%d keys left in a keyring", b.Ring.Left())
			}
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if got := get(t, b, 19); got != "the quick brown fox" {
				t.Fatalf("%q", got)
			}
		})
	}
}

func TestAnotherChipIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, spec(), volume.ProvisionOptions{})
	must(t, r, err)
	other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
	_, err = other.Manager().Unlock(ctx, spec(), volume.UnlockOptions{})
	refused(t, err, fault.BlobRejected)
	if infos, _ := other.DM.List(); len(infos) != 0 {
		t.Fatalf("mappings left behind: %v", infos)
	}
}

// The silent disaster: an ECB black key of another power cycle encrypts with
// another key and nobody complains. The check does.
func TestAWrongKeyIsSeenBeforeAnythingIsAnnounced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ccm", "ecb"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			s := spec()
			s.Wrap = wrap
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			b = powerCycle(b)
			// The key goes stale between its import and the first read.
			b.Step = func(what string) error {
				if what == "load data" {
					b.Chip.PowerCycle()
				}
				return nil
			}
			_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			refused(t, err, fault.KeyWrong)
			if infos, _ := b.DM.List(); len(infos) != 0 {
				t.Fatalf("mappings left behind: %v", infos)
			}
		})
	}
}

func TestProvisioningAgainChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, spec(), volume.ProvisionOptions{})
	must(t, r, err)
	before := disk.Bytes()
	for range 3 {
		r, err = b.Manager().Provision(ctx, spec(), volume.ProvisionOptions{})
		if must(t, r, err); !r.Already {
			t.Fatalf("not said to be done already: %+v", r)
		}
	}
	if !bytes.Equal(before, disk.Bytes()) || len(b.Made()) != 1 {
		t.Fatalf("something was written; filesystems made: %v", b.Made())
	}
}
