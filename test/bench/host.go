// SPDX-License-Identifier: Apache-2.0

package main

import "imxcrypt/test/vm"

// host is where the virtual board runs and its files are made.
type host struct{ vm.TB }
