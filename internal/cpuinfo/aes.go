// SPDX-License-Identifier: Apache-2.0

// Package cpuinfo reads what the kernel says of the processor.
package cpuinfo

import (
	"os"
	"slices"
	"strings"
)

// Path is where the kernel says it.
const Path = "/proc/cpuinfo"

// HasAES reports whether an ARM processor has instructions for AES, by the text of
// [Path]. Any other processor is taken to have them.
func HasAES(text string) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "Features" {
			return slices.Contains(strings.Fields(value), "aes")
		}
	}
	return true
}

// ThisHasAES is HasAES of this processor.
func ThisHasAES() bool {
	text, err := os.ReadFile(Path)
	return err != nil || HasAES(string(text))
}
