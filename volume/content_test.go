// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"math/rand/v2"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/luks2"
	"imxcrypt/volume/volumetest"
)

// What may be on a device beforehand.

// noise fills a disk with random bytes, like a foreign plain dm-crypt volume.
func noise(im *crashtest.Image) {
	b := make([]byte, im.Size())
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	write(im, b, 0)
}

// foreignLUKS2 is a valid LUKS2 volume that is not ours.
func foreignLUKS2(im *crashtest.Image) {
	h, err := luks2.New(luks2.Options{UUID: "0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11", Label: "somebody's"})
	if err != nil {
		panic(err)
	}
	h.Metadata.Segments = map[string]luks2.Segment{"0": {
		Type: luks2.SegmentCrypt, Offset: h.Area(), Size: luks2.SizeDynamic, Encryption: "aes-xts-plain64", SectorSize: 512,
	}}
	h.Metadata.Digests = map[string]luks2.Digest{"0": {Type: "theirs", Keyslots: []string{}, Segments: []string{"0"}}}
	if err := h.Format(im); err != nil {
		panic(err)
	}
	b := make([]byte, im.Size()-h.Area())
	_, _ = rand.NewChaCha8([32]byte{2}).Read(b)
	write(im, b, h.Area())
}

// foreignLUKS1 shows the magic number of LUKS1, and noise.
func foreignLUKS1(im *crashtest.Image) {
	noise(im)
	write(im, []byte("LUKS\xba\xbe\x00\x01aes\x00"), 0)
}

func write(im volumetest.Store, b []byte, at int64) {
	if _, err := im.WriteAt(b, at); err != nil {
		panic(err)
	}
}

// foreignMapping makes a mapping on the disk that is not ours, as the dmsetup recipe
// does.
func foreignMapping(b *volumetest.Board, name, uuid string) error {
	t := dmcrypt.Table{dmcrypt.Linear{Length: 2048, Device: dmcrypt.Number{Major: 179, Minor: 8}, Offset: 8192}}
	if _, err := b.DM.Activate(context.Background(), name, uuid, t, false); err != nil {
		return err
	}
	return b.DM.Announce(context.Background(), name)
}

// laterLUKS is a LUKS header of a future version.
func laterLUKS(im *crashtest.Image) {
	foreignLUKS2(im)
	for _, at := range []int64{0, 0x4000} {
		write(im, []byte{0, 3}, at+6)
		write(im, []byte("another checksum"), at+448)
	}
}
