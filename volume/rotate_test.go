// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"filippo.io/age"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// nothingPrivate enforces that want mappings are left, which are the volume or none.
func nothingPrivate(t *testing.T, b *volumetest.Board, want int) {
	t.Helper()
	infos, err := b.DM.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != want {
		t.Fatalf("%d mappings instead of %d:\n%s", len(infos), want, b.DM.State())
	}
	if b.Ring.Left() != 0 {
		t.Fatalf("%d keys left in a keyring", b.Ring.Left())
	}
}

func rotationCases() map[string]spec.Volume {
	dev := rotationSpec(rotationGap)
	dev.Source, dev.Wrap, dev.Cipher, dev.KeySize, dev.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
	ecb := rotationSpec(rotationGap)
	ecb.Wrap, ecb.SectorSize = "ecb", 512
	detached := rotationSpec(0)
	detached.Header = "/var/lib/imxcrypt/data.luks"
	return map[string]spec.Volume{
		"detached": detached,
		"gap":      rotationSpec(rotationGap), "journal": rotationSpec(0), "ecb, sectors of 512": ecb, "dev": dev,
	}
}

// Each rotation makes a new key and keeps the data, which moves down into the gap and up
// again.
func TestRotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range rotationCases() {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %v", name, live), func(t *testing.T) {
				t.Parallel()
				disk := rotationDisk(s)
				b, want := filled(t, s, disk)
				for generation := 2; generation <= 4; generation++ {
					if !live {
						r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
					}
					before := disk.Bytes()
					start := s.HeaderSize + s.Gap
					if s.Detached() {
						start = 0
					}
					zones := 0
					r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Moved: func(volume.Rotation) { zones++ }})
					must(t, r.Result, err)
					if r.Generation != generation || zones == 0 || r.Rotation.Done != r.Rotation.Total {
						t.Fatalf("%d zones, %+v", zones, r)
					}
					if live {
						nothingPrivate(t, b, 1)
						same(t, "while mounted", content(t, b), want)
					} else {
						nothingPrivate(t, b, 0)
					}
					if bytes.Equal(before[start:], disk.Bytes()[start:]) {
						t.Fatal("nothing was encrypted again")
					}
					b = powerCycle(b)
					u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
					must(t, u, err)
					same(t, "after the power cycle", content(t, b), want)
					st := b.Manager().Status(ctx, s)
					if st.Err != nil || st.Generation != generation || st.Phase != header.PhaseReady || st.Rotation != nil {
						t.Fatalf("%+v", st)
					}
				}
			})
		}
	}
}

// The key that a rotation replaced is no longer in the header.
func TestTheOldBlobIsGone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, _ := filled(t, s, disk)
	blob := storedBlob(t, disk.Bytes())
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	if bytes.Contains(disk.Bytes(), blob) {
		t.Fatal("the old blob lies in the header area")
	}
}

// storedBlob returns the first blob in a header, in base64.
func storedBlob(t *testing.T, image []byte) []byte {
	t.Helper()
	_, rest, ok := bytes.Cut(image, []byte(`"blob":"`))
	if !ok {
		t.Fatal("there is no blob")
	}
	blob, _, _ := bytes.Cut(rest, []byte(`"`))
	return bytes.Clone(blob)
}

// A rotation is stopped: the volume opens, is used and says how far it is, and the next
// run continues.
func TestStoppedRotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range rotationCases() {
		for _, live := range []bool{false, true} {
			for _, power := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, live %v, power cycle %v", name, live, power), func(t *testing.T) {
					t.Parallel()
					disk := rotationDisk(s)
					b, want := filled(t, s, disk)
					if !live {
						r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
					}
					rotateUntil(t, b, s, 2)
					st := b.Manager().Status(ctx, s)
					if st.Err != nil || st.Phase != header.PhaseRotating || st.Rotation == nil || st.Rotation.Done == 0 || st.Rotation.Done >= st.Rotation.Total {
						t.Fatalf("%+v %+v", st, st.Rotation)
					}
					if power {
						b = powerCycle(b)
					}
					for range 2 {
						r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						must(t, r, err)
						if r.Rotating == r.Already {
							t.Fatalf("opened half-way: %+v", r)
						}
						same(t, "half-way", content(t, b), want)
					}
					for _, at := range []int{0, len(want) - rotationText - 5000} {
						text := []byte(fmt.Sprintf("written half-way at %d", at))
						copy(want[rotationText+at:], text)
						scrawl(t, b, text, int64(rotationText+at))
					}
					r, err := b.Manager().Verify(ctx, s)
					must(t, r, err)
					rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					must(t, rr.Result, err)
					same(t, "after the end", content(t, b), want)
					nothingPrivate(t, b, 1)
					b = powerCycle(b)
					r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
					must(t, r, err)
					same(t, "after the power cycle", content(t, b), want)
					rr, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					if must(t, rr.Result, err); !rr.Already || rr.Generation != 2 {
						t.Fatalf("%+v", rr)
					}
				})
			}
		}
	}
}

// Half-rotated volumes can be locked, and examined without being changed.
func TestHalfRotatedVolumeIsLocked(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, want := filled(t, s, disk)
	rotateUntil(t, b, s, 3)
	r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	nothingPrivate(t, b, 0)
	before := disk.Bytes()
	b.Disks[0].ReadOnly = true
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	same(t, "read-only", content(t, b), want)
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("something was written")
	}
}

// Provisioning a volume that is being rotated finds it provisioned.
func TestHalfRotatedVolumeIsNotProvisionedAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range rotationCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, want := filled(t, s, rotationDisk(s))
			rotateUntil(t, b, s, 3)
			b = powerCycle(b)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			same(t, "provisioned again", content(t, b), want)
		})
	}
}

// A run that only prepares or only reports moves nothing.
func TestRotationInSteps(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b, want := filled(t, s, disk)
	before := disk.Bytes()
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{DryRun: true})
	must(t, r.Result, err)
	if !bytes.Equal(before, disk.Bytes()) || len(r.Steps) == 0 {
		t.Fatalf("a dry run changed something, or says nothing: %+v", r)
	}
	r, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	if r.Rotation == nil || r.Rotation.Done != 0 || r.Rotation.Generation != 2 {
		t.Fatalf("%+v", r)
	}
	if !bytes.Equal(before[rotationHeader:], disk.Bytes()[rotationHeader:]) {
		t.Fatal("data was moved")
	}
	b = powerCycle(b)
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "prepared", content(t, b), want)
	r, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, r.Result, err)
	same(t, "rotated", content(t, b), want)
}

func TestRefusedRotations(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("not provisioned", func(t *testing.T) {
		_, err := newBoard(crashtest.NewImage(16*mib)).Manager().Rotate(ctx, newSpec(), volume.RotateOptions{})
		refused(t, err, fault.NotProvisioned)
	})
	t.Run("recipients that nothing proves", func(t *testing.T) {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		s := rotationCases()["detached"]
		b := newBoard(rotationDisk(s))
		r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Recipients: []string{identity.Recipient().String()}})
		must(t, r, err)
		_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
		refused(t, err, fault.DeviceUnsuitable)
	})
	t.Run("another chip", func(t *testing.T) {
		s := rotationSpec(rotationGap)
		disk := rotationDisk(s)
		filled(t, s, disk)
		before := disk.Bytes()
		_, err := newBoard(disk).Manager().Rotate(ctx, s, volume.RotateOptions{})
		refused(t, err, fault.BlobRejected)
		if !bytes.Equal(before, disk.Bytes()) {
			t.Fatal("something was written")
		}
	})
}

var errStep = errors.New("the step failed")

// Whichever step fails once, the volume stays usable without another command, and the
// next run finishes.
func TestRotationWithAFailingStep(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprintf("live %v", live), func(t *testing.T) {
			t.Parallel()
			failures := 0
			for at := 1; ; at += 1 + at*(someStates()-1)/88 {
				s := rotationSpec(rotationGap)
				disk := rotationDisk(s)
				b, want := filled(t, s, disk)
				if !live {
					r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
					must(t, r, err)
				}
				n, failed := 0, ""
				b.Step = func(what string) error {
					if n++; n == at {
						failed = what
						return errStep
					}
					return nil
				}
				_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
				b.Step = nil
				if failed == "" {
					must(t, volume.Result{}, err)
					break
				}
				failures++
				what := fmt.Sprintf("step %d (%s) failed", at, failed)
				if live {
					done := make(chan []byte, 1)
					go func() { done <- content(t, b) }()
					r, uerr := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
					if uerr != nil {
						t.Fatalf("%s, %v; then %v", what, err, uerr)
					}
					must(t, r, uerr)
					same(t, what, <-done, want)
				}
				if err != nil {
					if _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{}); err != nil {
						t.Fatalf("%s: %v\n%s", what, err, b.DM.State())
					}
				}
				b = powerCycle(b)
				r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				same(t, what, content(t, b), want)
				if r.Generation != 2 && r.Generation != 3 {
					t.Fatalf("%s: generation %d", what, r.Generation)
				}
			}
			t.Logf("%d steps failed, nothing lost", failures)
		})
	}
}

// One key alone would read noise in a half-rotated volume, so no recovery copy opens it
// then. The new key gets a copy for the same recipients.
func TestRotationAndRecovery(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := rotationCases()["gap"]
	b := newBoard(rotationDisk(s))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Recipients: []string{identity.Recipient().String()}})
	must(t, r, err)
	want := content(t, b)
	open := func() (volume.Result, error) {
		return b.Manager().Recover(ctx, volume.RecoverOptions{
			Path: s.Device, Name: "found", Opener: volume.Opener{Identities: strings.NewReader(identity.String())},
		})
	}
	rotateUntil(t, b, s, 2)
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	_, err = open()
	refused(t, err, fault.RotationUnderWay)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	r, err = open()
	must(t, r, err)
	f, err := b.Mapping("found", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make([]byte, f.Size())
	if _, err := f.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "recovered", all, want)
}

// While data moves below them, users read what they wrote, anywhere, and afterwards all
// of it is there.
func TestRotationInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, c := range []struct {
		gap       int64
		noTargets []string
	}{{rotationGap, nil}, {0, nil}, {rotationGap, []string{"delay"}}, {0, []string{"delay"}}} {
		t.Run(fmt.Sprintf("gap %d, without %v", c.gap, c.noTargets), func(t *testing.T) {
			t.Parallel()
			s := rotationSpec(c.gap)
			b, want := filled(t, s, rotationDisk(s))
			b.NoTargets = c.noTargets
			stop, users := make(chan struct{}), sync.WaitGroup{}
			const hands = 3
			var requests atomic.Int64
			for hand := range hands {
				users.Add(1)
				go func() {
					defer users.Done()
					requests.Add(use(t, b, want, hand, hands, stop))
				}()
			}
			for generation := 2; generation <= 3; generation++ {
				r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
				must(t, r.Result, err)
			}
			close(stop)
			users.Wait()
			same(t, "while in use", content(t, b), want)
			asksUdevSeldom(t, b)
			b = powerCycle(b)
			r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			same(t, "after the power cycle", content(t, b), want)
			t.Logf("%d requests while the volume was rotated twice", requests.Load())
		})
	}
}

// asksUdevSeldom enforces that two rotations gave udev flags, for which it runs a
// program, only when they made their mappings, and not for each zone.
func asksUdevSeldom(t *testing.T, b *volumetest.Board) {
	t.Helper()
	events := map[dmcrypt.Visibility]int{}
	for _, e := range b.DM.Events() {
		if e.Action == "change" {
			events[e.Visibility]++
		}
	}
	if given := events[dmcrypt.Public] + events[dmcrypt.Private]; given > 40 || events[dmcrypt.Unchanged] < 20 {
		t.Errorf("udev gets flags %d times, and none %d times", given, events[dmcrypt.Unchanged])
	}
	t.Logf("events of udev by flags: %v", events)
}

// use writes and reads single blocks, every hands-th one, and updates want with them.
func use(t *testing.T, b *volumetest.Board, want []byte, hand, hands int, stop <-chan struct{}) (requests int64) {
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer f.Close()
	const block = 4096
	rng, got := rand.New(rand.NewPCG(3, uint64(hand))), make([]byte, block)
	for {
		select {
		case <-stop:
			return requests
		default:
		}
		first := rotationText / block
		at := (first + rng.IntN((len(want)/block-first)/hands)*hands + hand) * block
		if at+block > len(want) {
			continue
		}
		mine := want[at : at+block]
		if rng.IntN(2) == 0 {
			for i := range mine {
				mine[i] = byte(rng.Uint32())
			}
			if _, err := f.WriteAt(mine, int64(at)); err != nil {
				t.Error(err)
				return requests
			}
		} else if _, err := f.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, mine) {
			t.Errorf("block at %d is not what was written (%v)", at, err)
			return requests
		}
		requests++
		if rng.IntN(50) == 0 {
			if err := f.Flush(); err != nil {
				t.Error(err)
				return requests
			}
		}
	}
}

// The longest name that a configuration may give to a mapping leaves room for those of
// a rotation (configs, maxMapping).
func TestTheLongestNameIsProvisionedAndRotated(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	s.Mapping = strings.Repeat("a", 75)
	if n := len(dmcrypt.HelperUUID("01234567-89ab-cdef-0123-456789abcdef", s.Mapping+mapping.OverlaySuffix)); n != dmcrypt.MaxUUID {
		t.Errorf("a helper's uuid has %d bytes, %d are possible", n, dmcrypt.MaxUUID)
	}
	b := newBoard(rotationDisk(s))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	if err != nil || rr.Generation != 2 {
		t.Fatalf("%+v, %v", rr, err)
	}
}
