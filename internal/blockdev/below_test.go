// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package blockdev

import (
	"slices"
	"testing"
)

// Below finds devices through mappings and partitions.
func TestBelow(t *testing.T) {
	b := newBoard(t)
	disk := b.device("", "sda", empty())
	part := b.device("sda", "sda1", empty(), "PARTN=1")
	lower := b.mapping("dm-0", "lower", "CRYPT-LUKS2-x-lower", "sda1", empty())
	upper := b.mapping("dm-1", "upper", "CRYPT-LUKS2-y-upper", "dm-0", empty())
	other := b.device("", "sdb", empty())
	if got, want := b.Below(upper), []Number{lower, part, disk}; !slices.Equal(got, want) {
		t.Errorf("below the upper mapping: %v, want %v", got, want)
	}
	for _, n := range []Number{disk, other, {Major: 99}} {
		if got := b.Below(n); len(got) > 0 {
			t.Errorf("below %v: %v", n, got)
		}
	}
}
