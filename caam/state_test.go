// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/caam"
)

const (
	armedTrusted   = "[    2.1] caam-snvs 30370000.caam-snvs: violation handlers armed - trusted state"
	armedInit      = "[    2.1] caam-snvs 30370000.caam-snvs: violation handlers armed - init state"
	armedNonSecure = "[    2.1] caam-snvs 30370000.caam-snvs: violation handlers armed - non-secure state"
	testKey        = "[    3.7] caam 30900000.crypto: using insecure test key, enable HAB to use unique device key!"
	dcpTestKey     = "[    4.1] Device neither in secure nor trusted mode!"
)

// In the binary, which also runs where this directory does not exist.
//
//go:embed testdata/security-state
var recorded embed.FS

func TestSecurityState(t *testing.T) {
	t.Parallel()
	trees, err := fs.Sub(recorded, "testdata/security-state")
	root := t.TempDir()
	if err == nil {
		err = os.CopyFS(root, trees)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tree string
		log  []string
		want caam.SecurityState
		key  string
		says string
	}{
		{"imx8mp-open", nil, caam.Open, "caam", "0x98002000"},
		{"imx8mp-closed", nil, caam.Closed, "caam", "0x9a002000"},
		{"imx8mp-locked", nil, caam.Unknown, "caam", "locked"},
		{"imx8mp-short", nil, caam.Unknown, "caam", "ends before"},
		{"imx6q-closed", nil, caam.Closed, "caam", "0x18"},
		{"imx6ul-open", nil, caam.Open, "caam", "says open"},
		{"imx7ulp-closed", nil, caam.Closed, "caam", "0x3b8"},
		{"imx6dl-old-bsp-closed", nil, caam.Closed, "caam", "HW_OCOTP_CFG5"},
		{"imx7d-old-bsp-open", nil, caam.Open, "caam", "HW_OCOTP_BOOT_CFG0"},
		{"imx8qxp", nil, caam.Unknown, "caam", "system controller"},
		{"imx93", nil, caam.Unknown, "ele", "EdgeLock"},
		{"imx6q-no-fuses", nil, caam.Unknown, "caam", "no such file"},
		{"no-imx", nil, caam.Unknown, "", "jep106:0426"},
		{"nothing-at-all", nil, caam.Unknown, "", "names no SoC"},

		{"imx8mp-closed", []string{armedTrusted}, caam.Closed, "caam", "trusted state"},
		{"imx8mp-closed", []string{armedInit}, caam.Closed, "caam", "init state"},
		{"imx8mp-closed", []string{armedNonSecure}, caam.Unknown, "caam", "disagree"},
		{"imx8mp-closed", []string{armedTrusted, testKey}, caam.Open, "caam", "insecure test key"},
		{"imx8mp-open", []string{armedTrusted}, caam.Open, "caam", "says open"},
		// The log alone never vouches for a chip.
		{"imx8qxp", []string{armedTrusted}, caam.Unknown, "caam", "trusted state"},
		{"imx8qxp", []string{armedNonSecure}, caam.Unknown, "caam", "non-secure state"},
		{"imx8qxp", []string{testKey}, caam.Open, "caam", "insecure test key"},
		{"nothing-at-all", []string{dcpTestKey}, caam.Open, "", "neither in secure nor trusted mode"},
		{"imx8mp-closed", []string{"some other line", "caam-snvs: probed"}, caam.Closed, "caam", "says closed"},
	} {
		got := caam.ReadSecurityState(filepath.Join(root, c.tree), c.log)
		if got.State != c.want || got.Key != c.key || !strings.Contains(strings.Join(got.Evidence, "\n"), c.says) {
			t.Errorf("%s with %q: %+v, want %s by %q", c.tree, c.log, got, c.want, c.says)
		}
	}
}

func TestUnreadableFusesAreEvidence(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, content := range map[string]string{
		"sys/devices/soc0/soc_id":         "i.MX6Q\n",
		"sys/fsl_otp/HW_OCOTP_CFG5":       "not a number\n",
		"sys/bus/nvmem/devices/none/none": "",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := caam.ReadSecurityState(root, nil)
	if got.State != caam.Unknown || got.SoC != "i.MX6Q" || len(got.Evidence) != 1 {
		t.Errorf("%+v", got)
	}
}
