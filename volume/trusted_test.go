// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

const secretText = "meet me at the old oak"

func trustedSpec() spec.Volume {
	s := newSpec()
	s.Source, s.Wrap, s.Cipher, s.KeySize = spec.SourceTrusted, "", "aes-xts-plain64", 64
	return s
}

// The life of a volume whose key the kernel makes: it opens after a power cycle, with
// another key after a rotation, and not on another chip.
func TestTheLifeOfATrustedKey(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), trustedSpec()
	b := newBoard(crashtest.NewImage(16 * mib))
	m := volume.New(b.System())
	r, err := m.Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	put(t, b, secretText)

	b = powerCycle(b)
	m = volume.New(b.System())
	r, err = m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if got := get(t, b, len(secretText)); got != secretText {
		t.Fatalf("after a power cycle: %q", got)
	}
	if r, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true}); err != nil || !r.Already {
		t.Errorf("unlocked again: already %v, %v", r.Already, err)
	}
	r, err = m.Verify(ctx, s)
	must(t, r, err)
	if _, err := m.Rotate(ctx, s, volume.RotateOptions{}); err != nil {
		t.Fatalf("rotate: %v", err)
	}
	if got := get(t, b, len(secretText)); got != secretText {
		t.Fatalf("after the rotation: %q", got)
	}
	r, err = m.Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	if n := b.Ring.Left(); n != 0 {
		t.Errorf("%d keys are left in the keyrings", n)
	}

	b = powerCycle(b)
	b.Ring.Trust = caamtest.RandomChip()
	_, err = volume.New(b.System()).Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.BlobRejected)
	b.Ring.Trust = nil
	_, err = volume.New(b.System()).Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.TrustMissing)
	b.Ring.Trust = b.Chip
	pinned := s
	pinned.Trusted.Source = "tpm"
	_, err = volume.New(b.System()).Unlock(ctx, pinned, volume.UnlockOptions{})
	refused(t, err, fault.HeaderMismatch)
	r, err = volume.New(b.System()).Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if got := get(t, b, len(secretText)); got != secretText {
		t.Fatalf("at the end: %q", got)
	}
}

// The kernel takes no trusted key from outside, so there is no recovery copy of one.
func TestNoRecoveryCopyOfATrustedKey(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(16 * mib))
	_, err := volume.New(b.System()).Provision(context.Background(), trustedSpec(), volume.ProvisionOptions{Recipients: []string{"age1"}})
	refused(t, err, fault.Usage)
	for _, way := range []string{"back up the data", "with the header in a file", "`imxcrypt decrypt`"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("%v: does not say %q", err, way)
		}
	}
}

// Without a trust source provisioning changes nothing.
func TestProvisioningWithoutATrustSource(t *testing.T) {
	t.Parallel()
	im := crashtest.NewImage(16 * mib)
	before := append([]byte{}, im.Bytes()...)
	b := newBoard(im)
	b.Ring.Trust = nil
	_, err := volume.New(b.System()).Provision(context.Background(), trustedSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.TrustMissing)
	if string(im.Bytes()) != string(before) {
		t.Error("the device was changed")
	}
}
