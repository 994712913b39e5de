// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"encoding/hex"
	"fmt"

	"imxcrypt/caam"
)

// The 20-byte header says what a file of caam-keygen is. An ECB black key of 16 bytes is
// 36 bytes long, its blob 96.
func ExampleInspect() {
	tag, err := hex.DecodeString("4f67615400000000010000001000000010000000")
	if err != nil {
		panic(err)
	}
	info, err := caam.Inspect(append(tag, make([]byte, 16)...))
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s, %s, AES key of %d bytes in %d bytes\n", info.Form, info.Wrap, info.RedKeyLen, info.Size)
	// Output: black key, ecb, AES key of 16 bytes in 36 bytes
}

func ExampleBlobSize() {
	for _, size := range []int{16, 24, 32} {
		fmt.Println(size, caam.BlackKeySize(caam.ECB, size), caam.BlackKeySize(caam.CCM, size), caam.BlobSize(size))
	}
	// Output:
	// 16 36 48 96
	// 24 52 56 104
	// 32 52 64 112
}
