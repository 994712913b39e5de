// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"path/filepath"

	"imxcrypt/caam"
	"imxcrypt/internal/klog"
)

// ChipState is what can be learnt of the chip: its name, the unit that seals
// keys, its security state and the evidence for that.
type ChipState = caam.State

// ReadChip looks at the fuses and at the kernel's log. root is the folder above
// sys and dev, empty for the running system's. It reads the whole kernel log, so
// it is for provisioning, for explaining a rejected key and for people: nothing
// that opens a volume waits for it.
func ReadChip(root string) ChipState {
	var lines []string
	// What programs wrote into the log (facility not 0) is no evidence.
	for _, r := range klog.All(filepath.Join("/"+root, klog.Path), func(r klog.Record) bool { return r.Facility == 0 }) {
		lines = append(lines, r.Text)
	}
	return caam.ReadSecurityState(root, lines)
}
