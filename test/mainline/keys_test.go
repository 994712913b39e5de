// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// source is how the kernel's commands behave with one kind of key hardware. The result
// of a call is "ok" or an errno.
type source struct {
	keys    vm.KeyHardware
	kernel  vm.MainlineKernel
	options string            // required by `new`
	blob    func(key int) int // size in bytes of the blob for a key of that size
	begins  string            // the beginning of the blob
	bare    string            // the result of `new` without those options
	unknown string            // … of `new` with an unknown word
	largest string            // … of `new 128`
	foreign string            // … of another chip's blob
	short   string            // … of a blob that is truncated or empty
	damaged map[int]string    // … of a blob, by the damaged byte
	strange map[string]string // … of blobs of other sources, by source
	again   string            // … of a description that exists
}

func plus(n int) func(int) int { return func(key int) int { return key + n } }

// The blobs of other sources, for a key of 32 bytes. Their contents do not matter: no
// source reads that far.
func foreignBlobs() map[string]string {
	return map[string]string{
		"caam": strings.Repeat("5a", 32+48),
		"dcp":  "01" + strings.Repeat("5a", 48) + "20000000" + strings.Repeat("5a", 32),
		"tee":  "00" + strings.Repeat("5a", 64),
		"tpm":  "3081e9060667810501", // the beginning of a DER sequence
	}
}

func sources() []source {
	return []source{
		{
			keys: vm.CAAM, blob: plus(48),
			bare: "ok", unknown: "ok", largest: "ok", again: "EPERM", foreign: "EBADMSG", short: "EINVAL",
			damaged: map[int]string{0: "EBADMSG", 40: "EBADMSG", -1: "EBADMSG"},
			strange: map[string]string{"dcp": "EBADMSG", "tee": "EBADMSG", "tpm": "EINVAL"},
		},
		{
			// The version, the blob key, the nonce, the length, the key, the tag.
			keys: vm.DCP, blob: plus(53), begins: "01",
			bare: "ok", unknown: "ok", largest: "ok", again: "EPERM", foreign: "EBADMSG", short: "EINVAL",
			damaged: map[int]string{0: "EINVAL", 1: "EBADMSG", 17: "EBADMSG", 33: "EINVAL", 37: "EBADMSG", -1: "EBADMSG"},
			strange: map[string]string{"caam": "EINVAL", "tee": "EINVAL", "tpm": "EINVAL"},
		},
		{
			// An unused byte, the nonce, the tag, the key.
			keys: vm.TEE, blob: plus(33), begins: "00",
			bare: "ok", unknown: "ok", largest: "ok", again: "EPERM", foreign: "EFAULT", short: "EFAULT",
			damaged: map[int]string{0: "ok", 1: "EFAULT", 17: "EFAULT", 33: "EFAULT", -1: "EFAULT"},
			strange: map[string]string{"caam": "EFAULT", "dcp": "EFAULT", "tpm": "EFAULT"},
		},
		{
			keys: vm.TPM2, options: fmt.Sprintf(" keyhandle=%#x", vm.TPMPrimary), begins: "30",
			blob: func(key int) int { return map[int]int{32: 236, 64: 269}[key] },
			bare: "EINVAL", unknown: "EINVAL", largest: "E2BIG", again: "EINVAL", foreign: "EPERM", short: "EINVAL",
			damaged: map[int]string{0: "EINVAL", -1: "EPERM"},
			strange: map[string]string{"caam": "EINVAL", "dcp": "EINVAL", "tee": "EINVAL"},
		},
	}
}

func eachSource(t *testing.T, test func(*testing.T, source)) {
	t.Parallel()
	for _, s := range sources() {
		t.Run(string(s.keys), func(t *testing.T) {
			t.Parallel()
			if s.keys == vm.TEE {
				needsOPTEE(t)
			}
			test(t, s)
		})
	}
	t.Run("7.x", func(t *testing.T) {
		soakOnly(t)
		for _, s := range sources() {
			s.kernel = vm.Linux7
			t.Run(string(s.keys), func(t *testing.T) {
				t.Parallel()
				test(t, s)
			})
		}
	})
}

// soakOnly leaves tests that need Linux 7.x to make soak.
func soakOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: Linux 7.x with its protected keys, by make soak only (IMXCRYPT_SOAK=1); the unit tests have them over the fake board")
	}
}

// How keys are made, read and loaded, and which errors report that they cannot be.
func TestTheKernelsCommands(t *testing.T) {
	eachSource(t, func(t *testing.T, s source) {
		b := start(t, vm.Mainline{Keys: s.keys, Kernel: s.kernel}, vm.NewDisk(t, 8<<20))

		// A probe of the key type shows that there is a source, and makes nothing.
		b.expect("EINVAL", add("probe")...)

		blobs := map[int]string{}
		for _, n := range []int{32, 64} {
			blobs[n] = b.newKey(fmt.Sprintf("new %d%s", n, s.options))
			if got := len(blobs[n]) / 2; got != s.blob(n) || !strings.HasPrefix(blobs[n], s.begins) {
				t.Errorf("new %d: a blob of %d bytes, %.8s…, expected %d, %s…", n, got, blobs[n], s.blob(n), s.begins)
			}
		}
		b.expect(s.bare, add("new 32")...)
		b.expect(s.unknown, add("new 32"+s.options+" nonsense=1")...)
		b.expect(s.largest, add("new 128"+s.options)...)
		for _, n := range []int{31, 129} {
			b.expect("EINVAL", add(fmt.Sprintf("new %d%s", n, s.options))...)
		}

		blob := blobs[32]
		for _, payload := range []string{"load " + blob, "load " + strings.ToUpper(blob), "load " + blob + "\n"} {
			answers := b.calls(add(payload), read())
			if want := fmt.Sprintf("ok %d %s", len(blob), blob); answers[0] != "ok" || answers[1] != want {
				t.Errorf("%.12q…: %q, expected the same blob", payload, answers)
			}
		}
		b.expect(s.short, add("load  "+blob)...)
		b.expect("EINVAL", add("load")...)
		b.expect(s.short, add("load "+blob[:20+len(blob)%2])...)
		b.expect("EINVAL", add("load "+strings.Repeat("30", 513))...)
		b.expect("EINVAL", add("load "+strings.Repeat("3", 32767))...)

		// A buffer that is too short gets nothing; the returned length shows that.
		answers := b.calls(add("load "+blob), []string{"read", "thread", "kmk", fmt.Sprint(len(blob) - 1)}, read())
		if want := fmt.Sprintf("ok %d", len(blob)); answers[1] != want {
			t.Errorf("a short buffer: %q, expected %q", answers[1], want)
		}

		for at, errno := range s.damaged {
			if got := b.calls(add("load " + flip(blob, at)))[0]; got != errno {
				t.Errorf("byte %d damaged: %s, expected %s", at, got, errno)
			}
		}
		for kind, errno := range s.strange {
			if got := b.calls(add("load " + foreignBlobs()[kind]))[0]; got != errno {
				t.Errorf("a blob of %s: %s, expected %s", kind, got, errno)
			}
		}

		// An existing key must be unlinked first, even for the same blob.
		answers = b.calls(add("load "+blob), add("load "+blob), add("new 32"+s.options),
			[]string{"unlink", "thread", "kmk"}, add("load "+blob))
		if want := []string{"ok", s.again, s.again, "ok", "ok"}; fmt.Sprint(answers) != fmt.Sprint(want) {
			t.Errorf("a description that exists: %q, expected %q", answers, want)
		}
		if s.keys == vm.CAAM {
			b.runsTests(s, "./keyring", "Trusted", 5)
		}
		b.runsTests(s, "./volume/source", "OverTheKernel", 10)
	})
}

// runsTests runs the tests of a package that makes the product's calls of these
// commands. They need a kernel with a trust source.
func (b board) runsTests(s source, pkg, pattern string, atLeast int) {
	b.t.Helper()
	const program = "/tmp/package.test"
	b.PutFile(program, vm.BuildTest(b.t, pkg, "arm64"))
	r := b.Sh("IMXCRYPT_TRUST_SOURCE=" + string(s.keys) + " " + program + " -test.v -test.run " + pattern)
	b.t.Logf("%s", r.Stdout)
	if r.Code != 0 || strings.Contains(r.Stdout, "--- SKIP") || strings.Count(r.Stdout, "--- PASS") < atLeast {
		b.t.Errorf("tests of %s: %v", pkg, r)
	}
}

// Without a source the key type does not exist.
func TestWithoutASource(t *testing.T) {
	t.Parallel()
	b := start(t, vm.Mainline{})
	b.expect("ENODEV", add("probe")...)
	b.expect("ENODEV", add("new 32")...)
}
