// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"os"
	"strings"
	"testing"

	"imxcrypt/luks2"
	"imxcrypt/test/vm"
)

// needsOPTEE leaves a test to make soak: OP-TEE has to be built first.
func needsOPTEE(t *testing.T) {
	t.Helper()
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: with a real OP-TEE by make soak only (IMXCRYPT_SOAK=1), which builds it")
	}
}

// What an operator sees of a TEE's keys: intact, damaged, and without the TEE.
func TestOPTEE(t *testing.T) {
	t.Parallel()
	needsOPTEE(t)
	disk := vm.NewDisk(t, 64<<20)
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.TEE}, Disks: []*vm.Disk{disk},
		Imxcrypt: vm.BuildProgram(t, "./cmd/imxcrypt", "arm64"),
	})}
	volume := func(trust string) {
		b.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(strings.Replace(trustedVolume, "source: trusted\n", "source: trusted\n    trusted: {source: "+trust+"}\n", 1)))
		b.MustSh("mkdir -p /data")
	}
	says := func(command string, code int, words string) {
		t.Helper()
		if r := b.Sh(command); r.Code != code || !strings.Contains(r.Stdout+r.Stderr, words) {
			t.Errorf("%s: expected code %d and %q: %v", command, code, words, r)
		}
	}
	volume("caam")
	says("imxcrypt provision data", 4, "the kernel's trust source is tee, and the configuration asks for caam")
	volume("tee")
	b.MustSh("imxcrypt provision data")
	says("imxcrypt doctor", 0, "trust-source    the kernel has one")
	// Where doctor looks for OP-TEE's application.
	b.MustSh("test -e /sys/class/tee/tee0 && test -e /sys/bus/tee/devices/optee-ta-f04a0fe7-1f5d-4b9b-abf7-619b85b4ce8c")

	b.PowerOff()
	damageBlob(t, disk)
	b.Restart()
	volume("tee")
	says("imxcrypt unlock data", 3, "the trust source tee rejected the sealed key")
	says("imxcrypt status --json data; true", 0, `"blob-rejected"`)
	says("dmesg", 0, "TA_CMD_UNSEAL invoke err: ffff000f")
	b.MustSh("! test -e /dev/mapper/data")

	b.Restart(func(c *vm.Config) { c.Mainline = &vm.Mainline{Source: "tee"} })
	volume("tee")
	says("imxcrypt unlock data", 4, "this kernel has no trust source")
}

// damageBlob changes the last byte of the sealed key in a volume's header.
func damageBlob(t *testing.T, d *vm.Disk) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, _, err := luks2.Read(f, d.Size)
	if err != nil {
		t.Fatal(err)
	}
	token := h.Metadata.Tokens["0"]
	var sealed struct {
		Blob []byte `json:"blob"`
	}
	if err := token.Extra.Decode(&sealed); err != nil || len(sealed.Blob) == 0 {
		t.Fatalf("token 0 has a blob of %d bytes (%v)", len(sealed.Blob), err)
	}
	sealed.Blob[len(sealed.Blob)-1] ^= 1
	if err := token.Extra.Set(map[string]any{"blob": sealed.Blob}); err != nil {
		t.Fatal(err)
	}
	h.Metadata.Tokens["0"] = token
	if err := h.Write(image{f, d.Size}); err != nil {
		t.Fatal(err)
	}
}

// image is the file of a disk whose machine is off.
type image struct {
	*os.File
	size int64
}

func (i image) Size() int64  { return i.size }
func (i image) Flush() error { return nil }
