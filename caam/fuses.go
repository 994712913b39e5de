// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// fuseTable holds per-chip facts as data, so that adding a chip needs no code. A
// test checks it.
//
//go:embed fuses.json
var fuseTable string

// family is a set of SoCs with the fuse in the same place.
type family struct {
	SoC []string
	// Key names the unit that seals keys: caam, dcp or ele.
	Key    string
	NVMEM  string
	Old    string
	Offset hex32
	Mask   hex32
	// NoFuse says why the state cannot be read; empty if it can.
	NoFuse string `json:"no_fuse"`
	// KeepsKeys are those in SoC whose black keys survive suspend-to-RAM.
	KeepsKeys []string `json:"keeps_keys"`
}

// hex32 is a number written as "0x18" in the table.
type hex32 uint32

func (h *hex32) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 0, 32)
	*h = hex32(v)
	return err
}

func readFamilies(table string) ([]family, error) {
	d := json.NewDecoder(bytes.NewReader([]byte(table)))
	d.DisallowUnknownFields()
	var all struct {
		Comment  string
		Families []family
	}
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("table of fuses: %w", err)
	}
	return all.Families, nil
}

func familyOf(soc string) (family, bool) {
	families, err := readFamilies(fuseTable)
	if err != nil {
		return family{}, false // a test reads the built-in table
	}
	i := slices.IndexFunc(families, func(f family) bool { return slices.Contains(f.SoC, soc) })
	if i < 0 {
		return family{}, false
	}
	return families[i], true
}
