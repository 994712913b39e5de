// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import "imxcrypt/internal/devnum"

// Number is a block device's number. Tables name devices only by number: a path may name
// another device the next time it is resolved.
type Number = devnum.Number
