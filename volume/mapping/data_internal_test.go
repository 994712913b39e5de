// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"imxcrypt/volume/header"
)

func TestWhatABlockProves(t *testing.T) {
	t.Parallel()
	noise := func(seed byte, n int) []byte {
		b := make([]byte, n)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
		return b
	}
	sectors := func(seed byte) []byte { return bytes.Repeat(noise(seed, 512), header.BlockAlign/512) }
	blank, text := make([]byte, header.BlockAlign), bytes.Repeat([]byte("text"), header.BlockAlign/4)
	uneven := 0
	for seed := range byte(200) {
		stored, clear := sectors(seed), sectors(seed^0xff)
		if Noise(stored) && !Noise(clear) {
			uneven++
		}
		var s Shown
		if s.compare(stored, clear, 0); s.Proved {
			t.Fatalf("seed %d: sectors that are all the same prove a key that makes noise of them", seed)
		}
	}
	if uneven == 0 {
		t.Error("no seed made sectors that look random as stored only")
	}
	for name, c := range map[string]struct {
		stored, clear []byte
		want          Shown
	}{
		"the right key":            {noise(1, header.BlockAlign), text, Shown{Proved: true}},
		"the right key, blank":     {noise(1, header.BlockAlign), blank, Shown{Proved: true}},
		"a wrong key":              {noise(1, header.BlockAlign), noise(2, header.BlockAlign), Shown{Noise: true}},
		"nothing stored":           {blank, noise(2, header.BlockAlign), Shown{}},
		"behind what says nothing": {append(blank[:header.BlockAlign:header.BlockAlign], noise(1, header.BlockAlign)...), append(noise(2, header.BlockAlign), text...), Shown{Proved: true, At: header.BlockAlign}},
	} {
		var s Shown
		if s.compare(c.stored, c.clear, 0); s != c.want {
			t.Errorf("%s: %+v, not %+v", name, s, c.want)
		}
	}
}
