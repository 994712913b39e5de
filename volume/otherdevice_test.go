// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const otherPath = "/dev/mmcblk2p4"

// twoDisks returns a board with the disk of the tests' volume and another one.
func twoDisks(one, other volumetest.Store) *volumetest.Board {
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(),
		&volumetest.Disk{Path: "/dev/mmcblk2p3", Store: one}, &volumetest.Disk{Path: otherPath, Store: other})
	b.Directories = []string{"/data", "/logs"}
	return b
}

// stopAfter provisions up to a step.
func stopAfter(t *testing.T, b *volumetest.Board, s spec.Volume, step string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Progress: func(st volume.Step) {
		if st.What == step {
			cancel()
		}
	}})
	refused(t, err, fault.Interrupted)
}

// A detached header whose provisioning was interrupted continues on the device where it
// began, and formats no other.
func TestADetachedHeaderIsResumedOnItsOwnDeviceOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, step := range []string{"header written", "stored key proved", "ext4 made"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			other := crashtest.NewImage(16 * mib)
			noise(other)
			before := other.Bytes()
			b := twoDisks(crashtest.NewImage(16*mib), other)
			s := changed(detached)
			stopAfter(t, b, s, step)
			moved := changed(detached, func(s *spec.Volume) { s.Device = otherPath })
			for _, o := range []volume.ProvisionOptions{{DryRun: true}, {}} {
				_, err := b.Manager().Provision(ctx, moved, o)
				refused(t, err, fault.NotEmpty)
			}
			if !bytes.Equal(before, other.Bytes()) || b.DM.State() != "" {
				t.Fatalf("something was written, or left:\n%s", b.DM.State())
			}
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
		})
	}
}

func TestAResumedDetachedHeaderMayWipeWithWipe(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	other := crashtest.NewImage(16 * mib)
	noise(other)
	b := twoDisks(crashtest.NewImage(16*mib), other)
	stopAfter(t, b, changed(detached), "header written")
	s := changed(detached, func(s *spec.Volume) { s.Device = otherPath })
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: true})
	if must(t, r, err); r.Mounted != "/data" {
		t.Fatalf("%+v", r)
	}
}

// A resumed detached header does not overwrite a volume with its header on the device,
// even if overwriting is permitted.
func TestAResumedDetachedHeaderSparesOtherVolumes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	other := crashtest.NewImage(16 * mib)
	b := twoDisks(crashtest.NewImage(16*mib), other)
	onDevice := changed(func(s *spec.Volume) { s.Name, s.Mapping, s.Device = "logs", "logs", otherPath })
	r, err := b.Manager().Provision(ctx, onDevice, volume.ProvisionOptions{NoMount: true})
	must(t, r, err)
	stopAfter(t, b, changed(detached), "header written")
	before := other.Bytes()
	s := changed(detached, func(s *spec.Volume) { s.Device = otherPath })
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	refused(t, err, fault.ForeignHeader)
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: true})
	refused(t, err, fault.HeaderMismatch)
	if !bytes.Equal(before, other.Bytes()) {
		t.Fatal("something was written")
	}
}

// What appears on the device after it was examined is noticed before anything is written.
func TestTheDeviceIsLookedAtAgainBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		put  func(t *testing.T, b *volumetest.Board, im *crashtest.Image)
		o    volume.ProvisionOptions
		code fault.Code
	}{
		"data": {put: func(_ *testing.T, _ *volumetest.Board, im *crashtest.Image) { noise(im) }, code: fault.NotEmpty},
		"a volume": {put: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			write(im, anotherVolume(t, b, "data"), 0)
		}, code: fault.NotEmpty},
		"a volume, wiping": {put: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			write(im, anotherVolume(t, b, "data"), 0)
		}, o: volume.ProvisionOptions{Wipe: true}, code: fault.HeaderMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im := crashtest.NewImage(16 * mib)
			b := newBoard(im)
			sys := b.System()
			var after []byte
			// The chip's state is read after everything else was examined.
			sys.SecurityState = func() caam.SecurityState {
				if after == nil {
					c.put(t, b, im)
					after = im.Bytes()
				}
				return caam.Closed
			}
			_, err := volume.New(sys).Provision(ctx, newSpec(), c.o)
			refused(t, err, c.code)
			if !bytes.Equal(after, im.Bytes()) {
				t.Fatal("something was written")
			}
		})
	}
}

// A header that is replaced while its volume is provisioned is noticed.
func TestAHeaderThatIsExchangedWhileProvisioningIsNoticed(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"header written", "stored key proved"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			im, twin := crashtest.NewImage(16*mib), crashtest.NewImage(16*mib)
			b := twoDisks(im, twin)
			stopAfter(t, b, changed(func(s *spec.Volume) { s.Device = otherPath }), "stored key proved")
			_, err := b.Manager().Provision(context.Background(), newSpec(), volume.ProvisionOptions{Progress: func(st volume.Step) {
				if st.What == step {
					write(im, twin.Bytes(), 0)
				}
			}})
			refused(t, err, fault.HeaderMismatch)
			if len(b.Made()) != 0 || b.DM.State() != "" {
				t.Fatalf("made %v, left:\n%s", b.Made(), b.DM.State())
			}
		})
	}
}

// Two disks answer to one name, as copies of one image and foreign cards do. The volume
// is on the one whose header has the UUID that the configuration pins.
func TestThePinnedUUIDChoosesAmongSeveralDevices(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const label = "PARTLABEL=data"
	first, second := crashtest.NewImage(16*mib), crashtest.NewImage(16*mib)
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk1p3", Store: first}, &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: second})
	b.Directories = []string{"/data"}
	s := newSpec()
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	uuid := r.UUID
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	b.Answers = map[string][]string{label: {"/dev/mmcblk1p3", "/dev/mmcblk2p3"}}
	s.Device = label

	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.DeviceAmbiguous)
	s.UUID = uuid
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	if must(t, r, err); r.Device != "/dev/mmcblk2p3" {
		t.Errorf("took %s", r.Device)
	}
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)

	t.Log("a copy of the whole disk is not chosen from")
	b.Disks[0].Store = second
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.DeviceAmbiguous)
}
