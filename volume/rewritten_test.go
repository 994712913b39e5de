// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// slotSpec is a slot whose filesystems an updater writes.
func slotSpec() spec.Volume {
	return changed(func(s *spec.Volume) {
		s.Filesystem = spec.Filesystem{Type: "ext4", UUID: spec.AnyUUID}
	})
}

// writeImage is an updater: it writes all or the beginning of another filesystem through
// the mapping.
func writeImage(t *testing.T, b *volumetest.Board, image []byte) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(image, 0)
	if err = errors.Join(err, f.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func anotherImage() []byte {
	im := crashtest.NewImage(16 * mib)
	plainExt4(im)
	return im.Bytes()[:mib]
}

// A slot is opened without a warning, whatever an updater has written to it. Its key is
// proved by the check alone: nothing else is looked at.
func TestASlotThatAnUpdaterRewrites(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), slotSpec()
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	if must(t, r, err); len(b.Made()) != 1 || r.Mounted != "/data" {
		t.Fatalf("made %v, %+v", b.Made(), r)
	}
	opens := func(what string, mount bool) {
		t.Helper()
		b = powerCycle(b)
		var maps []string
		b.Step = func(step string) error {
			if name, ok := strings.CutPrefix(step, "create "); ok {
				maps = append(maps, name)
			}
			return nil
		}
		r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: mount})
		b.Step = nil
		if must(t, r, err); len(r.Warnings) > 0 || !did(r, "key proved by its check") || !slices.Equal(maps, []string{"data:check", "data"}) {
			t.Fatalf("%s: mappings %q, %+v", what, maps, r)
		}
		r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
		if must(t, r, err); !r.Already || len(b.Made()) > 0 {
			t.Fatalf("%s: made %v, %+v", what, b.Made(), r)
		}
		if st := b.Manager().Status(ctx, s); st.Problem() != nil && mount || len(st.Warnings) > 0 {
			t.Fatalf("%s: %v, %v", what, st.Problem(), st.Warnings)
		}
		for _, look := range []func() error{
			func() error { _, err := b.Manager().Verify(ctx, s); return err },
			func() error { return b.Manager().Diagnose(ctx, s) },
		} {
			if err := look(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	opens("what provisioning made", true)
	for _, what := range []string{"an update", "the next one"} {
		writeImage(t, b, anotherImage())
		opens(what, true)
	}

	// If an update was cut off half-way, the slot opens, so that it can be written again,
	// and is not mounted.
	writeImage(t, b, make([]byte, 8192))
	opens("half an update", false)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.FilesystemMissing)
	r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	if must(t, r, err); !r.Already || !strings.Contains(strings.Join(r.Warnings, "; "), "holds no ext4 image: write one to /dev/mapper/data") {
		t.Fatalf("%+v", r)
	}
	writeImage(t, b, anotherImage())
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)

	// It can be rotated, too.
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	opens("after a rotation", true)
}

// The slot is half-written, and the system was suspended. Whether the key is alive cannot
// be known, so nothing is written through it until it is given again.
func TestAHalfWrittenSlotAfterASuspend(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), slotSpec()
	s.Wrap, s.Mount.Path = "ecb", "" // through a dead ECB key noise is read
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
	must(t, r, err)
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	writeImage(t, b, make([]byte, 8192))
	b.Sleep(time.Hour)
	if err := b.Manager().Status(ctx, s).Problem(); !fault.Is(err, fault.KeysLost) || strings.Contains(err.Error(), "shows no") {
		t.Errorf("after a suspend: %v", err)
	}
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	if err := b.Manager().Status(ctx, s).Err; err != nil {
		t.Errorf("given again: %v", err)
	}
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
}

// The check is read even if the filesystem could prove the key.
func TestASlotsCheckIsAlwaysAsked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, slotSpec(), volume.ProvisionOptions{NoMount: true})
	must(t, r, err)
	scribble(t, disk, 32<<10)
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, slotSpec(), volume.UnlockOptions{})
	if refused(t, err, fault.KeyWrong); b.DM.State() != "" {
		t.Errorf("left:\n%s", b.DM.State())
	}
	// A filesystem that is known by its UUID stands for the check.
	r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	must(t, r, err)
}

// An old header from the time of provisioning does not destroy an updater's image.
func TestAnOldHeaderOfProvisioningFormatsNoImage(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), slotSpec()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	var old []byte
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Progress: func(st volume.Step) {
		if st.What == "ext4 made" {
			old = disk.Bytes()[:mib]
		}
	}})
	must(t, r, err)
	writeImage(t, b, anotherImage())
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	write(disk, old, 0)
	before := string(disk.Bytes())
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	refused(t, err, fault.HeaderRolledBack)
	if before != string(disk.Bytes()) {
		t.Error("something was written")
	}
}

// An old header, put back by other means, opens the check beside it. Through its key all
// data is noise, and no error advises writing over that.
func TestASlotUnderAnOldHeader(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), slotSpec()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	writeImage(t, b, anotherImage())
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	old := slices.Clone(disk.Bytes()[:mib])
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	write(disk, old, 0)
	_, err = powerCycle(b).Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	if refused(t, err, fault.KeyWrong); strings.Contains(err.Error(), "write one") {
		t.Error(err)
	}
}

// Only its filesystem shows which device a detached header belongs to.
func TestASlotHasNoDetachedHeader(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), slotSpec()
	s.Header, s.Gap = "/etc/data.header", 0
	b := newBoard(crashtest.NewImage(16 * mib))
	_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	refused(t, err, fault.ConfigInvalid)
	_, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.ConfigInvalid)
	_, err = b.Manager().Adopt(ctx, s, volume.AdoptOptions{Blob: blobFile})
	refused(t, err, fault.ConfigInvalid)
}
