// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"imxcrypt/test/vm"
)

// sectorSizes compares sector sizes and dm-crypt's flags with hardware that
// takes its time for each job, by the program's own bench.
func (h *host) sectorSizes(m *vm.Machine) {
	const parameter = "/sys/module/imxcrypt_simcaam/parameters/latency_us"
	for _, latency := range []string{"0", "20", "100"} {
		m.MustSh("echo " + latency + " >" + parameter)
		fmt.Printf("sector sizes, each job of the CAAM taking %s µs more (imxcrypt bench):\n", latency)
		fmt.Print(indent(m.MustRun("imxcrypt", "bench", "--keys", "3", "--each", "100ms")))
	}
	m.MustSh("echo 0 >" + parameter)
}
