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

// Removes the kernel's drivers for the processor's AES instructions, and loads them
// again.
const (
	withoutAES = "rmmod aes_ce_blk aes_ce_cipher; ! grep 'aes-ce$' /proc/crypto"
	withAES    = "modprobe aes-ce-cipher; modprobe aes-ce-blk; grep -q 'xts-aes-ce$' /proc/crypto"
)

// ciphers compares the ciphers of all sources on one board: the processor's work per
// byte, in instructions, which is its time unless it has to wait. The CAAM is a model
// that works in no time; the time that a real chip takes is added to that.
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

// protectedVolumes has one volume with an ordinary and one with a protected key, in
// memory: counted time skips waits for a disk.
const protectedVolumes = `volumes:
  - {name: v1, device: /run/v1.img, size: 24MiB, source: trusted, cipher: aes-xts-plain64, key_size: 64, filesystem: none}
  - {name: v2, device: /run/v2.img, size: 24MiB, source: trusted, protected: true, filesystem: none}
`

// protected compares the cipher of protected keys, which needs Linux 7.x with two lines
// changed, with aes-xts-plain64 on the same board, in the same way as ciphers.
func (h *host) protected(m *vm.Machine) {
	m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(protectedVolumes))
	m.MustSh("modprobe aes-ce-blk; grep -q 'xts-aes-ce$' /proc/crypto; imxcrypt provision --all")
	fmt.Println("arm64, Linux 7.x with protected keys, instructions of the processor for a byte, sectors of 4096 bytes:")
	for _, what := range []struct{ name, dd string }{
		{"read", "dd if=/dev/mapper/v%d of=/dev/null bs=256k count=%d iflag=direct"},
		{"written", "dd if=/dev/zero of=/dev/mapper/v%d bs=256k count=%d oflag=direct"},
	} {
		var each [2]float64
		for i := range each {
			each[i] = 1e9 / (1 << 20) / h.throughput(m, what.dd, i+1, 32)
		}
		fmt.Printf("  %-8s aes-xts-plain64 %5.1f   cbc(paes)-plain64 %5.1f   ratio %5.2f\n", what.name, each[0], each[1], each[1]/each[0])
	}
}
