// SPDX-License-Identifier: Apache-2.0

package luks2_test

import (
	"fmt"

	"imxcrypt/luks2"
)

// A header is made in memory and takes effect when it is written.
func ExampleNew() {
	h, err := luks2.New(luks2.Options{UUID: "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", Label: "data", HeaderArea: 1 << 20})
	if err != nil {
		panic(err)
	}
	h.Require("example-v1")
	offset, size := h.KeyslotsArea()
	fmt.Println(h.Label, h.Requires("example-v1"), "keyslots area:", size, "bytes at", offset)
	// Output: data true keyslots area: 1015808 bytes at 32768
}
