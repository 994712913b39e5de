// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomScript returns one to three changes for mutated.
func randomScript(rng *rand.Rand) []byte {
	script := make([]byte, 4*(1+rng.IntN(3)))
	for i := range script {
		script[i] = byte(rng.Uint32())
	}
	return script
}

// mutationBases are the texts that changes start from.
func mutationBases(t *testing.T) []string {
	t.Helper()
	bases := []string{ourText(t), twoSegments(t)}
	for _, tc := range realHeaders {
		if text := realText(t, tc.name); len(text) < DefaultCopySize-binarySize && tc.copySize == 0 {
			bases = append(bases, text)
		}
	}
	return bases
}

// TestRandomChanges is the part of the fuzzing that every run does: the same changes each
// time, from a seed.
func TestRandomChanges(t *testing.T) {
	t.Parallel()
	n := 1000
	if soak {
		n = 300000
	}
	bases := mutationBases(t)
	rng := rand.New(rand.NewPCG(2, 3))
	taken, refused := 0, map[Rule]int{}
	for range n {
		area := mutated(t, bases[rng.IntN(len(bases))], randomScript(rng))
		if len(area) > DefaultCopySize-binarySize {
			continue
		}
		data := sealed(area, nil, nil)
		checkInvariants(t, data)
		var invalid *InvalidError
		switch _, err := Check(bytes.NewReader(data), fuzzDevice, -1); {
		case err == nil:
			taken++
		case errors.As(err, &invalid):
			refused[invalid.Rule]++
		default:
			t.Fatalf("%s: %v", area, err)
		}
	}
	t.Logf("%d changed headers: %d taken, the others refused by %d rules: %v", n, taken, len(refused), refused)
	if taken == 0 || len(refused) < 15 {
		t.Error("the changes do not reach far enough")
	}
}

// TestCryptsetupTakesWhatWeTake tries random headers: one that we accept and cryptsetup
// does not would mean that we are too lax.
func TestCryptsetupTakesWhatWeTake(t *testing.T) {
	t.Parallel()
	want := 60
	if soak {
		want = 600
	}
	bases := mutationBases(t)
	rng := rand.New(rand.NewPCG(4, 5))
	path := imageFile(t, newSparse(fuzzDevice))
	for asked, complaints := 0, 0; asked < want && complaints < 3; {
		area := mutated(t, bases[rng.IntN(len(bases))], randomScript(rng))
		if len(area) >= DefaultCopySize-binarySize || slices.Contains(bases, string(area)) {
			continue
		}
		data := sealed(area, nil, nil)
		if _, err := Check(bytes.NewReader(data), fuzzDevice, -1); err != nil {
			continue
		}
		asked++
		overwrite(t, path, data)
		if out, err := run(t, "cryptsetup", "luksUUID", path); err != nil {
			t.Errorf("cryptsetup refuses %s: %v %s", area, err, out)
			complaints++
		}
	}
	t.Logf("%d changed headers that we take, cryptsetup takes too", want)
}
