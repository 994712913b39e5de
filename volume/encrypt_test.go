// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// encryptSpec is a small volume with its header in a file.
func encryptSpec() spec.Volume {
	s := rotationSpec(0)
	s.Header = "/var/lib/imxcrypt/data.luks"
	return s
}

func encryptCases() map[string]spec.Volume {
	ecb, dev := encryptSpec(), encryptSpec()
	ecb.Wrap, ecb.SectorSize = "ecb", 512
	dev.Source, dev.Wrap, dev.Cipher, dev.KeySize, dev.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
	return map[string]spec.Volume{"auto": auto(encryptSpec()), "ccm": encryptSpec(), "ecb, sectors of 512": ecb, "dev": dev}
}

// deviceCases are volumes whose header goes onto the device.
func deviceCases() map[string]spec.Volume {
	s, ecb, dev := rotationSpec(rotationGap), rotationSpec(0), rotationSpec(rotationGap)
	ecb.Wrap, ecb.SectorSize = "ecb", 512
	dev.Source, dev.Wrap, dev.Cipher, dev.KeySize, dev.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
	return map[string]spec.Volume{"on the device": auto(s), "on the device, ecb, sectors of 512, no gap": ecb, "on the device, dev": dev}
}

// allPlainCases are the volumes of both kinds.
func allPlainCases() map[string]spec.Volume {
	all := encryptCases()
	maps.Copy(all, deviceCases())
	return all
}

// plainDiskFor is the disk that a volume is made of: with plainDisk's data and, where the
// header goes onto it, behind that just the room that it takes.
func plainDiskFor(s spec.Volume) *crashtest.Image {
	if s.Detached() {
		return plainDisk()
	}
	disk := crashtest.NewImage(rotationData + 2*s.HeaderSize + s.Gap + header.BlockAlign)
	noise(disk)
	write(disk, plainDisk().Bytes(), 0)
	return disk
}

// Encrypted in place a device is a volume with the same data, which opens after a
// power cycle and rotates; decrypted it is bit for bit what it was.
func TestEncryptAndDecrypt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range encryptCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := plainDisk()
			want := bytes.Clone(disk.Bytes())
			b := newBoard(disk)
			for round := range 2 {
				zones := 0
				r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{Moved: func(volume.Rotation) { zones++ }})
				must(t, r.Result, err)
				if zones == 0 || r.Already || r.Generation != 1 || r.Rotation.Done != r.Rotation.Total {
					t.Fatalf("%d zones, %+v", zones, r)
				}
				nothingPrivate(t, b, 0)
				nowhereInPlain(t, b, s, disk, want)
				b = powerCycle(b)
				r, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
				if must(t, r.Result, err); !r.Already {
					t.Fatal("encrypted again")
				}
				st := b.Manager().Status(ctx, s)
				if st.Err != nil || st.Phase != header.PhaseReady || st.State != volume.Locked || st.Rotation != nil {
					t.Fatalf("%+v", st)
				}
				u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, u, err)
				same(t, "encrypted", content(t, b), want)
				v, err := b.Manager().Verify(ctx, s)
				must(t, v, err)
				text := []byte(fmt.Sprintf("written in round %d", round))
				copy(want[rotationText+4711:], text)
				scrawl(t, b, text, rotationText+4711)
				u, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, u, err)
				if round > 0 {
					r, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
					must(t, r.Result, err)
				}
				r, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
				must(t, r.Result, err)
				nothingPrivate(t, b, 0)
				same(t, "decrypted", disk.Bytes(), want)
				if names := b.Files.Names(); len(names) != 0 {
					t.Fatalf("left: %q", names)
				}
				r, err = b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
				if must(t, r.Result, err); !r.Already {
					t.Fatal("decrypted again")
				}
			}
		})
	}
}

// nowhereInPlain fails if a block of the plain text is left on the device or in the
// header's file.
func nowhereInPlain(t *testing.T, b *volumetest.Board, s spec.Volume, disk *crashtest.Image, plain []byte) {
	t.Helper()
	var file []byte
	if s.Detached() {
		var err error
		if file, err = b.Files.Read(s.Header, atomicfile.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	all := disk.Bytes()
	for at := int64(rotationText); at < int64(len(plain)); at += header.BlockAlign {
		block := plain[at : at+header.SectorBytes]
		if bytes.Contains(all, block) || bytes.Contains(file, block) {
			t.Fatalf("the plain text of byte %d is still there", at)
		}
	}
}

// ways are encrypting and decrypting, as far as the volume can be.
func ways(s spec.Volume) []bool {
	if s.Detached() {
		return []bool{false, true}
	}
	return []bool{false}
}

// A filesystem that somebody has made over a volume is not encrypted: what the backup of
// the volume's header would still open would be overwritten. With Force it is.
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
			write(disk, make([]byte, 1024), 0) // what lies before the superblock
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

// Begun and left alone, the device is used in plain text again, and grows with its
// filesystem: it is not encrypted up to where that ended before.
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

// A volume that was made on an open chip, without a recovery copy, is taken over its
// closing in plain text: decrypted before, encrypted after.
func TestDecryptedOverTheClosingOfTheChip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	s.AllowOpenState = true
	want := bytes.Clone(disk.Bytes())
	chip := caamtest.NewChip([32]byte{9}, false)
	b := boardOver(chip, disk, crashtest.NewImage(volumetest.FilesSize))
	b.State = caam.Open
	e, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, e.Result, err)
	d, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
	must(t, d.Result, err)
	same(t, "decrypted", disk.Bytes(), want)

	chip.BurnFuse()
	b = powerCycle(b)
	b.State, s.AllowOpenState = caam.Closed, false
	e, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, e.Result, err)
	b = powerCycle(b)
	b.State = caam.Closed
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "encrypted on the closed chip", content(t, b), want)
	nowhereInPlain(t, b, s, disk, want)
}

// Half-way the volume opens and is used, says how far it is, sleeps and wakes, and
// whichever command continues ends it, locked or in use.
func TestHalfEncryptedVolumeIsUsed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range allPlainCases() {
		for _, back := range ways(s) {
			for _, power := range []bool{false, true} {
				for _, rotate := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, back %v, power cycle %v, by rotate %v", name, back, power, rotate), func(t *testing.T) {
						t.Parallel()
						disk := plainDiskFor(s)
						want := bytes.Clone(disk.Bytes()[:rotationData])
						b := newBoard(disk)
						command := func(ctx context.Context, o volume.RotateOptions) error {
							_, err := b.Manager().Encrypt(ctx, s, o)
							return err
						}
						phase := header.PhaseEncrypting
						if back {
							if err := command(ctx, volume.RotateOptions{}); err != nil {
								t.Fatal(err)
							}
							phase = header.PhaseDecrypting
							command = func(ctx context.Context, o volume.RotateOptions) error {
								_, err := b.Manager().Decrypt(ctx, s, o)
								return err
							}
						}
						inPlaceUntil(t, 1, command)
						nothingPrivate(t, b, 0)
						if power {
							b = powerCycle(b)
						}
						st := b.Manager().Status(ctx, s)
						if st.Err != nil || st.Phase != phase || st.Rotation == nil || st.Rotation.Done == 0 || st.Rotation.Done >= st.Rotation.Total || s.Cipher != "" && st.Cipher != s.Cipher || st.Source == spec.SourceAuto {
							t.Fatalf("%+v %+v", st, st.Rotation)
						}
						for range 2 {
							r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
							must(t, r, err)
							same(t, "half-way", content(t, b), want)
						}
						for _, at := range []int{0, len(want) - rotationText - 5000} {
							text := []byte(fmt.Sprintf("written half-way at %d", at))
							copy(want[rotationText+at:], text)
							scrawl(t, b, text, int64(rotationText+at))
						}
						r, err := b.Manager().Verify(ctx, s)
						must(t, r, err)
						refusedOf(t, fault.RotationUnderWay, func() error { _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{}); return err })
						refusedOf(t, fault.RotationUnderWay, func() error { _, err := b.Manager().BackupHeader(ctx, s, "/backup"); return err })
						if rotate {
							command = func(ctx context.Context, o volume.RotateOptions) error {
								o.ResumeOnly = true
								_, err := b.Manager().Rotate(ctx, s, o)
								return err
							}
						}
						if err := command(ctx, volume.RotateOptions{}); err != nil {
							t.Fatal(err)
						}
						same(t, "all moved, in use", content(t, b), want)
						r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
						must(t, r, err)
						if back {
							// The header stays as long as the volume is in use.
							if err := command(ctx, volume.RotateOptions{}); err != nil {
								t.Fatal(err)
							}
							same(t, "decrypted", disk.Bytes(), want)
							return
						}
						nowhereInPlain(t, b, s, disk, want)
						b = powerCycle(b)
						r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						must(t, r, err)
						same(t, "encrypted", content(t, b), want)
						if st := b.Manager().Status(ctx, s); st.Err != nil || st.Phase != header.PhaseReady {
							t.Fatalf("%+v", st)
						}
					})
				}
			}
		}
	}
}

func refusedOf(t *testing.T, code fault.Code, do func() error) {
	t.Helper()
	refused(t, do(), code)
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

// foreignLUKS2small puts the magic number of a LUKS2 header of nobody we know there.
func foreignLUKS2small(im *crashtest.Image) { write(im, []byte("LUKS\xba\xbe\x00\x02"), 0) }

// needsRecovery sets ext4's flag that the journal waits to be replayed, with the
// superblock's checksum.
func needsRecovery(im *crashtest.Image) {
	super := bytes.Clone(im.Bytes()[1024:2048])
	super[0x60] |= 4
	binary.LittleEndian.PutUint32(super[0x3fc:], ^crc32.Checksum(super[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	write(im, super, 1024)
}

// growExt4 has the superblock of ext4 say that the filesystem takes all of the disk.
func growExt4(im *crashtest.Image) {
	super := bytes.Clone(im.Bytes()[1024:2048])
	binary.LittleEndian.PutUint32(super[4:], uint32(im.Size()>>(10+super[0x18])))
	binary.LittleEndian.PutUint32(super[0x3fc:], ^crc32.Checksum(super[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	write(im, super, 1024)
}

// Without room for the header's file, nothing is changed, and nothing of a header that
// cannot be proved is left.
func TestEncryptThatCannotBeginLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	b := newBoard(disk)
	// The record of an earlier volume, by which plain text is refused, stays, too.
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

// A header alone, begun and not continued, opens the volume; if the device was mounted
// and changed meanwhile, by its own name, that is what is encrypted; if it holds
// something else, it is left alone.
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

// Killed anywhere before the key is proved, and before that is continued: on the same
// running system, or after a power cycle.
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

// Who can write the file of a header, and has no key, cannot make it say that the data
// is in plain text, or shall become it.
func TestPlaintextIsBoundToTheKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	b := newBoard(disk)
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	c := openedStorage(t, b, s)
	h, err := header.Read(c)
	if err != nil {
		t.Fatal(err)
	}
	h.BeginDecryption()
	if err := h.Write(c.Header); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(disk.Bytes())
	for _, do := range []func() error{
		func() error { _, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{}); return err },
		func() error { _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true}); return err },
	} {
		if err := do(); err == nil {
			t.Fatal("decrypted by a header that the key did not make")
		}
	}
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("something was changed")
	}
}

func openedStorage(t *testing.T, b *volumetest.Board, s spec.Volume) *header.Storage {
	t.Helper()
	data, err := b.System().Devices.Open(s.Device, blockdev.Flags{})
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.System().Devices.Open(s.Header, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(data.Close(), file.Close()) })
	return &header.Storage{Data: data, Header: file}
}

// Erasing the key of a volume of which a part is in plain text would protect nothing.
func TestEraseRefusesHalfEncryptedVolumes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	b := newBoard(disk)
	inPlaceUntil(t, 1, func(ctx context.Context, o volume.RotateOptions) error {
		_, err := b.Manager().Encrypt(ctx, s, o)
		return err
	})
	before := snapshot(t, b, disk)
	_, err := b.Manager().Erase(ctx, s, volume.EraseOptions{})
	refused(t, err, fault.RotationUnderWay)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
}

// While the filesystem is seen in plain text it does not show that a suspend has killed
// the key: nothing is encrypted with a dead one, whether the suspend is known of or not.
func TestNothingIsEncryptedWithADeadKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, counted := range []bool{false, true} {
		t.Run(fmt.Sprintf("counted %v", counted), func(t *testing.T) {
			t.Parallel()
			s, disk := encryptSpec(), plainDisk()
			s.Wrap = "ecb"
			want := bytes.Clone(disk.Bytes())
			b := newBoard(disk)
			r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
			must(t, r.Result, err)
			u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			if counted {
				b.Sleep(time.Second)
			} else {
				b.Chip.PowerCycle()
			}
			refusedOf(t, fault.KeysLost, func() error {
				_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true})
				return err
			})
			same(t, "the device", disk.Bytes(), want)
			if counted {
				u, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			} else {
				u, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
			}
			must(t, u, err)
			r, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{ResumeOnly: true, Mount: true})
			must(t, r.Result, err)
			b = powerCycle(b)
			u, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			same(t, "encrypted", content(t, b), want)
		})
	}
}

// Without --no-mount a device is mounted before its data is encrypted.
func TestEncryptMounts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, disk := encryptSpec(), plainDisk()
	want := bytes.Clone(disk.Bytes())
	b := newBoard(disk)
	mounted := 0
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true, Moved: func(volume.Rotation) {
		if list, err := b.System().Mounts.List(); err == nil && len(list) == 1 {
			mounted++
		}
	}})
	if must(t, r.Result, err); mounted == 0 || r.Mounted != "/data" || r.Rotating {
		t.Fatalf("mounted for %d zones: %+v", mounted, r)
	}
	same(t, "in use", content(t, b), want)
	nothingPrivate(t, b, 1)

	s.Mount.Path = "/occupied"
	b = newBoard(plainDisk())
	b.Directories = nil
	_, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true})
	refused(t, err, fault.MountPointMissing)
	if names := b.Files.Names(); len(names) != 0 {
		t.Fatalf("left: %q", names)
	}
}

// The header is the only copy of the key: it does not go where a power cut takes it. An
// overlay may be on storage, which somebody who watches knows.
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
		{"is on a volume that has another key after the next start (key: ephemeral)", false, true},
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
