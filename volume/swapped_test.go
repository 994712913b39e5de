// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// Two volumes of one chip: someone who can write to the storage puts one in place of the
// other and makes its header say that it is the other. Its key opens, and its filesystem
// is sound. But the check, which only a holder of the key can write, does not belong to
// this header.
func TestAVolumeInThePlaceOfAnotherIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, pin := range []bool{true, false} {
		t.Run(map[bool]string{true: "pinned", false: "not pinned"}[pin], func(t *testing.T) {
			t.Parallel()
			one, other := crashtest.NewImage(16*mib), crashtest.NewImage(16*mib)
			b := twoDisks(one, other)
			s := newSpec()
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			if pin {
				s.UUID = r.UUID
			}
			logs := changed(func(s *spec.Volume) {
				s.Name, s.Mapping, s.Device, s.Mount.Path = "logs", "logs", otherPath, "/logs"
			})
			r, err = b.Manager().Provision(ctx, logs, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			write(one, other.Bytes(), 0)
			h := headerOf(t, one.Bytes())
			if h.Label = "data"; pin {
				h.UUID = s.UUID
			}
			image, err := h.Image()
			if err != nil {
				t.Fatal(err)
			}
			write(one, image[:2*h.CopySize()], 0)
			b = powerCycle(b)
			before := one.Bytes()
			_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			refused(t, err, fault.KeyWrong)
			_, err = b.Manager().Verify(ctx, s)
			refused(t, err, fault.KeyWrong)
			if b.DM.State() != "" || !bytes.Equal(before, one.Bytes()) {
				t.Fatalf("something was written, or left:\n%s", b.DM.State())
			}
		})
	}
}

// The filesystem that provisioning made proves the key without the check being read. One
// that the owner made later, or that only the header names, does not.
func TestOnlyTheVolumesOwnFilesystemProvesItsKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, im := ready(t, newSpec())
	steps := func(s spec.Volume) []string {
		t.Helper()
		b = powerCycle(b)
		r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		must(t, r, err)
		var out []string
		for _, s := range r.Steps {
			out = append(out, s.What)
		}
		return out
	}
	if got := steps(newSpec()); !slices.Contains(got, "key proved by its filesystem") {
		t.Fatalf("%q", got)
	}
	r, err := b.Manager().Rotate(ctx, newSpec(), volume.RotateOptions{})
	if err != nil {
		t.Fatal(r, err)
	}
	if got := steps(newSpec()); !slices.Contains(got, "key proved by its filesystem") {
		t.Fatalf("after a rotation: %q", got)
	}
	// Another filesystem, and a header that names it.
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	other := crashtest.NewImage(16 * mib)
	plainExt4(other)
	_, err = f.WriteAt(other.Bytes()[:mib], 0)
	if err = errors.Join(err, f.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	sb, err := fsprobe.ReadType(bytes.NewReader(other.Bytes()), 16*mib, "ext4")
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, im, func(h *luks2.Header) {
		member(t, h, "filesystem", header.FilesystemID{Type: "ext4", UUID: sb.UUID})
	})
	if got := steps(newSpec()); !slices.Contains(got, "key proved by its check") {
		t.Fatalf("with another filesystem: %q", got)
	}
}
