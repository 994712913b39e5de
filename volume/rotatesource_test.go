// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// A key of another trust source is made if the kernel has both. A kernel with the new one
// only is refused by name, before anything is written.
func TestRotationToAnotherTrustSource(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := trustedFrom(rotationSpec(rotationGap))
	from.Trusted.Source = "caam"
	to := from
	to.Trusted.Source = "tee"
	disk := rotationDisk(from)
	b, want := filled(t, from, disk)
	tee := &fakeTEE{keys: map[string][]byte{}}
	before := disk.Bytes()
	_, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	refused(t, err, fault.TrustOther)
	b.Ring.Trust = tee
	_, err = b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	refused(t, err, fault.TrustOther)
	same(t, "refused", disk.Bytes(), before)

	tee.other = b.Chip
	rotateUntil(t, b, to, 3)
	same(t, "half-way", content(t, b), want)
	for _, requirement := range []string{header.RequirementRotate, header.RequirementRotateSource} {
		if !strings.Contains(string(disk.Bytes()[:16384]), requirement) {
			t.Errorf("half-way, an earlier program would not see %s", requirement)
		}
	}
	rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	must(t, rr.Result, err)
	tee.other = nil
	b = powerCycle(b)
	b.Ring.Trust = tee
	r, err := b.Manager().Unlock(ctx, to, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	same(t, "afterwards", content(t, b), want)
	if strings.Contains(string(disk.Bytes()[:16384]), header.RequirementRotateSource) {
		t.Error("afterwards the header still says that it has two sources")
	}
}

// fakeTEE seals keys in the form of a TEE's. It also opens those of other.
type fakeTEE struct {
	keys  map[string][]byte
	other volumetest.TrustSource
}

func (f *fakeTEE) NewTrusted(n int) (key, blob []byte, err error) {
	key, blob = make([]byte, n), make([]byte, n+33)
	_, _ = rand.NewChaCha8([32]byte{byte(len(f.keys)), byte(n)}).Read(key)
	blob[1], blob[2] = byte(len(f.keys)), byte(n)
	f.keys[string(blob)] = key
	return key, blob, nil
}

// NewProtected ignores the options.
func (f *fakeTEE) NewProtected(n int, _ byte) (payload, blob []byte, err error) {
	return f.NewTrusted(n)
}

func (f *fakeTEE) LoadTrusted(blob []byte) ([]byte, error) {
	if key, ok := f.keys[string(blob)]; ok {
		return key, nil
	}
	if f.other == nil {
		return nil, unix.EFAULT
	}
	return f.other.LoadTrusted(blob)
}

// A recovery copy is not lost along the way: the rotation is refused, and done if that is
// asked for.
func TestRotationThatWouldLoseTheRecoveryCopy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationSpec(rotationGap)
	to := trustedFrom(from)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	disk := rotationDisk(from)
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, from, volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}})
	must(t, r, err)
	want := content(t, b)
	before := disk.Bytes()
	_, err = b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	refused(t, err, fault.RecoveryLost)
	same(t, "refused", disk.Bytes(), before)
	rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{NoRecovery: true})
	must(t, rr.Result, err)
	same(t, "afterwards", content(t, b), want)
	if st := b.Manager().Status(ctx, to); st.Err != nil || st.Source != spec.SourceTrusted || len(st.Recipients) != 0 {
		t.Errorf("%+v", st)
	}
}

// During a rotation from the CAAM the data is still under a black key, whatever is
// configured: sleep gives it again.
func TestSleepDuringARotationToTrustedKeys(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationSpec(rotationGap)
	to := trustedFrom(from)
	b, want := filled(t, from, rotationDisk(from))
	rotateUntil(t, b, to, 3)
	m := &volumetest.Machine{Board: b}
	z, err := sleep.Run(ctx, b.System(), []spec.Volume{to}, m, sleep.Options{})
	if err != nil || !z.Volumes[0].NewKey {
		t.Fatalf("%+v, %v", z, err)
	}
	same(t, "after the sleep", content(t, b), want)
	rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "afterwards", content(t, b), want)
}

// Erasing a volume during a rotation from source dev destroys the key files, too.
func TestEraseDuringARotationFromSourceDev(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationCases()["dev"]
	to := trustedFrom(from)
	b, _ := filled(t, from, rotationDisk(from))
	rotateUntil(t, b, to, 3)
	keyFiles := func() int {
		names, err := b.Files.List(from.StateDir + "/dev")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if keyFiles() != 1 {
		t.Fatalf("%d key files", keyFiles())
	}
	r, err := b.Manager().Lock(ctx, to, volume.LockOptions{})
	must(t, r, err)
	e, err := b.Manager().Erase(ctx, to, volume.EraseOptions{})
	must(t, e.Result, err)
	if keyFiles() != 0 {
		t.Error("the key of source dev is still there")
	}
}
