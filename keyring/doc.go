// SPDX-License-Identifier: Apache-2.0

// Package keyring makes a key available to dm-crypt for exactly as long as a
// callback runs.
//
// A key that is given has the kernel's type "logon", which user space can never read
// back. A key that the kernel makes itself has the type "trusted", of which user space
// sees only the sealed blob. Both are linked into the keyring of one thread. When the
// kernel loads a table it does not search the keyring of another thread or of the user,
// so the callback runs on that thread.
package keyring
