// SPDX-License-Identifier: Apache-2.0

package cpuinfo_test

import (
	"testing"

	"imxcrypt/internal/cpuinfo"
)

func TestAES(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		// i.MX6ULL (Cortex-A7), i.MX8M (Cortex-A53), a PC, and nothing.
		"model name\t: ARMv7 Processor rev 5 (v7l)\nFeatures\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae\n": false,
		"processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\nCPU implementer\t: 0x41\n":                            true,
		"flags\t\t: fpu vme de pse\n": true,
		"":                            true,
	} {
		if got := cpuinfo.HasAES(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
