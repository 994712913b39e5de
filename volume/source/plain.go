// SPDX-License-Identifier: Apache-2.0

package source

import "imxcrypt/dmcrypt"

// Plain stands in for the key of data that is not encrypted.
type Plain struct{}

// Use calls fn; there is nothing to make visible.
func (Plain) Use(_ string, fn func(dmcrypt.KeyRef) error) error { return fn(dmcrypt.KeyRef{}) }

// Wipe does nothing.
func (Plain) Wipe() {}
