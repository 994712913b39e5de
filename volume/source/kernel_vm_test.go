// SPDX-License-Identifier: Apache-2.0

//go:build vm

package source_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/devnum"
	"imxcrypt/internal/keysource"
	"imxcrypt/keyring"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// The kernel's trusted keys keep the contract, whatever trust source it has. The key
// itself is never seen: keys are distinguished by what dm-crypt makes with them. So the
// test cannot see that a blob has no key in the clear, nor that a key has gone from
// memory. Another board's key is tested in test/mainline, which restarts with another
// chip.
func TestKeySourceOverTheKernel(t *testing.T) {
	trust := os.Getenv("IMXCRYPT_TRUST_SOURCE")
	if trust == "" {
		t.Skip("NOT TESTED HERE, only in test/mainline: no trust source in this place")
	}
	all := contracts()
	c := all[slices.IndexFunc(all, func(c contract) bool { return c.name == spec.SourceTrusted })]
	c.board = func() board {
		return board{open: opener(source.Sources{Keyring: keyring.Ring{}}, c.name), red: deciphered(t), left: func() int { return left(t) }}
	}
	if trust == keysource.TrustTPM {
		// The TPM encrypts the length of the key, too.
		c.mismatch = ""
	}
	for name, test := range clauses() {
		if name == "another board's key is refused" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			test(t, c.subject(), source.Request{UUID: uuid, Generation: 1, KeySize: 32})
		})
	}
}

// deciphered returns as many bytes as the key has of what the board's disk reads as under
// the key. It writes nothing.
func deciphered(t *testing.T) func(dmcrypt.KeyRef) ([]byte, error) {
	const name, disk = "imxcrypt-suite-vm", "/dev/vda"
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil {
		t.Fatal(err)
	}
	m, err := dmcrypt.New(dmcrypt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return func(ref dmcrypt.KeyRef) (text []byte, err error) {
		number, err := m.Activate(t.Context(), name, "", dmcrypt.Table{dmcrypt.Crypt{
			Length: 8, Cipher: "aes-xts-plain64", Device: devnum.Of(uint64(st.Rdev)), Key: ref, Options: []string{"sector_size:4096"},
		}}, true)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, m.Remove(context.Background(), name)) }()
		path, err := m.DevicePath(name, number)
		if err != nil {
			return nil, err
		}
		device, err := blockdev.System{}.Open(path, blockdev.Flags{Direct: true})
		if err != nil {
			return nil, err
		}
		defer device.Close()
		page := make([]byte, 4096)
		_, err = device.ReadAt(page, 0)
		return page[:ref.Size], err
	}
}

// left counts the keys in the kernel with a name of ours. One that nothing refers to any
// more stays for a moment.
func left(t *testing.T) (n int) {
	for range 100 {
		text, err := os.ReadFile("/proc/keys")
		if err != nil {
			t.Error(err)
			return -1
		}
		if n = strings.Count(string(text), " imxcrypt:"); n == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return n
}
