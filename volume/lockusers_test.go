// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// A lock that could not finish is refused while the volume is still mounted, and the
// error names the users.
func TestALockThatCannotEndUnmountsNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		hold func(*testing.T, *volumetest.Board)
		code fault.Code
		says string
	}{
		"another mount namespace": {func(t *testing.T, b *volumetest.Board) {
			info, err := b.DM.Info("data")
			if err != nil {
				t.Fatal(err)
			}
			b.Copies = []mount.Entry{{Major: info.Number.Major, Minor: info.Number.Minor, Root: "/", Target: "/var/lib/data", Type: "ext4"}}
		}, fault.MountBusy, "also mounted on /var/lib/data in another mount namespace, which unmounting it here does not reach: process 812 (containerd)"},
		"a mapping over it": {func(t *testing.T, b *volumetest.Board) {
			info, err := b.DM.Info("data")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.DM.Activate(ctx, "vg-home", "LVM-1", dmcrypt.Table{dmcrypt.Linear{Length: 8, Device: info.Number}}, false); err != nil {
				t.Fatal(err)
			}
		}, fault.DeviceInUse, "mapped as vg-home"},
		"a program with a file in it": {func(_ *testing.T, b *volumetest.Board) {
			b.Uses = map[string]string{"/data": "journald"}
		}, fault.MountBusy, "process 4711 (journald)"},
		"a program with a file, behind a second mount": {func(t *testing.T, b *volumetest.Board) {
			b.Directories = append(b.Directories, "/again")
			if err := b.Mount("/dev/mapper/data", "/again", "ext4", nil); err != nil {
				t.Fatal(err)
			}
			b.Uses = map[string]string{"/data": "journald"}
		}, fault.MountBusy, "process 4711 (journald)"},
		"a program that reads the mapping": {func(t *testing.T, b *volumetest.Board) {
			f, err := b.Mapping("data", false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
		}, fault.Busy, "/dev/mapper/data is in use: a program has it open (/dev/dm-0)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mounted(t, newSpec())
			c.hold(t, b)
			b.Patience = 100 * time.Millisecond
			b.Step = func(what string) error {
				t.Errorf("changed: %s", what)
				return nil
			}
			for _, o := range []volume.LockOptions{{DryRun: true}, {}} {
				_, err := b.Manager().Lock(ctx, newSpec(), o)
				refused(t, err, c.code)
				if !strings.Contains(err.Error(), c.says) {
					t.Fatal(err)
				}
			}
		})
	}
}

// A failure that could not be foreseen leaves the volume as it was, unlocked and mounted.
func TestALockThatFailedMountsAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := mounted(t, newSpec())
	failure := errors.New("in use by something that nobody sees")
	b.Step = func(what string) error {
		if what == "remove data" {
			return failure
		}
		return nil
	}
	r, err := b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
	if !errors.Is(err, failure) || !did(r, "mounted again") {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := get(t, b, len(userText)); got != userText {
		t.Fatalf("%q", got)
	}
	b.Step = nil
	if at, err := b.Look("/data"); err != nil || at.State != mount.TargetOccupied {
		t.Fatalf("%+v, %v", at, err)
	}
	r, err = b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
	must(t, r, err)
}

// If two configurations have a volume of the same name, lock takes only its own, by what
// the mapping is on. A mapping whose device came back under another number is its own,
// and so is one whose device is gone.
func TestLockRefusesTheVolumeOfAnotherConfiguration(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const second = "/dev/mmcblk1p1"
	for name, c := range map[string]struct {
		with func(*testing.T, *volumetest.Board, *crashtest.Image, *spec.Volume)
		code fault.Code
	}{
		"another volume": {with: func(t *testing.T, b *volumetest.Board, _ *crashtest.Image, s *spec.Volume) {
			other := *s
			other.Mapping, other.Mount = "other", spec.Mount{}
			r, err := b.Manager().Provision(ctx, other, volume.ProvisionOptions{})
			must(t, r, err)
			r, err = b.Manager().Lock(ctx, other, volume.LockOptions{})
			must(t, r, err)
		}, code: fault.MappingMismatch},
		"an empty device": {with: func(*testing.T, *volumetest.Board, *crashtest.Image, *spec.Volume) {}, code: fault.MappingMismatch},
		"its own device, under another number": {with: func(_ *testing.T, b *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) {
			b.Disks[1].Store = disk
		}},
		"a device that is gone": {with: func(_ *testing.T, b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
			b.Disks[1].Absent = true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			s := newSpec()
			first := s.Device
			b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), &volumetest.Disk{Path: first, Store: disk}, &volumetest.Disk{Path: second, Store: crashtest.NewImage(16 * mib)})
			b.Directories = []string{"/data"}
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			s.Device = second
			c.with(t, b, disk, &s)
			_, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
			if c.code != "" {
				refused(t, err, c.code)
				s.Device = first
			} else if err != nil {
				t.Fatal(err)
			}
			r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
		})
	}
}
