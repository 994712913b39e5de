// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/mapping"
)

// After a sleep that failed in the middle of a rotation, status and lock open no key and
// resume nothing.
func TestStatusAndLockOpenNoKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	b, _ := filled(t, s, rotationDisk(s))
	rotateUntil(t, b, s, 2)
	for _, name := range []string{s.Mapping, s.Mapping + mapping.OverlaySuffix, s.Mapping + mapping.OldSuffix, s.Mapping + mapping.NewSuffix} {
		if err := b.DM.Suspend(ctx, name, mapping.Quietly); err != nil {
			t.Fatal(err)
		}
	}
	b.Chip.PowerCycle()
	opened := 0
	b.Chip.SetFault(func(string) error { opened++; return nil })
	before := b.DM.State()
	st := b.Manager().Status(ctx, s)
	refused(t, st.Err, fault.StaysSuspended)
	_, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	refused(t, err, fault.Busy)
	if opened > 0 || b.DM.State() != before {
		t.Fatalf("%d keys opened, and now\n%s", opened, b.DM.State())
	}
	r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	if opened == 0 {
		t.Error("unlock opened no key")
	}
}

// If the process cannot be hardened, no key is made or opened, and nothing is written. A
// command that opens no key does not need it.
func TestKeysAreOpenedInAHardenedProcessOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	b, im := ready(t, s)
	weak := errors.New("not hardened")
	sys := b.System()
	sys.Harden = func() error { return weak }
	m := volume.New(sys)
	before, chip := im.Bytes(), 0
	b.Chip.SetFault(func(string) error { chip++; return nil })
	for name, run := range map[string]func() error{
		"unlock":    func() error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{}); return err },
		"verify":    func() error { _, err := m.Verify(ctx, s); return err },
		"rotate":    func() error { _, err := m.Rotate(ctx, s, volume.RotateOptions{}); return err },
		"provision": func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{}); return err },
		"diagnose":  func() error { return m.Diagnose(ctx, s) },
	} {
		if err := run(); !errors.Is(err, weak) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if chip > 0 || !bytes.Equal(im.Bytes(), before) {
		t.Errorf("%d requests to the chip", chip)
	}
	if st := m.Status(ctx, s); st.Err != nil || st.State != volume.Locked {
		t.Errorf("status: %s, %v", st.State, st.Err)
	}
	r, err := m.Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)

	empty := crashtest.NewImage(16 * mib)
	sys.Devices = newBoard(empty).System().Devices
	_, err = volume.New(sys).Provision(ctx, s, volume.ProvisionOptions{})
	if !errors.Is(err, weak) || len(bytes.Trim(empty.Bytes(), "\x00")) > 0 {
		t.Errorf("provision: %v, or something was written", err)
	}
}

// Rotations stay within data and gap, however much the partition has grown.
func TestARotationOnAGrownPartition(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	b, im := ready(t, s)
	made := im.Size()
	larger := crashtest.NewImage(3 * made)
	write(larger, im.Bytes(), 0)
	b.Disks[0].Store = larger
	for range 3 {
		r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
		if must(t, r.Result, err); len(bytes.Trim(larger.Bytes()[made:], "\x00")) > 0 {
			t.Fatal("the rotation has used what the partition has grown by")
		}
	}
	st := b.Manager().Status(ctx, s)
	if len(st.Warnings) != 1 || fault.CodeOf(st.Warnings[0]) != fault.PartitionGrown || st.Err != nil {
		t.Errorf("%v, %v", st.Warnings, st.Err)
	}
}
