// SPDX-License-Identifier: Apache-2.0

//go:build race

package volume_test

// slow: the race detector makes these tests ten times as slow. It is after races,
// not after crash states, so it gets a slice of them; make unit runs the package
// without it too.
const slow = true
