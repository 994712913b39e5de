// SPDX-License-Identifier: Apache-2.0

package dmcrypt_test

import (
	"fmt"

	"imxcrypt/dmcrypt"
	"imxcrypt/keyring"
)

// A table names its key; it never holds it.
func ExampleTable() {
	options, err := dmcrypt.CryptOptions(4096)
	if err != nil {
		panic(err)
	}
	table := dmcrypt.Table{dmcrypt.Crypt{
		Length: 129024,
		Cipher: "capi:tk(cbc(aes))-plain64",
		Key:    dmcrypt.KeyRef{Size: 64, Type: "logon", Description: keyring.Describe("9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", 1)},
		Device: dmcrypt.Number{Major: 179, Minor: 3}, Offset: 2048,
		Options: options,
	}}
	fmt.Println(table)
	// Output: 0 129024 crypt capi:tk(cbc(aes))-plain64 :64:logon:imxcrypt:9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b:1 0 179:3 2048 1 sector_size:4096
}

func ExampleParseTable() {
	table, err := dmcrypt.ParseTable("0 2048 linear 254:0 0\n2048 2048 error")
	if err != nil {
		panic(err)
	}
	fmt.Println(table.Sectors(), "sectors over", table.Devices())
	// Output: 4096 sectors over [254:0]
}
