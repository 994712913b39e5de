// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// A filesystem that was made over a volume is encrypted only with Force: it would
// overwrite what a backup of the volume's header would still open.
func TestEncryptOverAVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range map[string]spec.Volume{"in a file": encryptSpec(), "on the device": rotationSpec(rotationGap)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := plainDiskFor(s)
			b := newBoard(disk)
			e, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
			must(t, e.Result, err)
			if s.Detached() {
				if err := b.Files.Remove(s.Header); err != nil {
					t.Fatal(err)
				}
			}
			plainExt4(disk)
			write(disk, make([]byte, 1024), 0) // what is before the superblock
			before := snapshot(t, b, disk)
			for _, o := range []volume.RotateOptions{{}, {DryRun: true}, {InitOnly: true}} {
				_, err = b.Manager().Encrypt(ctx, s, o)
				refused(t, err, fault.PlaintextRefused)
			}
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
				t.Errorf("changed: %q", names)
			}
			e, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{Force: true})
			must(t, e.Result, err)
		})
	}
}

// After an encryption has begun, the device is used in plaintext again, and grows with
// its filesystem: it is not encrypted only up to the filesystem's old end.
func TestEncryptAfterThePlainFilesystemGrew(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, small := encryptSpec(), plainDisk()
	b := newBoard(small)
	e, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, e.Result, err)
	grown := crashtest.NewImage(small.Size() + mib)
	write(grown, small.Bytes(), 0)
	growExt4(grown)
	b.Disks[0].Store = grown
	before := snapshot(t, b, grown)
	_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	refused(t, err, fault.FilesystemWrong)
	_, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.FilesystemWrong)
	if names := differs(before, snapshot(t, b, grown)); len(names) > 0 {
		t.Errorf("changed: %q", names)
	}
}

// What cannot be encrypted is refused, also by a dry run, and nothing is changed.
func TestEncryptRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mounted := func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
		b.Disks[0].Users = blockdev.Users{Mounts: []blockdev.Mounted{{Device: "mmcblk2p3", Target: "/data", Type: "ext4"}}}
	}
	for name, c := range map[string]struct {
		prepare func(*volumetest.Board, *crashtest.Image, *spec.Volume)
		code    fault.Code
	}{
		"mounted": {mounted, fault.DeviceInUse},
		"swap in use": {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
			b.Disks[0].Users = blockdev.Users{Swap: []string{"mmcblk2p3"}}
		}, fault.DeviceInUse},
		"swap space": {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) {
			write(disk, make([]byte, mib), 0)
			write(disk, []byte("SWAPSPACE2"), 4096-10)
		}, fault.FilesystemWrong},
		"empty":       {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { write(disk, make([]byte, mib), 0) }, fault.NotProvisioned},
		"somebody's":  {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { foreignLUKS2small(disk) }, fault.ForeignHeader},
		"another one": {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) { s.Filesystem.Type = "xfs" }, fault.FilesystemWrong},
		"not clean":   {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { needsRecovery(disk) }, fault.FilesystemUnclean},
		"open chip":   {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) { b.State = caam.Open }, fault.OpenStateRefused},
		"open chip, as its first key shows": {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
			b.State = caam.Unknown
			b.Chip.SetFault(func(string) error { b.State = caam.Open; return nil })
		}, fault.OpenStateRefused},
		"header on the device, without room": {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) {
			s.Header, s.HeaderSize = spec.HeaderOnDevice, 768<<10
		}, fault.DeviceUnsuitable},
		"no filesystem": {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) { s.Filesystem.Type = spec.FilesystemNone }, fault.ConfigInvalid},
	} {
		for kind, s := range map[string]spec.Volume{"in a file": encryptSpec(), "on the device": rotationSpec(rotationGap)} {
			t.Run(name+", "+kind, func(t *testing.T) {
				disk := plainDiskFor(s)
				b := newBoard(disk)
				c.prepare(b, disk, &s)
				before := snapshot(t, b, disk)
				code := c.code
				if code == fault.ForeignHeader && !s.Detached() {
					code = fault.HeaderDamaged // it is in the place of ours
				}
				for _, dry := range []bool{true, false} {
					_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{DryRun: dry})
					refused(t, err, code)
					if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
						t.Fatalf("changed: %q", names)
					}
				}
				nothingPrivate(t, b, 0)
			})
		}
	}
}

// Only ext4 is made smaller. Any other filesystem that leaves no room for a header on the
// device is refused, with the sizes and what helps. With the header in a file it is
// encrypted, and a dry run says how long that takes.
func TestEncryptOtherFilesystems(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for recording, c := range map[string]struct {
		filesystem string
		most       int64 // bytes that it may have
		takes      string
	}{
		"xfs-sector-4096": {"xfs", 331083776, "18s"}, "btrfs": {"btrfs", 129757184, "8s"}, "f2fs": {"f2fs", 66580480, "4s"},
	} {
		t.Run(c.filesystem, func(t *testing.T) {
			t.Parallel()
			s, detached := rotationSpec(rotationGap), encryptSpec()
			s.Filesystem.Type, detached.Filesystem.Type = c.filesystem, c.filesystem
			run := record(caamtest.RandomChip(), recordedFilesystem(t, recording), crashtest.NewImage(volumetest.FilesSize))
			size := run.disk.Size()
			for _, dry := range []bool{true, false} {
				_, err := run.board.Manager().Encrypt(ctx, s, volume.RotateOptions{DryRun: dry})
				refused(t, err, fault.DeviceUnsuitable)
				for _, part := range []string{
					fmt.Sprintf("the %s filesystem on %s has %d bytes of %d", c.filesystem, s.Device, size, size),
					fmt.Sprintf("needs it to have %d at most", c.most),
					"make the partition larger", "set header: /path/of/a/file",
				} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("%v: does not say %q", err, part)
					}
				}
			}
			r, err := run.board.Manager().Encrypt(ctx, detached, volume.RotateOptions{DryRun: true})
			must(t, r.Result, err)
			if says := fmt.Sprint(r.Steps); !strings.Contains(says, "at 18 MiB/s, as measured with emulated hardware, that takes about "+c.takes) {
				t.Errorf("the dry run says %s", says)
			}
			for _, op := range run.rec.Log() {
				if op.Kind == crashtest.Write {
					t.Fatalf("written: %v", op)
				}
			}
			nothingPrivate(t, run.board, 0)
		})
	}
}

// foreignLUKS2small writes the magic number of a LUKS2 header that is not ours.
func foreignLUKS2small(im *crashtest.Image) { write(im, []byte("LUKS\xba\xbe\x00\x02"), 0) }

// needsRecovery sets ext4's flag that the journal must be replayed, and the superblock's
// checksum.
func needsRecovery(im *crashtest.Image) {
	super := bytes.Clone(im.Bytes()[1024:2048])
	super[0x60] |= 4
	binary.LittleEndian.PutUint32(super[0x3fc:], ^crc32.Checksum(super[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	write(im, super, 1024)
}

// growExt4 makes the ext4 superblock say that the filesystem takes all of the disk.
func growExt4(im *crashtest.Image) {
	super := bytes.Clone(im.Bytes()[1024:2048])
	binary.LittleEndian.PutUint32(super[4:], uint32(im.Size()>>(10+super[0x18])))
	binary.LittleEndian.PutUint32(super[0x3fc:], ^crc32.Checksum(super[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	write(im, super, 1024)
}

// If there is no room for the header file, nothing is changed. If a header cannot be
// proved, nothing of it is left.
func TestEncryptThatCannotBeginLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	b := newBoard(disk)
	// The record of an earlier volume, which refuses plaintext, stays, too.
	if err := b.Files.Create(recordOfData, []byte(`{"uuid":"0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, b, disk)
	b.Files.Err = unix.ENOSPC
	_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{Force: true})
	refused(t, err, fault.StorageFull)
	b.Files.Err = nil
	sys := b.System()
	sys.Attach = nil
	_, err = volume.New(sys).Encrypt(ctx, s, volume.RotateOptions{Force: true})
	refused(t, err, fault.DeviceUnsuitable)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
}

// With only a header, the encryption begun but not continued, the volume opens. If the
// device itself was mounted and changed meanwhile, the changed data is encrypted; if it
// holds something else, it is left alone.
func TestEncryptAfterInitOnly(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	before := bytes.Clone(disk.Bytes())
	b := newBoard(disk)
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("data was moved")
	}
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "begun", content(t, b), disk.Bytes())
	u, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, u, err)
	kept := bytes.Clone(disk.Bytes())
	write(disk, make([]byte, mib), 0)
	refusedOf(t, fault.NotProvisioned, func() error { _, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{}); return err })
	write(disk, kept, 0)
	write(disk, []byte("changed while it was mounted in plain text"), rotationText)
	want := bytes.Clone(disk.Bytes())
	r, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, r.Result, err)
	u, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "encrypted", content(t, b), want)
}

// The command is killed anywhere before the key is proved, then continued on the same
// running system or after a power cycle.
func TestEncryptKilledBeforeItsKeyIsProved(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range map[string]spec.Volume{"in a file": encryptSpec(), "on the device": rotationSpec(rotationGap)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for at := 2; ; at += stride("rotate") { // each step twice
				r := toBeMoved(t, s, false)
				b := boardOver(r.chip, r.disk, r.files)
				if !kill(b, at/2, func() { _, _ = r.command(b, volume.RotateOptions{InitOnly: true}) }) {
					break
				}
				killed++
				if at%2 == 0 {
					b = powerCycle(b)
				}
				for _, o := range []volume.RotateOptions{{InitOnly: true}, {Mount: true}} {
					rr, err := b.Manager().Encrypt(ctx, s, o)
					if err != nil {
						t.Fatalf("killed at step %d/2: %v\n%s", at, err, b.DM.State())
					}
					must(t, rr.Result, err)
				}
				same(t, fmt.Sprintf("killed at step %d/2", at), content(t, b), r.plain)
				onlyTheVolume(t, b, name, at/2)
			}
			t.Logf("killed %d times", killed)
		})
	}
}

// The header is the only copy of the key: it is not written where a power cut removes it.
// An overlay may be on storage, which the person in an attended run knows.
func TestEncryptNeedsAPlaceThatLasts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const overlay = "is an overlay, of which the upper layer may be in memory"
	for _, c := range []struct {
		why        string
		unattended bool
		refused    bool
	}{
		{"is in memory", false, true}, {"is in memory", true, true}, {overlay, true, true}, {overlay, false, false},
		{"is on a volume that gets a new key at each start (key: ephemeral)", false, true},
	} {
		for _, dry := range []bool{true, false} {
			s := encryptSpec()
			s.EncryptPlain = c.unattended
			disk := plainDiskFor(s)
			b := newBoard(disk)
			sys := b.System()
			sys.Fleeting = func(path string) string {
				if path == s.Header {
					return c.why
				}
				return ""
			}
			m, before := volume.New(sys), snapshot(t, b, disk)
			run := func() (volume.Result, error) {
				r, err := m.Encrypt(ctx, s, volume.RotateOptions{InitOnly: true, DryRun: dry})
				return r.Result, err
			}
			if c.unattended {
				run = func() (volume.Result, error) { return m.Unlock(ctx, s, volume.UnlockOptions{DryRun: dry}) }
			}
			r, err := run()
			if !c.refused {
				if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), overlay) {
					t.Errorf("not said: %q", r.Warnings)
				}
				continue
			}
			if !fault.Is(err, fault.ConfigInvalid) || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%+v: %v (code %s)", c, err, fault.CodeOf(err))
			}
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
				t.Errorf("%+v: changed %q", c, names)
			}
		}
	}
}
