// SPDX-License-Identifier: Apache-2.0

//go:build !race

package crashtest

const RaceDetector = false

func transfer(dst, src []byte) int { return copy(dst, src) }
