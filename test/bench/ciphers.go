// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"imxcrypt/test/vm"
)

// rate is a row of `imxcrypt bench --json`.
type rate struct {
	Cipher     string   `json:"cipher"`
	SectorSize int      `json:"sector_size"`
	Flags      []string `json:"crypt_flags"`
	Read       float64  `json:"read_bytes_per_second"`
	Write      float64  `json:"write_bytes_per_second"`
	Problem    string   `json:"problem"`
}

// What the kernel has of the processor's instructions for AES goes, and comes back.
const (
	withoutAES = "rmmod aes_ce_blk aes_ce_cipher; ! grep 'aes-ce$' /proc/crypto"
	withAES    = "modprobe aes-ce-cipher; modprobe aes-ce-blk; grep -q 'xts-aes-ce$' /proc/crypto"
)

// ciphers compares the ciphers of all sources on one board: what the processor does for a
// byte, in instructions, which is its time where it has nothing to wait for. The CAAM is a
// model that works in no time, and whatever the chip takes comes on top of that.
func (h *host) ciphers(m *vm.Machine, o options) {
	measured := func(source string) []rate {
		r := m.RunCommand(vm.Command{Argv: []string{"imxcrypt", "bench", "--json", "--source", source, "--each", "4ms", "--keys", "1"}, Timeout: time.Hour})
		var result struct{ Rows []rate }
		if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil || r.Code != 0 {
			h.Fatalf("%v: %v", err, r)
		}
		return result.Rows
	}
	m.MustSh(withoutAES)
	slow := measured(sourceTrusted)
	m.MustSh(withAES)
	fast, chip := measured(sourceTrusted), measured(sourceCAAM)

	fmt.Printf("%s, ciphers: instructions of the processor for a byte read and written, and beside %s with instructions for AES:\n", o.arch, fast[0].Cipher)
	for _, size := range []int{4096, 512} {
		fmt.Printf("  sectors of %d bytes\n", size)
		var unit rate
		for _, set := range []struct {
			name string
			rows []rate
		}{{"trusted", fast}, {"trusted, no AES instructions", slow}, {"caam, the processor's part", chip}} {
			for _, r := range set.rows {
				if r.SectorSize != size || len(r.Flags) > 0 || r.Problem != "" {
					continue
				}
				if unit.Cipher == "" {
					unit = r
				}
				const second = 1e9 // instructions
				fmt.Printf("    %-30s %-38s %6.1f %6.1f   %5.2f %5.2f\n", set.name, strings.TrimPrefix(r.Cipher, "capi:"),
					second/r.Read, second/r.Write, unit.Read/r.Read, unit.Write/r.Write)
			}
		}
	}
}
