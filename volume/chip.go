// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"path/filepath"

	"imxcrypt/caam"
	"imxcrypt/internal/klog"
)

// ChipState is what can be learnt about the chip: its name, the unit that seals keys, its
// security state and the evidence for that state.
type ChipState = caam.State

// ReadChip reads the fuses and the kernel log. root is the directory that contains sys
// and dev, empty for those of the running system. Since it reads the whole log, it is for
// provisioning, for explaining a rejected key and for showing to people: opening a volume
// never waits for it.
func ReadChip(root string) ChipState {
	var lines []string
	// What programs wrote to the log (facility not 0) is not evidence.
	for _, r := range klog.All(filepath.Join("/"+root, klog.Path), func(r klog.Record) bool { return r.Facility == 0 }) {
		lines = append(lines, r.Text)
	}
	return caam.ReadSecurityState(root, lines)
}
