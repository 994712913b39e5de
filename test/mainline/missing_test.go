// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// Whatever keeps the kernel from making trusted keys is identified before anything is
// written: exit code 4, and the remedy is named.
func TestWhyThereAreNoTrustedKeys(t *testing.T) {
	t.Parallel()
	const auto = `volumes:
  - name: data
    device: /dev/vda
    mount: {path: /data}
`
	for name, c := range map[string]struct {
		board vm.Mainline
		// trusted and auto are the expected messages with these sources.
		trusted, auto string
	}{
		"TEE shadows the CAAM": {vm.Mainline{Keys: vm.CAAM, Source: vm.SourceUnset}, "trusted.source=caam", "nothing here seals keys"},
		"no hardware":          {vm.Mainline{}, "this kernel has no trust source", "nothing here seals keys"},
		"a new TPM":            {vm.Mainline{Keys: vm.TPM2, TPM: &vm.TPM{Dir: t.TempDir()}}, "tpm2_evictcontrol", "tpm2_evictcontrol"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := board{t: t, Machine: vm.Start(t, vm.Config{
				Arch: vm.ARM64, Mainline: &c.board, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20)},
				Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
			})}
			b.MustSh("mkdir -p /data")
			for config, says := range map[string]string{trustedVolume: c.trusted, auto: c.auto} {
				b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(config))
				if r := b.Sh("imxcrypt provision data"); r.Code != 4 || !strings.Contains(r.Stderr, says) {
					t.Errorf("expected code 4 and %q: %v", says, r)
				}
				b.MustSh("test $(head -c 1M /dev/vda | tr -d '\\0' | wc -c) = 0")
			}
		})
	}
}
