// SPDX-License-Identifier: Apache-2.0

package secret_test

import "unsafe"

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
