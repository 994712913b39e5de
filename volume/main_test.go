// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"os"
	"runtime"
	"runtime/debug"
	"testing"
)

// The crash states make and drop whole disks: a fifth of the processor's time went
// to collecting them, and to a profile of memory that nobody reads.
func TestMain(m *testing.M) {
	runtime.MemProfileRate = 0
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
