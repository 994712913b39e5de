// SPDX-License-Identifier: Apache-2.0

package caam

import "fmt"

// unfit returns why no key can be created as requested, or "".
func unfit(w Wrap, keySize int) string {
	if _, err := ParseWrap(string(w)); err != nil {
		return err.Error()
	}
	if !IsAESKeySize(keySize) {
		return fmt.Sprintf("key of %d bytes, want 16, 24 or 32", keySize)
	}
	return ""
}

// object is what BlackKey and Blob have in common.
type object interface {
	Wrap() Wrap
	RedKeyLen() int
}

// mismatch returns how an object differs from the request, or "". Some kernels silently
// truncate a given key, and a table loaded with another key than the one the header names
// loses data.
func mismatch(o object, w Wrap, keySize int) string {
	if o.Wrap() == w && o.RedKeyLen() == keySize {
		return ""
	}
	what := "black key"
	if _, ok := o.(Blob); ok {
		what = "blob"
	}
	return fmt.Sprintf("asked for a %s %s around %d bytes, got %s around %d", w, what, keySize, o.Wrap(), o.RedKeyLen())
}
