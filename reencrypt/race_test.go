// SPDX-License-Identifier: Apache-2.0

//go:build race

package reencrypt

// raceDetector: everything takes ten times as long with it.
const raceDetector = true
