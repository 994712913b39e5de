// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

func did(r volume.Result, what string) bool {
	return slices.ContainsFunc(r.Steps, func(s volume.Step) bool { return strings.Contains(s.What, what) })
}

// A device specification must not lead to the unlocked volume itself.
func TestAVolumeIsNotItsOwnDevice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := mounted(t, newSpec())
	s := changed(func(s *spec.Volume) { s.Device = "/dev/mapper/data" })
	before := b.DM.State()
	_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.DeviceAmbiguous)
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	refused(t, err, fault.DeviceAmbiguous)
	if b.DM.State() != before {
		t.Fatalf("changed:\n%s", b.DM.State())
	}
}

// cryptsetup's volumes have the same kind of uuid as ours; the key distinguishes them.
func TestLockLeavesVolumesThatAreNotOurs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const uuid = "CRYPT-LUKS2-11111111222243338444555555555555-data"
	for name, open := range map[string]func(*testing.T, *volumetest.Board) error{
		"on something else": func(_ *testing.T, b *volumetest.Board) error { return foreignMapping(b, "data", uuid) },
		"of cryptsetup": func(t *testing.T, b *volumetest.Board) error {
			t.Helper()
			const key = "cryptsetup:11111111-2222-4333-8444-555555555555-d0"
			options, err := dmcrypt.CryptOptions(512)
			if err != nil {
				return err
			}
			return b.Ring.WithLogonKey(key, make([]byte, 64), func() error {
				_, err := b.DM.Activate(ctx, "data", uuid, dmcrypt.Table{dmcrypt.Crypt{
					Length: 2048, Cipher: "aes-xts-plain64", Key: dmcrypt.KeyRef{Size: 64, Type: "logon", Description: key},
					Device: dmcrypt.Number{Major: 179, Minor: 8}, Offset: 8192, Options: options,
				}}, false)
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := ready(t, newSpec())
			if err := open(t, b); err != nil {
				t.Fatal(err)
			}
			before := b.DM.State()
			for _, o := range []volume.LockOptions{{DryRun: true}, {}} {
				_, err := b.Manager().Lock(ctx, newSpec(), o)
				refused(t, err, fault.MappingMismatch)
			}
			if b.DM.State() != before {
				t.Fatalf("changed:\n%s", b.DM.State())
			}
		})
	}
}

// Unmounting a suspended volume would wait forever, so lock refuses it and unlock resumes
// it.
func TestASuspendedVolumeIsResumedByUnlock(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range map[string]spec.Volume{"device": newSpec(), "detached": changed(detached)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mounted(t, s)
			if err := b.DM.Suspend(ctx, "data", dmcrypt.NoFlush); err != nil {
				t.Fatal(err)
			}
			for _, o := range []volume.LockOptions{{DryRun: true}, {}} {
				_, err := b.Manager().Lock(ctx, s, o)
				refused(t, err, fault.Busy)
			}
			// The suspend has killed the key.
			b.Chip.PowerCycle()
			r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			if must(t, r, err); !r.Already || !did(r, "suspended mapping resumed") {
				t.Fatalf("%+v", r)
			}
			if got := get(t, b, len(userText)); got != userText {
				t.Fatalf("%q", got)
			}
			r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
			if b.DM.State() != "" || b.Ring.Left() != 0 {
				t.Fatalf("left:\n%s", b.DM.State())
			}
		})
	}
}

// A suspended volume whose key is no longer the right one stays suspended.
func TestASuspendedVolumeIsNotResumedWithAWrongKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := mounted(t, newSpec())
	if err := b.DM.Suspend(ctx, "data", dmcrypt.NoFlush); err != nil {
		t.Fatal(err)
	}
	before := b.DM.State()
	b.Step = func(what string) error {
		if strings.HasPrefix(what, "load data:check") {
			b.Chip.PowerCycle()
		}
		return nil
	}
	_, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	refused(t, err, fault.KeyWrong)
	if b.DM.State() != before {
		t.Fatalf("changed:\n%s", b.DM.State())
	}
}

// If the node of a volume in use was removed, the volume gets its name back.
func TestAVolumeInUseGetsItsNameBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := mounted(t, newSpec())
	if err := b.DM.Suspend(ctx, "data", dmcrypt.NoFlush); err != nil {
		t.Fatal(err)
	}
	if err := b.DM.Resume("data", dmcrypt.Private, dmcrypt.NoFlush); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Mapping("data", false); err == nil {
		t.Fatal("the node is there")
	}
	r, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
	if must(t, r, err); !r.Already || !did(r, "announced again") || !did(r, "key proved") {
		t.Fatalf("%+v", r)
	}
	if got := get(t, b, len(userText)); got != userText {
		t.Fatalf("%q", got)
	}
}

// Only the mapping's number says which volume a mount belongs to, or its source if there
// is no number: a bind mount of a directory and a subvolume belong to the volume too.
func TestWhoseAMountIs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		change func(*mount.Entry)
		code   fault.Code
	}{
		"a folder of it":              {change: func(e *mount.Entry) { e.Root = "/folder" }},
		"by the kernel's name":        {change: func(e *mount.Entry) { e.Source = "/dev/dm-0" }},
		"a subvolume":                 {change: func(e *mount.Entry) { e.Major, e.Minor, e.Root = 0, 42, "/@data" }},
		"another's, by the number":    {change: func(e *mount.Entry) { e.Major, e.Minor = 8, 1 }, code: fault.MountPointOccupied},
		"another's, by the source":    {change: func(e *mount.Entry) { e.Major, e.Source = 0, "/dev/sda1" }, code: fault.MountPointOccupied},
		"a filesystem without a disk": {change: func(e *mount.Entry) { e.Major, e.Source = 0, "tmpfs" }, code: fault.MountPointOccupied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mounted(t, newSpec())
			b.Change("/data", c.change)
			r, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
			if c.code != "" {
				refused(t, err, c.code)
				return
			}
			if must(t, r, err); !r.Already || r.Mounted != "/data" {
				t.Fatalf("%+v", r)
			}
			r, err = b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
			must(t, r, err)
		})
	}
}

// What is mounted over a volume is not unmounted.
func TestLockLeavesWhatIsMountedOverTheVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := mounted(t, newSpec())
	b.Cover("/data")
	for _, o := range []volume.LockOptions{{DryRun: true}, {}} {
		_, err := b.Manager().Lock(ctx, newSpec(), o)
		refused(t, err, fault.MountBusy)
		if !strings.Contains(err.Error(), "tmpfs") {
			t.Fatal(err)
		}
	}
	if entries, err := b.List(); err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	b.Uncover("/data")
	r, err := b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
	must(t, r, err)
}
