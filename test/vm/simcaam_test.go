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

// The self-test is the client in C. It runs on each kernel that machines boot, and
// against the jobs of our driver over the model of the CAAM. It checks every errno,
// length and text of NXP's driver that user space can see, and reports in TAP.
func TestSimCAAMFollowsTheDriver(t *testing.T) {
	t.Parallel()
	plan := regexp.MustCompile(`(?m)^1\.\.(\d+)$`)
	sim := &vm.SimCAAM{Closed: true}
	for name, cfg := range map[string]vm.Config{
		"amd64":            {Arch: vm.AMD64, SimCAAM: sim},
		"arm64":            {Arch: vm.ARM64, SimCAAM: sim},
		"6.12-cloud-arm64": {Arch: vm.ARM64, SimCAAM: sim, Mainline: &vm.Mainline{Keys: vm.CAAM}},
		"jobs":             {Arch: vm.ARM64, Mainline: &vm.Mainline{Keys: vm.CAAM, Keygen: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm.SimCAAMModule(t, cfg.Arch) // also builds the self-test
			m := vm.Start(t, cfg)
			m.PutFile("/opt/selftest", filepath.Join("../../build/simcaam", string(cfg.Arch), "selftest"))
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
