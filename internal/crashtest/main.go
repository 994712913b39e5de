// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

// Main runs the tests of a package that enumerates states. They make and drop whole
// disks: up to two fifths of the processor's time was spent on collecting them, and on a
// memory profile that is not used.
func Main(m *testing.M) {
	runtime.MemProfileRate = 0
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
