// SPDX-License-Identifier: Apache-2.0

//go:build race

package crashtest

// RaceDetector reports whether the race detector is on. It makes these tests ten times as
// slow. It looks for races, not for crash states, so it gets a slice of them; make unit
// runs the packages that use it without it too.
const RaceDetector = true
