// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"maps"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// Something over the first copy of a header stops a command that writes the header before
// it begins.
func TestAHeaderWithSomethingOverItsFirstCopy(t *testing.T) {
	t.Parallel()
	for placement, s := range bothPlacements() {
		for _, name := range []string{"rotate", "rotate, resumed", "reseal", "provision, continued"} {
			t.Run(placement+"/"+name, func(t *testing.T) {
				t.Parallel()
				st := commands(s)[name](t)
				changeHeader(t, st.board, s, st.disk, func(im volumetest.Store) { headerDamage()["the first copy, noise"].do(t, im) })
				before := snapshot(t, st.board, st.disk)
				refused(t, st.run(st.board.Manager()), fault.HeaderCopyDamaged)
				if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
					t.Fatalf("refused, and changed: %q", names)
				}
			})
		}
	}
}

// On another chip no key opens: neither the volume's, nor the new one of a rotation that
// has moved nothing. That is no reason to give up the new key.
func TestAnotherChipChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for placement, s := range bothPlacements() {
		for name, run := range map[string]func(*volume.Manager) error{
			"rotate": func(m *volume.Manager) error {
				_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				return err
			},
			"provision": func(m *volume.Manager) error {
				_, err := m.Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
				return err
			},
		} {
			for _, damaged := range []bool{false, true} {
				t.Run(placement+"/"+name, func(t *testing.T) {
					t.Parallel()
					disk := crashtest.NewImage(16 * mib)
					b := provisioned(t, s, disk)
					r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
					must(t, r.Result, err)
					if damaged {
						changeHeader(t, b, s, disk, func(im volumetest.Store) { turn(t, im, secondText+100) })
					}
					before := snapshot(t, b, disk)
					other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
					refused(t, run(other.Manager()), fault.BlobRejected)
					if !maps.Equal(before, snapshot(t, b, disk)) {
						t.Fatal("refused, and something was changed")
					}
				})
			}
		}
	}
}

// A header with one copy blank and the other damaged, or not for a device of this size,
// is not one that provisioning left unfinished: there is data behind it.
func TestADamagedHeaderIsNoUnfinishedOne(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for placement, s := range bothPlacements() {
		for name, second := range map[string]func(volumetest.Store){
			"a sector blank": func(im volumetest.Store) { write(im, make([]byte, 512), secondText) },
			"a byte":         func(im volumetest.Store) { turn(t, im, secondText+100) },
		} {
			t.Run(placement+"/"+name, func(t *testing.T) {
				t.Parallel()
				disk := crashtest.NewImage(16 * mib)
				b := provisioned(t, s, disk)
				changeHeader(t, b, s, disk, func(im volumetest.Store) {
					write(im, make([]byte, 16<<10), 0)
					second(im)
				})
				before := bytes.Clone(disk.Bytes())
				_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				refused(t, err, fault.HeaderDamaged)
				for _, wipe := range []bool{false, true} {
					_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: wipe})
					refused(t, err, fault.HeaderDamaged)
				}
				if !bytes.Equal(before, disk.Bytes()) {
					t.Fatal("something was written")
				}
			})
		}
	}
}

// A rotation began to move the data up to the end of its device, and the device has lost
// that end. Nothing works on it, not even a repair, until it has its size again.
func TestADeviceTooSmallForItsRotation(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, damaged := range []bool{false, true} {
		s := rotationSpec(rotationGap)
		small := rotationDisk(s).Size()
		disk := &plate{crashtest.NewImage(plateSize), small}
		files, chip := crashtest.NewImage(volumetest.FilesSize), caamtest.RandomChip()
		b := boardOver(chip, disk, files)
		r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
		must(t, r, err)
		rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{}) // down, over the gap
		must(t, rr.Result, err)
		rr, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
		must(t, rr.Result, err)
		if damaged {
			turn(t, disk, firstText+100)
			turn(t, disk, secondText+200)
		}
		disk.size = small - rotationGap
		b = boardOver(chip, disk, files)
		was := everything(t, b, disk.Image)
		for name, run := range map[string]func(*volume.Manager) error{
			"unlock": func(m *volume.Manager) error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{}); return err },
			"verify": func(m *volume.Manager) error { _, err := m.Verify(ctx, s); return err },
			"status": func(m *volume.Manager) error { return m.Status(ctx, s).Err },
			"repair": func(m *volume.Manager) error { _, err := m.RepairHeader(ctx, s, volume.RepairOptions{}); return err },
			"rotate": func(m *volume.Manager) error {
				_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				return err
			},
			"provision": func(m *volume.Manager) error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{}); return err },
		} {
			code := fault.HeaderInvalid
			if damaged && name != "repair" {
				code = fault.HeaderDamaged
			}
			if err := run(b.Manager()); fault.CodeOf(err) != code || everything(t, b, disk.Image) != was {
				t.Fatalf("%s, damaged %v: expected %s: %v", name, damaged, code, err)
			}
		}
		disk.size = small
		b = boardOver(chip, disk, files)
		if damaged {
			r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
			must(t, r, err)
		}
		rr, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
		must(t, rr.Result, err)
		r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		must(t, r, err)
	}
}
