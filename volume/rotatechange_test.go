// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// change is a configuration before and after it was changed.
type change struct{ from, to volume.Spec }

func changes() map[string]change {
	small := rotationSpec(rotationGap)
	small.SectorSize = 512
	ecb := small
	ecb.Wrap, ecb.KeySize, ecb.Cipher = "ecb", 16, "capi:tk(cbc(aes))-plain"
	dev := rotationCases()["dev"]
	devCBC := dev
	devCBC.Cipher, devCBC.KeySize, devCBC.SectorSize = "aes-cbc-plain64", 32, 512
	detached := rotationCases()["detached"]
	detachedSmall := detached
	detachedSmall.SectorSize, detachedSmall.Cipher = 512, "capi:tk(cbc(aes))-plain"
	journal := rotationSpec(0)
	journalSmall := journal
	journalSmall.SectorSize = 1024
	return map[string]change{
		"larger sectors":                   {small, rotationSpec(rotationGap)},
		"smaller sectors":                  {rotationSpec(rotationGap), small},
		"everything, to the better":        {ecb, rotationSpec(rotationGap)},
		"everything, to the worse":         {rotationSpec(rotationGap), ecb},
		"dev":                              {devCBC, dev},
		"detached":                         {detachedSmall, detached},
		"larger sectors without a gap":     {journalSmall, journal},
		"a smaller key, the rest as it is": {rotationSpec(rotationGap), ecb128()},
	}
}

func ecb128() volume.Spec {
	s := rotationSpec(rotationGap)
	s.KeySize = 16
	return s
}

// A rotation makes the volume as the configuration has it by now. Until it has
// begun nothing else opens it; half-way it opens, and afterwards.
func TestRotationChangesTheVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range changes() {
		for _, live := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", in use"}[live], func(t *testing.T) {
				t.Parallel()
				b, want := filled(t, c.from, rotationDisk(c.from))
				if !live {
					r, err := b.Manager().Lock(ctx, c.from, volume.LockOptions{})
					must(t, r, err)
					_, err = b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{})
					refused(t, err, fault.HeaderMismatch)
					if !strings.Contains(err.Error(), "imxcrypt rotate data") {
						t.Errorf("no way out is named: %v", err)
					}
				}
				rotateUntil(t, b, c.to, 3)
				_, err := b.Manager().Unlock(ctx, c.from, volume.UnlockOptions{})
				refused(t, err, fault.HeaderMismatch)
				b = powerCycle(b)
				r, err := b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				same(t, "half-way", content(t, b), want)
				if st := b.Manager().Status(ctx, c.to); st.Err != nil || st.Rotation == nil {
					t.Fatalf("%+v", st)
				}
				if !live {
					r, err := b.Manager().Lock(ctx, c.to, volume.LockOptions{})
					must(t, r, err)
				}
				rr, err := b.Manager().Rotate(ctx, c.to, volume.RotateOptions{})
				must(t, rr.Result, err)
				b = powerCycle(b)
				r, err = b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				same(t, "afterwards", content(t, b), want)
				if st := b.Manager().Status(ctx, c.to); st.Cipher != c.to.Cipher || st.SectorSize != c.to.SectorSize || st.KeySize != c.to.KeySize || st.Generation != 2 {
					t.Fatalf("%+v", st)
				}
			})
		}
	}
}

// What a rotation cannot change is refused, before anything is written.
func TestChangesThatARotationRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	small := rotationSpec(rotationGap)
	small.SectorSize, small.Filesystem.Type, small.Mount.Path = 512, volume.FilesystemNone, ""
	noFilesystem := small
	noFilesystem.SectorSize = 4096
	foreign := rotationSpec(rotationGap)
	foreign.Cipher = "capi:tk(cbc(aes))-essiv:sha256"
	source := rotationCases()["dev"]
	for name, c := range map[string]struct {
		change
		code fault.Code
	}{
		"larger sectors under what is not known": {change{small, noFilesystem}, fault.DeviceUnsuitable},
		"a cipher that a black key cannot have":  {change{rotationSpec(rotationGap), foreign}, fault.CipherNotAllowed},
		"another source":                         {change{rotationSpec(rotationGap), source}, fault.HeaderMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(rotationHeader + rotationGap + rotationData)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, c.from, volume.ProvisionOptions{})
			must(t, r, err)
			r, err = b.Manager().Lock(ctx, c.from, volume.LockOptions{})
			must(t, r, err)
			before := disk.Bytes()
			_, err = b.Manager().Rotate(ctx, c.to, volume.RotateOptions{})
			refused(t, err, c.code)
			same(t, "refused", disk.Bytes(), before)
		})
	}
}
