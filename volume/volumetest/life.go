// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

const (
	mib = 1 << 20

	smallHeader = 128 << 10
	// SmallGap and SmallData are the gap and the data of [Small], in bytes.
	SmallGap  = 256 << 10
	SmallData = 1536 << 10
	// SmallText is where the tests' own bytes begin, behind the filesystem that the
	// fake mkfs makes.
	SmallText = mib

	// UserData is where [Put] writes, behind the filesystem that the fake mkfs makes.
	UserData = 2 * mib
	// UserText is what [Ready] writes and flushes.
	UserText = "what the user wrote and flushed"
)

// Every returns the step of a loop over all places to fail at: n if the tests are slow.
func Every(n int) int {
	if crashtest.Slow() {
		return n
	}
	return 1
}

// Spec returns the volume of most tests, with the configuration's defaults.
func Spec() spec.Volume {
	return spec.Volume{
		Name: "data", Mapping: "data", Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32,
		Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096, Header: spec.HeaderOnDevice, HeaderSize: mib, Gap: mib,
		Filesystem: spec.Filesystem{Type: "ext4", Label: "data"}, Mount: spec.Mount{Path: "/data"},
		StateDir: "/var/lib/imxcrypt",
	}
}

// BoardOf returns a board with a random chip and one disk.
func BoardOf(disk Store) *Board {
	b := New(caamtest.RandomChip(), NoFiles(), &Disk{Path: "/dev/mmcblk2p3", Store: disk})
	b.Directories = []string{"/data"}
	return b
}

// PowerCycle returns the same board, off and on again.
func PowerCycle(b *Board) *Board {
	b.Chip.PowerCycle()
	n := New(b.Chip, b.Files, b.Disks...)
	n.Directories, n.State = b.Directories, b.State
	return n
}

// Must fails the test unless a command succeeded.
func Must(t *testing.T, r volume.Result, err error) volume.Result {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
	}
	return r
}

// Refused fails the test unless err has the given code.
func Refused(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Fatalf("expected code %s, got %s: %v", code, fault.CodeOf(err), err)
	}
}

// Put writes a text into the open volume and flushes it.
func Put(t *testing.T, b *Board, text string) {
	t.Helper()
	PutIn(t, b, "data", text)
}

// PutIn is Put for a volume whose mapping has another name.
func PutIn(t *testing.T, b *Board, mapping, text string) {
	t.Helper()
	f, err := b.Mapping(mapping, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), UserData); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Get reads n bytes where Put writes.
func Get(t *testing.T, b *Board, n int) string {
	t.Helper()
	f, err := b.Mapping("data", false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, n)
	if _, err := f.ReadAt(buf, UserData); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

// Small returns a small volume of six zones. Without a gap, zones are kept in the
// journal, which is smaller.
func Small(gap int64) spec.Volume {
	s := Spec()
	s.HeaderSize, s.Gap = smallHeader, gap
	return s
}

// SmallDisk returns a disk with just the room that a [Small] volume takes.
func SmallDisk(s spec.Volume) *crashtest.Image {
	if s.Detached() {
		return crashtest.NewImage(SmallData)
	}
	return crashtest.NewImage(s.HeaderSize + s.Gap + SmallData)
}

// Filled returns a board with a mounted volume, and the content of that.
func Filled(t *testing.T, s spec.Volume, disk Store) (*Board, []byte) {
	t.Helper()
	b := BoardOf(disk)
	return b, Fill(t, s, b)
}

// Fill makes and mounts a board's volume, and returns its content.
func Fill(t *testing.T, s spec.Volume, b *Board) []byte {
	t.Helper()
	r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{})
	Must(t, r, err)
	text := make([]byte, SmallData-SmallText)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(text) // never fails
	Write(t, b, text, SmallText)
	return Content(t, b)
}

// Write writes to the open volume and flushes it.
func Write(t *testing.T, b *Board, text []byte, at int64) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(text, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Content returns all that a user of the volume reads.
func Content(t *testing.T, b *Board) []byte {
	t.Helper()
	return ContentOf(t, b, "data")
}

// ContentOf is Content for a volume whose mapping has another name.
func ContentOf(t *testing.T, b *Board, mapping string) []byte {
	t.Helper()
	f, err := b.Mapping(mapping, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make([]byte, f.Size())
	if _, err := f.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	return all
}

// Same fails the test unless got equals want.
func Same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%s: lost: byte %d of %d (%d read) differs", what, i, len(want), len(got))
		}
	}
	t.Fatalf("%s: %d bytes read, %d expected", what, len(got), len(want))
}

// RotateUntil stops a rotation cleanly after some zones.
func RotateUntil(t *testing.T, b *Board, s spec.Volume, zones int) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Moved: func(volume.Rotation) {
		if zones--; zones == 0 {
			stop()
		}
	}})
	Refused(t, err, fault.Interrupted)
}

// Detached puts the header into a file.
func Detached(s *spec.Volume) { s.Header = "/var/lib/imxcrypt/data.luks" }

// DevSource sets the source to dev.
func DevSource(s *spec.Volume) {
	s.Source, s.Wrap, s.Cipher, s.KeySize, s.AllowInsecure = spec.SourceDev, "", "aes-xts-plain64", 64, true
}

// Changed returns the usual volume with changes.
func Changed(changes ...func(*spec.Volume)) spec.Volume {
	s := Spec()
	for _, c := range changes {
		c(&s)
	}
	return s
}

// Ready returns a board with a locked volume of that spec, after a power cycle.
func Ready(t *testing.T, s spec.Volume) (*Board, *crashtest.Image) {
	t.Helper()
	im := crashtest.NewImage(16 * mib)
	b := BoardOf(im)
	r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{})
	Must(t, r, err)
	Put(t, b, UserText)
	return PowerCycle(b), im
}

// Mounted returns a board with a volume in use.
func Mounted(t *testing.T, s spec.Volume) *Board {
	t.Helper()
	b, _ := Ready(t, s)
	r, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	Must(t, r, err)
	return b
}

// PlainExt4 writes an unencrypted filesystem to a disk, as if taken out of a volume.
func PlainExt4(im *crashtest.Image) {
	image, err := ext4Image("", "")
	if err != nil {
		panic(err)
	}
	write(im, image, 0)
}

// PlainDisk returns a disk with an ext4 filesystem in plain text, full of data.
func PlainDisk() *crashtest.Image {
	disk := crashtest.NewImage(SmallData)
	PlainExt4(disk)
	text := make([]byte, SmallData-SmallText)
	_, _ = rand.NewChaCha8([32]byte{8}).Read(text) // never fails
	write(disk, text, SmallText)
	return disk
}

// InPlaceUntil stops an encryption or decryption cleanly after some zones.
func InPlaceUntil(t *testing.T, zones int, run func(context.Context, volume.RotateOptions) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	Refused(t, run(ctx, volume.RotateOptions{Moved: func(volume.Rotation) {
		if zones--; zones == 0 {
			stop()
		}
	}}), fault.Interrupted)
}

func write(im Store, b []byte, at int64) {
	if _, err := im.WriteAt(b, at); err != nil {
		panic(err)
	}
}
