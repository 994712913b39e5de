// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"fmt"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// protectedOptions returns the options for protected keys, by their name in the
// product's configuration.
func protectedOptions() map[string]string {
	return map[string]string{"ccm": " pk key_enc_algo=1", "ecb": " pk key_enc_algo=2"}
}

// protectedCrypt is a call that makes a table over /dev/vda, for a payload of that
// size.
func protectedCrypt(iv string, size int) []string {
	return []string{"map", "volume", sectors, crypt("capi:cbc(paes)-"+iv, size)}
}

// payload is the length of what dm-crypt gets: a header and the blob of 32 bytes.
const payload = 4 + 32 + 48

// How protected keys are made and loaded, that loading does not involve the hardware,
// and that mainline's driver writes past its buffer.
func TestTheKernelsProtectedKeys(t *testing.T) {
	soakOnly(t)
	t.Parallel()
	b := start(t, vm.Mainline{Keys: vm.CAAM, Kernel: vm.Linux7}, vm.NewDisk(t, 8<<20))
	b.newKey("new 32")
	b.overruns("an ordinary key", false)
	for wrap, options := range protectedOptions() {
		blob := b.newKey("new 32" + options)
		if len(blob) != 2*80 {
			t.Errorf("%s: a blob of %d bytes, expected 80", wrap, len(blob)/2)
		}
		b.expect("EBADMSG", add("load "+blob)...)
		for name, blob := range map[string]string{"its blob": blob, "a damaged one": flip(blob, 40), "garbage": strings.Repeat("5a", 80)} {
			answers := b.calls(add("load "+blob+options), read())
			if want := fmt.Sprintf("ok %d %s", len(blob), blob); answers[0] != "ok" || answers[1] != want {
				t.Errorf("%s: load %s: %q, expected that it is taken", wrap, name, answers)
			}
		}
		b.expect("ok", add("load "+blob+" pk bogus=1")...)

		// The cipher exists, but dm-crypt does not accept it.
		if got := b.calls(add("load "+blob+options), protectedCrypt("plain64", payload))[1]; got != "ENOENT" {
			t.Errorf("%s: the table: %s, expected ENOENT", wrap, got)
		}
	}
	if crypto := b.MustSh("grep -A9 'driver.*: cbc-paes-caam' /proc/crypto"); !strings.Contains(crypto, "selftest     : passed") {
		t.Errorf("cbc-paes-caam in /proc/crypto:\n%s", crypto)
	}
	if log := b.MustSh("dmesg"); !strings.Contains(log, "Error allocating crypto tfm") {
		t.Error("dm-crypt does not say why it refuses the table")
	}
	b.overruns("protected keys", true)
	// A mistake in the options gives a key without a blob, and no error.
	if answers := b.calls(add("new 32 pk bogus=1"), read()); answers[0] != "ok" || answers[1] != "ok 0" {
		t.Errorf("new 32 pk bogus=1: %q, expected an empty blob", answers)
	}
}

// With two lines changed nothing is overwritten, and the data is there again after a
// power cycle. A key that is not this chip's shows only when something is read.
func TestDataComesBackWithTheProtectedBlob(t *testing.T) {
	soakOnly(t)
	t.Parallel()
	b := start(t, vm.Mainline{Keys: vm.CAAM, Kernel: vm.Linux7Protected}, vm.NewDisk(t, 8<<20))
	b.MustSh("dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null")
	data := b.Get("/tmp/data")

	type volume struct{ options, iv, blob, raw string }
	var volumes []volume
	for _, options := range protectedOptions() {
		for _, iv := range []string{"plain64", "eboiv"} {
			v := volume{options: options, iv: iv, blob: b.newKey("new 32" + options)}
			for _, size := range []int{32, 80, payload + 1} {
				if got := b.calls(add("load "+v.blob+options), protectedCrypt(iv, size))[1]; got != "EINVAL" {
					t.Errorf(":%d: for a payload of %d: %s, expected EINVAL", size, payload, got)
				}
			}
			answers := b.calls(add("load "+v.blob+options), protectedCrypt(iv, payload), []string{"unlink", "thread", "kmk"}, read())
			if fmt.Sprint(answers) != "[ok ok ok ENOKEY]" {
				t.Fatalf("%s: %q", iv, answers)
			}
			b.MustSh("dmsetup mknodes; dd if=/tmp/data of=/dev/mapper/volume bs=64k oflag=direct 2>/dev/null")
			// As in a suspend to RAM: the blob is opened again for each request.
			b.losePower()
			b.readsBack(iv+", after the CAAM has lost its key", data)
			b.expect("ok", "unmap", "volume")
			if v.raw = string(b.Get("/dev/vda")); strings.Contains(v.raw, string(data[:4096])) {
				t.Errorf("%s: the data is in clear on the device", iv)
			}
			volumes = append(volumes, v)
		}
	}

	b.overruns("protected keys", false)

	b.Restart()
	for _, v := range volumes {
		b.Put("/dev/vda", []byte(v.raw))
		if answers := b.calls(add("load "+v.blob+v.options), protectedCrypt(v.iv, payload)); fmt.Sprint(answers) != "[ok ok]" {
			t.Fatalf("%s, after a power cycle: %q", v.iv, answers)
		}
		b.MustSh("dmsetup mknodes")
		b.readsBack(v.iv+", after a power cycle", data)
		b.expect("ok", "unmap", "volume")
		b.readsFail("a damaged blob", flip(v.blob, 40)+v.options, v.iv)
		b.readsFail("garbage", strings.Repeat("5a", 80)+v.options, v.iv)
	}

	b.Restart(func(c *vm.Config) { c.Mainline.OTPMK = "another chip" })
	for _, v := range volumes {
		b.readsFail("another chip's blob", v.blob+v.options, v.iv)
	}
}

// overruns checks whether the kernel noticed that it had written past a buffer. The
// board has red zones after its buffers (vm.Linux7).
func (b board) overruns(what string, want bool) {
	b.t.Helper()
	if log := b.MustSh("dmesg"); strings.Contains(log, "Redzone overwritten") != want {
		b.t.Errorf("%s: expected %t for what is written past a buffer:\n%s", what, want, log)
	}
}

// readsBack compares the volume with the data.
func (b board) readsBack(when string, data []byte) {
	b.t.Helper()
	b.MustSh("dd if=/dev/mapper/volume of=/tmp/read bs=64k count=16 iflag=direct 2>/dev/null")
	if got := b.Get("/tmp/read"); string(got) != string(data) {
		b.t.Errorf("%s: other data", when)
	}
}

// readsFail: the table is accepted, and reading through it fails.
func (b board) readsFail(what, load, iv string) {
	b.t.Helper()
	if answers := b.calls(add("load "+load), protectedCrypt(iv, payload)); fmt.Sprint(answers) != "[ok ok]" {
		b.t.Fatalf("%s, %s: %q, expected that it is taken", what, iv, answers)
	}
	b.MustSh("dmsetup mknodes")
	for flags, want := range map[string]string{"iflag=direct": "Invalid or incomplete multibyte or wide character", "": "Input/output error"} {
		if r := b.Sh("LC_ALL=C dd if=/dev/mapper/volume of=/dev/null bs=4k count=1 " + flags); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			b.t.Errorf("%s, %s: dd %s: %v, expected %s", what, iv, flags, r, want)
		}
	}
	b.expect("ok", "unmap", "volume")
}
