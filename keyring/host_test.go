// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package keyring_test

// inVM: the kernel is the test VM's and has all that the tests need.
const inVM = false
