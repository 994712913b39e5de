// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"math/bits"
	"slices"
	"testing"
)

func TestFuseTableIsInOrder(t *testing.T) {
	t.Parallel()
	families, err := readFamilies(fuseTable)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range families {
		if len(f.SoC) == 0 {
			t.Errorf("a family of no SoC: %+v", f)
		}
		for _, soc := range f.SoC {
			if seen[soc] {
				t.Errorf("%s is in two families", soc)
			}
			seen[soc] = true
		}
		if f.Key != "caam" && f.Key != "dcp" && f.Key != "ele" {
			t.Errorf("%v: key %q", f.SoC, f.Key)
		}
		for _, soc := range f.KeepsKeys {
			if !slices.Contains(f.SoC, soc) {
				t.Errorf("%s keeps its keys, and is not of %v", soc, f.SoC)
			}
		}
		readable := f.NVMEM != "" && bits.OnesCount32(uint32(f.Mask)) == 1 && f.Offset%4 == 0 && f.Offset > 0
		if readable == (f.NoFuse != "") {
			t.Errorf("%v: either a word and one bit, or the reason why not: %+v", f.SoC, f)
		}
	}
}

func TestFuseTableIsReadStrictly(t *testing.T) {
	t.Parallel()
	for _, table := range []string{
		"",
		`{"families":[{"soc":["a"],"msak":"0x1"}]}`,
		`{"families":[{"soc":["a"],"mask":"bit one"}]}`,
		`{"families":[{"soc":["a"],"mask":"0x100000000"}]}`,
	} {
		if _, err := readFamilies(table); err == nil {
			t.Errorf("read %s", table)
		}
	}
}
