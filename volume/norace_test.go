// SPDX-License-Identifier: Apache-2.0

//go:build !race

package volume_test

const slow = false
