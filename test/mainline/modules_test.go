// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package mainline

import (
	"fmt"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// modprobe loads a module and returns its error message, or "" for success.
func (b board) modprobe(words string) string {
	b.t.Helper()
	r := b.Sh("modprobe " + words)
	if r.Code == 0 {
		return ""
	}
	return r.Stdout + r.Stderr
}

// If a source cannot start, trusted.ko fails, and so does dm-crypt, which needs its
// symbols: then no volume opens at all.
func TestTrustedTakesDMCryptWithIt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		board  vm.Mainline
		params []string
	}{
		// A DCP that is open, one that does not exist, an unusable source of random
		// numbers.
		"an open DCP": {vm.Mainline{Keys: vm.DCP, State: vm.NonSecure}, []string{"source=dcp"}},
		"CAAM":        {vm.Mainline{Keys: vm.CAAM}, []string{"source=dcp", "source=caam rng=nonsense", "source=caam rng=caam"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.board.Manual = true
			b := start(t, test.board, vm.NewDisk(t, 8<<20))
			for _, params := range test.params {
				if said := b.modprobe("trusted " + params); !strings.Contains(said, "Invalid argument") {
					t.Errorf("modprobe trusted %s: %q, expected invalid argument", params, said)
				}
				b.expect("ENODEV", add("probe")...)
			}
			// Not with modprobe, which would try trusted.ko again, without parameters.
			r := b.Sh("insmod $(find /lib/modules -name dm-crypt.ko)")
			if log := b.MustSh("dmesg"); r.Code == 0 || !strings.Contains(log, "dm_crypt: Unknown symbol key_type_trusted") {
				t.Errorf("dm-crypt without trusted.ko: %v", r)
			}
		})
	}
}

// TEE comes before CAAM, and loads successfully without a TEE: then no key can be made
// until the kernel is given another source.
func TestTEEShadowsCAAM(t *testing.T) {
	t.Parallel()
	b := start(t, vm.Mainline{Keys: vm.CAAM, Manual: true})
	for _, test := range []struct{ params, probe, key string }{
		{"", "ENODEV", "ENODEV"},
		{"source=caam", "EINVAL", "ok"},
		{"source=tee", "ENODEV", "ENODEV"},
		{"source=tpm", "ENODEV", "ENODEV"}, // does not exist, which is not a failure
		{"source=nonsense", "ENODEV", "ENODEV"},
	} {
		if said := b.modprobe("trusted " + test.params); said != "" {
			t.Errorf("modprobe trusted %s: %s", test.params, said)
			continue
		}
		answers := b.calls(add("probe"), add("new 32"))
		if want := []string{test.probe, test.key}; fmt.Sprint(answers) != fmt.Sprint(want) {
			t.Errorf("trusted.ko with %q: %q, expected %q", test.params, answers, want)
		}
		b.MustRun("rmmod", "trusted")
	}
}
