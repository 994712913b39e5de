// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// headerDamage returns what can be repaired; both reports whether neither copy is good.
func headerDamage() map[string]struct {
	do   func(t *testing.T, im volumetest.Store)
	both bool
} {
	type damage = struct {
		do   func(t *testing.T, im volumetest.Store)
		both bool
	}
	zeros := func(im volumetest.Store, at, n int64) { write(im, make([]byte, n), at) }
	return map[string]damage{
		"the first text":  {func(t *testing.T, im volumetest.Store) { turn(t, im, firstText+100) }, false},
		"the second text": {func(t *testing.T, im volumetest.Store) { turn(t, im, secondText+100) }, false},
		"the first copy":  {func(_ *testing.T, im volumetest.Store) { zeros(im, 0, 16<<10) }, false},
		"the first copy, noise": {func(_ *testing.T, im volumetest.Store) {
			write(im, bytes.Repeat([]byte{0xa5, 0x11, 0x7e}, 2000), 0)
		}, false},
		"a byte in each text": {func(t *testing.T, im volumetest.Store) {
			turn(t, im, firstText+100)
			turn(t, im, secondText+200)
		}, true},
		"the first binary header, the second text": {func(_ *testing.T, im volumetest.Store) {
			zeros(im, 0, 512)
			zeros(im, secondText, 512)
		}, true},
		"the first text, the second binary header": {func(_ *testing.T, im volumetest.Store) {
			zeros(im, firstText, 512)
			zeros(im, 16<<10, 512)
		}, true},
		"both checksums": {func(t *testing.T, im volumetest.Store) {
			turn(t, im, 0x1c0)
			turn(t, im, 16<<10+0x1c0)
		}, true},
	}
}

// A damaged header is repaired from what is there, on the device or detached, even
// half-way through a rotation and while the volume is in use. What neither copy had is
// written only after what is there is kept.
func TestADamagedHeaderIsRepaired(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range restoreCases() {
		for _, rotating := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", rotating"}[rotating], func(t *testing.T) {
				t.Parallel()
				run := prepared(t, s, 1)
				if rotating {
					halfRotated(t, boardOver(run.chip, run.disk, run.files), s)
				}
				for what, damage := range headerDamage() {
					for _, live := range []bool{false, true} {
						disk, files := run.disk.Overlay(), run.files.Overlay()
						b := boardOver(run.chip, disk, files)
						b.Chip.PowerCycle()
						if live {
							r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
							must(t, r, err)
						}
						changeHeader(t, b, s, disk, func(im volumetest.Store) { damage.do(t, im) })
						was := everything(t, b, disk)
						r, err := b.Manager().RepairHeader(ctx, s, volume.RepairOptions{DryRun: true})
						if must(t, r, err); everything(t, b, disk) != was || len(r.Steps) == 0 {
							t.Fatalf("%s: a dry run wrote something, or says nothing", what)
						}
						r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
						if must(t, r, err); r.Already || damage.both && r.Kept == "" {
							t.Fatalf("%s: %+v", what, r)
						}
						r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
						if must(t, r, err); !r.Already {
							t.Fatalf("%s: not repaired: %+v", what, r)
						}
						r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
						if must(t, r, err); r.Already != live {
							t.Fatalf("%s: %+v", what, r)
						}
						same(t, what, content(t, b), run.want)
					}
				}
			})
		}
	}
}

// What cannot be completed or proved is refused, and no byte is changed.
func TestRepairingRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	each := func(t *testing.T, im volumetest.Store) {
		turn(t, im, firstText+100)
		turn(t, im, secondText+200)
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board
		code fault.Code
	}{
		"the same byte of both texts": {func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			turn(t, disk, firstText+100)
			turn(t, disk, secondText+100)
			return b
		}, fault.HeaderDamaged},
		"nothing left": {func(_ *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			write(disk, make([]byte, mib), 0)
			return b
		}, fault.NotProvisioned},
		"another chip": {func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			each(t, disk)
			return volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
		}, fault.BlobRejected},
		"another volume": {func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			write(disk, anotherVolume(t, b, "other"), 0)
			each(t, disk)
			return b
		}, fault.HeaderMismatch},
		"another volume's data": {func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			start := disk.Bytes()[:32<<10]
			write(disk, anotherVolume(t, b, "data"), 0)
			write(disk, start, 0)
			each(t, disk)
			return b
		}, fault.KeyWrong},
		"the state directory cannot be written": {func(t *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			each(t, disk)
			b.Files.Err = unix.ENOSPC
			return b
		}, fault.StorageFull},
		"a filesystem over the first copy": {func(_ *testing.T, b *volumetest.Board, disk *crashtest.Image) *volumetest.Board {
			fresh := crashtest.NewImage(16 * mib)
			plainExt4(fresh)
			write(disk, fresh.Bytes()[:8<<10], 0)
			return b
		}, fault.ForeignHeader},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := c.do(t, provisioned(t, newSpec(), disk), disk)
			was := everything(t, b, disk)
			_, err := b.Manager().RepairHeader(ctx, newSpec(), volume.RepairOptions{})
			refused(t, err, c.code)
			if everything(t, b, disk) != was {
				t.Fatal("something was written")
			}
			if strings.Contains(err.Error(), "repaired") {
				t.Error(err)
			}
			nothingPrivate(t, b, 0)
		})
	}
}

// Unlock and provision repair what one good copy can repair, and leave to header repair
// what takes both copies together.
func TestUnlockLeavesTwoDamagedCopiesToRepair(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			changeHeader(t, b, s, disk, func(im volumetest.Store) {
				turn(t, im, firstText+100)
				turn(t, im, secondText+200)
			})
			was := everything(t, b, disk)
			_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			refused(t, err, fault.HeaderDamaged)
			_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if refused(t, err, fault.HeaderDamaged); everything(t, b, disk) != was {
				t.Fatal("something was written")
			}
			r, err := b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
			must(t, r, err)
			hasItsData(t, b, s)
			// With one damaged copy of a detached header, unlock says what repairs it.
			changeHeader(t, b, s, disk, func(im volumetest.Store) { turn(t, im, firstText+100) })
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			if must(t, r, err); s.Detached() && !strings.Contains(strings.Join(r.Warnings, " "), "header repair data") {
				t.Fatalf("%+v", r)
			}
			r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
			if must(t, r, err); r.Already == s.Detached() || r.Kept != "" {
				t.Fatalf("%+v", r)
			}
		})
	}
}

// A backup that a person has put beside the kept headers stays.
func TestABackupBesideTheKeptHeadersStays(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := provisioned(t, s, crashtest.NewImage(16*mib))
			file := s.StateDir + "/headers/data-2026.header"
			r, err := b.Manager().BackupHeader(ctx, s, file)
			must(t, r, err)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			must(t, r, err)
			r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
			if must(t, r, err); !slices.Contains(b.Files.Names(), file) {
				t.Fatalf("it is gone: %+v", r)
			}
		})
	}
}
