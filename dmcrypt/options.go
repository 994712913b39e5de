// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/keysource"
)

// The optional parameters of dm-crypt that we use, in the order in which the kernel
// prints them (crypt_status), with the version of the crypt target that introduced each.
var optionOrder = []struct {
	name  string
	since Version
}{
	{"allow_discards", Version{1, 11, 0}},
	{"same_cpu_crypt", Version{1, 14, 0}},
	{"high_priority", Version{1, 26, 0}},
	{"submit_from_crypt_cpus", Version{1, 14, 0}},
	{"no_read_workqueue", Version{1, 22, 0}},
	{"no_write_workqueue", Version{1, 22, 0}},
	{"sector_size", Version{1, 17, 0}},
	{"iv_large_sectors", Version{1, 17, 0}},
}

// SectorBytes is device-mapper's unit of lengths and offsets. A crypt mapping's own
// sector may be larger.
const SectorBytes = 512

// CryptOptions puts flags (names only: "allow_discards") and the sector size in bytes (0
// and 512 both mean 512) into the form that a Crypt target holds and the kernel echoes.
// For unknown, repeated or unsupported flags the error names the flag.
func CryptOptions(sectorSize int, flags ...string) ([]string, error) {
	options := slices.Clone(flags)
	for _, f := range flags {
		if strings.HasPrefix(f, "sector_size") {
			return nil, fmt.Errorf("flag %q: the sector size is not given as a flag", f)
		}
	}
	if sectorSize != 0 {
		options = append(options, "sector_size:"+strconv.Itoa(sectorSize))
	}
	return canonical(options)
}

// SupportsOption reports whether a crypt target of version v knows an option, by its name
// without a value. It is false for unknown names.
func SupportsOption(v Version, name string) bool {
	i := optionRank(name)
	return i >= 0 && v.Compare(optionOrder[i].since) >= 0
}

func optionRank(option string) int {
	name, _, _ := strings.Cut(option, ":")
	for i, o := range optionOrder {
		if o.name == name {
			return i
		}
	}
	return -1
}

// canonical sorts options as the kernel does and drops sector_size:512, which the kernel
// does not echo.
func canonical(options []string) ([]string, error) {
	var out []string
	seen := map[int]bool{}
	for _, o := range options {
		name, value, hasValue := strings.Cut(o, ":")
		rank := optionRank(o)
		switch {
		case name == "integrity" || name == "integrity_key_size":
			return nil, fmt.Errorf("option %q: dm-integrity is not supported", clip(o))
		case rank < 0:
			return nil, fmt.Errorf("option %q is not known", clip(o))
		case seen[rank]:
			return nil, fmt.Errorf("option %q is given twice", o)
		case hasValue != (name == "sector_size"):
			return nil, fmt.Errorf("option %q: a value is missing or too many", clip(o))
		}
		seen[rank] = true
		if name == "sector_size" {
			n, err := devnum.ParseDecimal(value, keysource.MaxSector)
			if err != nil {
				return nil, fmt.Errorf("option %q: %w", clip(o), err)
			}
			if !slices.Contains(keysource.SectorSizes(), int(n)) {
				return nil, fmt.Errorf("option %q: the sector size is 512, 1024, 2048 or 4096 bytes", o)
			}
			if n == SectorBytes {
				continue
			}
		}
		out = append(out, o)
	}
	sort.Slice(out, func(i, j int) bool { return optionRank(out[i]) < optionRank(out[j]) })
	return out, nil
}
