// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package vm_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// The self-test is the client in C, for each kernel that machines boot. It holds
// every errno, length and text of the driver that user space can see, and reports
// in TAP.
func TestSimCAAMFollowsTheDriver(t *testing.T) {
	t.Parallel()
	plan := regexp.MustCompile(`(?m)^1\.\.(\d+)$`)
	for flavour, cfg := range map[string]vm.Config{
		"amd64":            {Arch: vm.AMD64},
		"arm64":            {Arch: vm.ARM64},
		"6.12-cloud-arm64": {Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.CAAM}},
	} {
		t.Run(flavour, func(t *testing.T) {
			t.Parallel()
			cfg.SimCAAM = &vm.SimCAAM{Closed: true}
			m := vm.Start(t, cfg)
			m.PutFile("/opt/selftest", filepath.Join("../../build/simcaam", flavour, "selftest"))
			r := m.Run("/opt/selftest")
			for _, line := range strings.Split(r.Stdout, "\n") {
				if strings.HasPrefix(line, "not ok") || strings.HasPrefix(line, "Bail out!") || strings.HasPrefix(line, "# got") {
					t.Error(line)
				}
			}
			passed := strings.Count("\n"+r.Stdout, "\nok ")
			if ended := plan.FindStringSubmatch(r.Stdout); r.Code != 0 || ended == nil {
				t.Errorf("the self-test did not end well, after %d checks: %v", passed, r)
			}
			t.Logf("%d checks passed", passed)
		})
	}
}
