// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"cmp"
	"fmt"
)

// Version is a target's or the device-mapper interface's version.
type Version struct{ Major, Minor, Patch uint32 }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Compare returns a negative number, zero or a positive number if v is older than, equal
// to or newer than w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}
