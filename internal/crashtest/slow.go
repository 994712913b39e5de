// SPDX-License-Identifier: Apache-2.0

package crashtest

import "testing"

// Slow reports whether a slice of the crash states must be enough: under the race
// detector, and in the inner loop (go test -short).
func Slow() bool { return RaceDetector || testing.Short() }
