// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"maps"
	"math"
	"testing"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// exhaust leaves a header only left sequence numbers.
func exhaust(t *testing.T, st state, s spec.Volume, left uint64) {
	t.Helper()
	path := s.Device
	if s.Detached() {
		path = s.Header
	}
	dev, err := st.board.System().Devices.Open(path, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	h, _, err := luks2.ReadDetached(dev, dev.Size(), -1)
	if !s.Detached() {
		h, _, err = luks2.Read(dev, dev.Size())
	}
	if err != nil {
		t.Fatal(err)
	}
	h.SeqID = math.MaxUint64 - left - 1
	if err := h.Restore(dev); err != nil {
		t.Fatal(err)
	}
}

// A used up sequence number stops a command that writes the header before it begins. The
// volume opens, and can be erased.
func TestAHeaderWhoseSequenceNumberIsUsedUp(t *testing.T) {
	t.Parallel()
	for placement, s := range bothPlacements() {
		for _, left := range []uint64{0, 1, 2} {
			for _, name := range []string{"rotate", "rotate, resumed", "reseal", "provision, continued"} {
				t.Run(placement+"/"+name, func(t *testing.T) {
					t.Parallel()
					st := commands(s)[name](t)
					exhaust(t, st, s, left)
					before := snapshot(t, st.board, st.disk)
					refused(t, st.run(st.board.Manager()), fault.HeaderInvalid)
					if !maps.Equal(before, snapshot(t, st.board, st.disk)) {
						t.Fatal("refused, and something was changed")
					}
				})
			}
			t.Run(placement+"/erase", func(t *testing.T) {
				t.Parallel()
				st := commands(s)["erase"](t)
				exhaust(t, st, s, left)
				hasItsData(t, st.board, s)
				if err := st.run(st.board.Manager()); err != nil {
					t.Fatal(err)
				}
				_, err := st.board.Manager().Unlock(t.Context(), s, volume.UnlockOptions{})
				refused(t, err, fault.NotProvisioned)
			})
		}
	}
}
