// SPDX-License-Identifier: Apache-2.0

package fsprobe_test

import (
	"bytes"
	"testing"

	"imxcrypt/internal/fsprobe"
)

func TestImagesAreKnownByTheirMark(t *testing.T) {
	t.Parallel()
	squash, erofs := make([]byte, 8192), make([]byte, 8192)
	copy(squash, "hsqs")
	copy(erofs[1024:], "\xe2\xe1\xf5\xe0")
	for i, c := range []struct {
		image  []byte
		fstype string
		want   bool
	}{
		{squash, "squashfs", true}, {squash, "erofs", false}, {erofs, "erofs", true}, {erofs, "squashfs", false},
		{make([]byte, 8192), "squashfs", false}, {squash[:2], "squashfs", false}, {erofs[:1024], "erofs", false}, {squash, "ext4", false},
	} {
		got, err := fsprobe.HasMark(bytes.NewReader(c.image), int64(len(c.image)), c.fstype)
		if err != nil || got != c.want {
			t.Errorf("%d, %s: %v, %v", i, c.fstype, got, err)
		}
	}
	for _, fstype := range fsprobe.ReadOnlyTypes() {
		if !fsprobe.IsReadOnly(fstype) || fsprobe.Known(fstype) {
			t.Errorf("%s proves a key, or is written to", fstype)
		}
	}
}
