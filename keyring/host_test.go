// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package keyring_test

// inVM reports whether the kernel is the test VM's and has everything that the tests
// need.
const inVM = false
