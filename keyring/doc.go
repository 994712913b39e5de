// SPDX-License-Identifier: Apache-2.0

// Package keyring puts a key where dm-crypt finds it, for exactly as long as
// a callback runs.
//
// The key is of the kernel's type "logon", which user space can never read
// back, and hangs in the keyring of one thread. A key in another thread's, or
// in the user's keyring is not found by the kernel when it loads a table, so
// the callback runs on that very thread.
package keyring
