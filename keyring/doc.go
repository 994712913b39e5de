// SPDX-License-Identifier: Apache-2.0

// Package keyring makes a key available to dm-crypt for exactly as long as a
// callback runs.
//
// A key that is given has the kernel's type "logon", which user space can never read
// back; one that the kernel makes itself has the type "trusted", of which user space
// sees the sealed blob only. Both are linked into the keyring of one thread. The kernel does not search another
// thread's or the user's keyring when it loads a table, so the callback runs on
// that thread.
package keyring
