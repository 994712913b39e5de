// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

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
	return map[string]spec.Volume{"auto": auto(encryptSpec()), "ccm": encryptSpec(), "ecb, sectors of 512": ecb, "dev": dev, "trusted": trustedFrom(encryptSpec())}
}

// deviceCases are volumes whose header goes on the device.
func deviceCases() map[string]spec.Volume {
	s, ecb, dev := rotationSpec(rotationGap), rotationSpec(0), rotationSpec(rotationGap)
	ecb.Wrap, ecb.SectorSize = "ecb", 512
	dev.Source, dev.Wrap, dev.Cipher, dev.KeySize, dev.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
	return map[string]spec.Volume{"on the device": auto(s), "on the device, ecb, sectors of 512, no gap": ecb, "on the device, dev": dev, "on the device, trusted": trustedFrom(s)}
}

// allPlainCases are the volumes of both kinds.
func allPlainCases() map[string]spec.Volume {
	all := encryptCases()
	maps.Copy(all, deviceCases())
	return all
}

// plainDiskFor returns the disk that a volume is made of: plainDisk's data and, if the
// header goes on the device, just enough room for it at the end.
func plainDiskFor(s spec.Volume) *crashtest.Image {
	if s.Detached() {
		return plainDisk()
	}
	disk := crashtest.NewImage(rotationData + 2*s.HeaderSize + s.Gap + header.BlockAlign)
	noise(disk)
	write(disk, plainDisk().Bytes(), 0)
	return disk
}

// A device that was encrypted in place is a volume with the same data, which opens after
// a power cycle and rotates. Decrypted again, it is bit for bit what it was.
func TestEncryptAndDecrypt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range allPlainCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := plainDiskFor(s)
			want := bytes.Clone(disk.Bytes()[:rotationData])
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
				same(t, "decrypted", disk.Bytes()[:rotationData], want)
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

// nowhereInPlain fails if a block of the plaintext is left on the device or in the header
// file.
func nowhereInPlain(t *testing.T, b *volumetest.Board, s spec.Volume, disk *crashtest.Image, plain []byte) {
	t.Helper()
	var file []byte
	if s.Detached() {
		var err error
		if file, err = b.Files.Read(s.Header, atomicfile.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// Wherever a block begins, a position that is a multiple of stride is in it.
	const stride, known = 64, 8
	places := map[[known]byte][]int{}
	for at := rotationText; at < len(plain); at += header.BlockAlign {
		for i := range stride {
			some := [known]byte(plain[at+i:])
			places[some] = append(places[some], at+i)
		}
	}
	for _, where := range [][]byte{disk.Bytes(), file} {
		for p := 0; p+known <= len(where); p += stride {
			for _, in := range places[[known]byte(where[p:])] {
				at := in - (in-rotationText)%header.BlockAlign
				block := plain[at : at+header.SectorBytes]
				if from := p - (in - at); from >= 0 && bytes.HasPrefix(where[from:], block) {
					t.Fatalf("the plain text of byte %d is still there, at byte %d", at, from)
				}
			}
		}
	}
}

// A volume that was made on an open chip, without a recovery copy, survives the closing
// of the chip in plaintext: it is decrypted before and encrypted after.
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

// A half-encrypted volume opens and is used, says how far it is, sleeps and wakes.
// Whichever command continues finishes it, locked or in use.
func TestHalfEncryptedVolumeIsUsed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range allPlainCases() {
		for _, back := range []bool{false, true} {
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
							same(t, "decrypted", disk.Bytes()[:rotationData], want)
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

// An attacker who can write the header file, but has no key, cannot make it say that the
// data is in plaintext or is being decrypted.
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
	h.BeginDecryption(0)
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

func openedDevice(t *testing.T, b *volumetest.Board, s spec.Volume) header.Device {
	t.Helper()
	data, err := b.System().Devices.Open(s.Device, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = data.Close() })
	return data
}

func openedStorage(t *testing.T, b *volumetest.Board, s spec.Volume) *header.Storage {
	t.Helper()
	data := openedDevice(t, b, s)
	if !s.Detached() {
		return &header.Storage{Data: data, Header: data}
	}
	file, err := b.System().Devices.Open(s.Header, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &header.Storage{Data: data, Header: file}
}

// If a part of a volume is in plaintext, erasing the key would protect nothing.
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

// While the filesystem is seen in plaintext, it does not show that a suspend has killed
// the key: nothing is encrypted with a dead key, whether the suspend is known or not.
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

	// The power is cut after the end. The same command has the same outcome.
	b = powerCycle(b)
	for _, o := range []volume.RotateOptions{{}, {Mount: true, InitOnly: true}, {Mount: true, ResumeOnly: true}, {Mount: true, DryRun: true}} {
		r, err = b.Manager().Encrypt(ctx, s, o)
		if must(t, r.Result, err); r.Already == o.DryRun || r.Mounted != "" {
			t.Fatalf("%+v: already %v, mounted %q", o, r.Already, r.Mounted)
		}
	}
	for _, already := range []bool{false, true} {
		r, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true})
		if must(t, r.Result, err); r.Already != already || r.Mounted != "/data" || r.Rotation != nil {
			t.Fatalf("already %v, mounted on %q", r.Already, r.Mounted)
		}
		same(t, "mounted again", content(t, b), want)
	}

	s.Mount.Path = "/occupied"
	b = newBoard(plainDisk())
	b.Directories = nil
	_, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true})
	refused(t, err, fault.MountPointMissing)
	if names := b.Files.Names(); len(names) != 0 {
		t.Fatalf("left: %q", names)
	}
}
