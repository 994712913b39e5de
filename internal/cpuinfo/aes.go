// SPDX-License-Identifier: Apache-2.0

// Package cpuinfo reads what the kernel says about the processor.
package cpuinfo

import (
	"os"
	"slices"
	"strings"
)

// Path is the kernel's file about the processor.
const Path = "/proc/cpuinfo"

// HasAES reports whether an ARM processor has AES instructions, given the text of [Path].
// Any other processor is assumed to have them.
func HasAES(text string) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "Features" {
			return slices.Contains(strings.Fields(value), "aes")
		}
	}
	return true
}

// ThisHasAES is HasAES for this processor.
func ThisHasAES() bool {
	text, err := os.ReadFile(Path)
	return err != nil || HasAES(string(text))
}
