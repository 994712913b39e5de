// SPDX-License-Identifier: Apache-2.0

//go:build race

package crashtest

// RaceDetector: the race detector makes these tests ten times as slow. It is after races,
// not after crash states, so it gets a slice of them; make unit runs the packages
// that use it without it too.
const RaceDetector = true
