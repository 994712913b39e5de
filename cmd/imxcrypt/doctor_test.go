// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/internal/doctor"
)

// The program on a sample board: the report has what the program knows about the
// configuration and the volumes, and the first problem gives the exit code.
func TestDoctor(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	b.sysRoot = t.TempDir()
	if err := os.CopyFS(b.sysRoot, os.DirFS("../../internal/doctor/testdata/imx8mp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(b.sysRoot, "dev/caam-keygen"), 0o600); err != nil {
		t.Fatal(err)
	}
	checks := func(code int, args ...string) map[string]doctor.Check {
		t.Helper()
		out, _ := b.must(t, code, append([]string{"doctor", "--json"}, args...)...)
		var r doctor.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		all := map[string]doctor.Check{}
		for _, c := range r.Checks {
			if c.Level != doctor.OK && (c.Remedy == "" || c.ID == "") {
				t.Errorf("%+v has no remedy or no id", c)
			}
			all[c.Name] = c
		}
		return all
	}

	all := checks(exitDone)
	if c := all["soc"]; !strings.HasPrefix(c.Text, "i.MX8MP") {
		t.Errorf("%+v", c)
	}
	if c := all["volume data"]; c.Level != doctor.Warning || c.ID != "not-provisioned" || !strings.Contains(c.Remedy, "`imxcrypt provision data` ") {
		t.Errorf("%+v", c)
	}
	if c := all["volume spare"]; c.Level != doctor.Warning || c.ID != "device-missing" {
		t.Errorf("absent, and not required: %+v", c)
	}
	b.must(t, exitDone, "provision", "data")
	out, _ := b.must(t, exitDone, "doctor")
	for _, want := range []string{"volume data     mounted, generation 1", " 0 problems"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}

	t.Log("a mistake in the configuration is reported once, with its remedy")
	if err := os.WriteFile(b.config, []byte("volumes:\n  - name: data\n    device: /dev/mmcblk2p3\n    keysize: 32\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := checks(exitUsage)["configuration"]
	if c.ID != "config-invalid" || c.Level != doctor.Problem || !strings.Contains(c.Text, "keysize") || strings.Contains(c.Text, c.Remedy) {
		t.Errorf("%+v", c)
	}
	if err := os.Remove(b.config); err != nil {
		t.Fatal(err)
	}
	c = checks(exitUsage)["configuration"]
	if c.ID != "config-missing" || strings.Contains(c.Text, c.Remedy) {
		t.Errorf("%+v", c)
	}
	if c := checks(exitUsage); c["cipher"].Level != doctor.OK {
		t.Errorf("without a configuration the chip is checked all the same: %+v", c["cipher"])
	}
}

// A mount point that this system's symbolic links make unusable is reported before a boot
// fails because of it.
func TestMountPointsAreFollowed(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	b.sysRoot = t.TempDir()
	for link, to := range map[string]string{"data": "dat", "dat": "data"} {
		if err := os.Symlink(to, filepath.Join(b.sysRoot, link)); err != nil {
			t.Fatal(err)
		}
	}
	const says = "mount point /data cannot be reached: its symbolic links lead in a circle"
	if _, log := b.must(t, 0, "config", "check"); !strings.Contains(log, says) {
		t.Errorf("config check: %s", log)
	}
	if out, _ := b.must(t, exitMissing, "doctor"); !strings.Contains(strings.Join(strings.Fields(out), " "), says) {
		t.Errorf("doctor: %s", out)
	}
}
