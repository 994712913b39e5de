// SPDX-License-Identifier: Apache-2.0

package keyring_test

import (
	"fmt"

	"imxcrypt/keyring"
)

// A key is in the kernel for as long as the callback runs.
func ExampleRing_WithLogonKey() {
	description := keyring.Describe("9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", 1)
	payload := make([]byte, 64) // a black key: in locked memory, wiped by its owner
	err := keyring.Ring{}.WithLogonKey(description, payload, func() error {
		// Load the table here, on this thread.
		return nil
	})
	if err != nil {
		fmt.Println("this kernel keeps no keys:", err)
	}
}

func ExampleDescribe() {
	fmt.Println(keyring.Describe("9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", 2))
	// Output: imxcrypt:9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b:2
}
