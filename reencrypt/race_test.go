// SPDX-License-Identifier: Apache-2.0

//go:build race

package reencrypt

// slow says that everything takes ten times as long: the race detector is on.
const slow = true
