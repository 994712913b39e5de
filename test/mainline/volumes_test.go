// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"fmt"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// ciphers returns the ciphers used with trusted keys, and the size of their keys.
func ciphers() map[string]int {
	return map[string]int{"aes-xts-plain64": 64, "capi:adiantum(xchacha12,aes)-plain64": 32, "capi:cbc(aes)-essiv:sha256": 32}
}

// A volume's key is a trusted key only while its table is loaded. It comes back from
// its blob after a power cycle, but on no other chip.
func TestDataComesBackWithTheBlob(t *testing.T) {
	eachSource(t, func(t *testing.T, s source) {
		other := vm.Mainline{Keys: s.keys, Kernel: s.kernel, OTPMK: "another chip"}
		if s.keys == vm.TPM2 {
			other = vm.Mainline{Keys: s.keys, Kernel: s.kernel, TPM: vm.NewTPM(t)}
		}
		b := start(t, vm.Mainline{Keys: s.keys, Kernel: s.kernel}, vm.NewDisk(t, 8<<20))
		b.MustSh("dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null")
		data := b.Get("/tmp/data")

		blobs, raw := map[string]string{}, map[string]string{}
		for cipher, size := range ciphers() {
			blob := b.newKey(fmt.Sprintf("new %d%s", size, s.options))
			answers := b.calls(add("load "+blob), []string{"map", "volume", sectors, crypt(cipher, size)},
				[]string{"unlink", "thread", "kmk"}, read())
			if fmt.Sprint(answers) != "[ok ok ok ENOKEY]" {
				t.Fatalf("%s: %q", cipher, answers)
			}
			// The process and its keyrings are gone; the volume is still there.
			b.MustSh("dmsetup mknodes; dd if=/tmp/data of=/dev/mapper/volume bs=64k oflag=direct 2>/dev/null")
			b.expect("ok", "unmap", "volume")
			blobs[cipher], raw[cipher] = blob, string(b.Get("/dev/vda"))
			if strings.Contains(raw[cipher], string(data[:4096])) {
				t.Errorf("%s: the data is in clear on the device", cipher)
			}
		}

		b.Restart()
		for cipher, size := range ciphers() {
			b.Put("/dev/vda", []byte(raw[cipher]))
			answers := b.calls(add("load "+blobs[cipher]), []string{"map", "volume", sectors, crypt(cipher, size)})
			if fmt.Sprint(answers) != "[ok ok]" {
				t.Fatalf("%s, after a power cycle: %q", cipher, answers)
			}
			b.MustSh("dmsetup mknodes; dd if=/dev/mapper/volume of=/tmp/read bs=64k count=16 iflag=direct 2>/dev/null")
			if got := b.Get("/tmp/read"); string(got) != string(data) {
				t.Errorf("%s, after a power cycle: other data", cipher)
			}
			b.expect("ok", "unmap", "volume")
		}

		b.Restart(func(c *vm.Config) { c.Mainline = &other })
		for cipher, blob := range blobs {
			if got := b.calls(add("load " + blob))[0]; got != s.foreign {
				t.Errorf("%s, on another chip: %s, expected %s", cipher, got, s.foreign)
			}
		}
	})
}

// How dm-crypt answers a wrong reference, and in which keyrings it looks.
func TestTablesNameTrustedKeys(t *testing.T) {
	t.Parallel()
	b := start(t, vm.Mainline{Keys: vm.CAAM}, vm.NewDisk(t, 8<<20))
	blob := b.newKey("new 64")
	table := func(size int) []string {
		return []string{"map", "volume", sectors, crypt("aes-xts-plain64", size)}
	}
	for _, size := range []int{32, 63, 65, 128, 160} {
		if got := b.calls(add("load "+blob), table(size))[1]; got != "EINVAL" {
			t.Errorf(":%d: for a key of 64 bytes: %s, expected EINVAL", size, got)
		}
	}
	b.expect("ENOKEY", table(64)...)
	for _, ring := range []string{"thread", "process", "session"} {
		answers := b.calls([]string{"add", ring, "kmk", "load " + blob}, table(64),
			[]string{"unmap", "volume"}, []string{"unlink", ring, "kmk"})
		if fmt.Sprint(answers) != "[ok ok ok ok]" {
			t.Errorf("in the %s keyring: %q", ring, answers)
		}
	}
	// The user keyring is searched only through the session keyring. Without one, the
	// kernel uses the user session keyring, which has a link to the user keyring.
	inUser := [][]string{{"add", "user", "kmk", "load " + blob}, table(64), {"unlink", "user", "kmk"}}
	if answers := b.calls(inUser...); fmt.Sprint(answers) != "[ok ENOKEY ok]" {
		t.Errorf("in the user's keyring, with a session of its own: %q", answers)
	}
	if answers := b.callsBy([]string{onethread}, append(inUser, []string{"unmap", "volume"})...); fmt.Sprint(answers) != "[ok ok ok ok]" {
		t.Errorf("in the user's keyring, without a session: %q", answers)
	}
	// dm-crypt does not accept CAAM's own ciphers: they allocate memory.
	drivers := b.MustSh("grep '^driver' /proc/crypto")
	if !strings.Contains(drivers, "cbc-aes-caam") {
		t.Errorf("no cbc-aes-caam in /proc/crypto:\n%s", drivers)
	}
	answers := b.calls(add("new 32"), []string{"map", "volume", sectors, crypt("capi:cbc-aes-caam-plain64", 32)})
	if answers[1] != "ENOENT" {
		t.Errorf("CAAM's cipher by its driver's name: %s, expected ENOENT", answers[1])
	}
}

// An open chip's blobs are sealed with a key that all open chips share. They do not
// open on a closed chip, and a closed chip's blobs do not open on an open one.
func TestAnOpenCAAM(t *testing.T) {
	t.Parallel()
	const warning = "using insecure test key, enable HAB to use unique device key!"
	log := func(b board) string { return b.MustSh("dmesg") }

	b := start(t, vm.Mainline{Keys: vm.CAAM})
	closed := b.newKey("new 32")
	if strings.Contains(log(b), warning) {
		t.Error("a closed chip says " + warning)
	}
	b.Restart(func(c *vm.Config) { c.Mainline.State = vm.Secure })
	b.expect("ok", add("load "+closed)...)

	b.Restart(func(c *vm.Config) { c.Mainline.State = vm.NonSecure })
	b.expect("EBADMSG", add("load "+closed)...)
	open := b.newKey("new 32")
	if !strings.Contains(log(b), warning) {
		t.Errorf("an open chip does not say %q", warning)
	}
	b.Restart(func(c *vm.Config) { c.Mainline.OTPMK = "another chip" })
	b.expect("ok", add("load "+open)...)

	b.Restart(func(c *vm.Config) { c.Mainline.OTPMK, c.Mainline.State = "", vm.Trusted })
	b.expect("EBADMSG", add("load "+open)...)
}
