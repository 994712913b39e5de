// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// With a detached header and a damaged filesystem nothing proves the key: the volume can
// be opened read-only, and says so.
func TestADetachedVolumeWithADamagedFilesystemIsShownReadOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := changed(detached)
	b, im := ready(t, s)
	write(im, make([]byte, 4096), 0)
	_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.KeyWrong)
	if !strings.Contains(err.Error(), "--for-repair") {
		t.Fatal(err)
	}
	for _, already := range []bool{false, true} {
		r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{ForRepair: true, Mount: true})
		if must(t, r, err); r.Already != already || r.Mounted != "" || !already != strings.Contains(strings.Join(r.Warnings, " "), "NOT PROVED") {
			t.Fatalf("%+v", r)
		}
	}
	if got := get(t, b, len(userText)); got != userText {
		t.Fatalf("%q", got)
	}
	if f, err := b.Mapping("data", true); err == nil {
		t.Fatal("can be written", f.Close())
	}
	r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
}

// A sound volume opens as always.
func TestADetachedVolumeWithASoundFilesystemIsOpenedForRepair(t *testing.T) {
	t.Parallel()
	s := changed(detached)
	b, _ := ready(t, s)
	r, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{ForRepair: true})
	must(t, r, err)
	put(t, b, "written")
}

// A dry run finds what the run would find.
func TestADryUnlockIsRefusedAsTheRealOne(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *volumetest.Board)
		code  fault.Code
	}{
		"device in use": {spoil: func(_ *testing.T, b *volumetest.Board) {
			b.Disks[0].Users.Holders = []blockdev.Holder{{Device: "dm-7", Name: "other"}}
		}, code: fault.DeviceInUse},
		"mount point occupied": {spoil: func(_ *testing.T, b *volumetest.Board) { b.Cover("/data") }, code: fault.MountPointOccupied},
		"mount point missing":  {spoil: func(_ *testing.T, b *volumetest.Board) { b.Directories = nil }, code: fault.MountPointMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := ready(t, newSpec())
			c.spoil(t, b)
			for _, dry := range []bool{true, false} {
				_, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true, DryRun: dry})
				refused(t, err, c.code)
			}
		})
	}
}

// A header that was replaced since it was read is not repaired.
func TestOnlyTheHeaderThatWasReadIsRepaired(t *testing.T) {
	t.Parallel()
	b, im := ready(t, newSpec())
	other := crashtest.NewImage(16 * mib)
	write(other, anotherVolume(t, b, "data"), 0)
	for _, disk := range []*crashtest.Image{im, other} {
		h, _, err := luks2.Read(disk, disk.Size())
		if err != nil {
			t.Fatal(err)
		}
		scribble(t, disk, h.CopySize()+0x1200)
	}
	before := other.Bytes()
	r, err := b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Progress: func(s volume.Step) {
		if s.What == "mapping announced" {
			write(im, before, 0)
		}
	}})
	must(t, r, err)
	if !bytes.Equal(im.Bytes(), before) || !strings.Contains(strings.Join(r.Warnings, " "), "was not repaired") {
		t.Fatalf("repaired; %q", r.Warnings)
	}
}
