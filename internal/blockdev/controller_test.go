// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package blockdev

import "testing"

func TestCutController(t *testing.T) {
	t.Parallel()
	for _, controller := range []string{"eMMC", "mmc@30b60000", "usdhc-2.a_b,c@0", "30b60000.mmc", "a.x1.2"} {
		if got, rest := CutController(controller + ":part3:4"); got != controller || rest != "part3:4" {
			t.Errorf("%s: %q, %q", controller, got, rest)
		}
	}
	for _, spec := range []string{
		"", ":part3", "emmc:part3", "part3", "eMMC", "30b60000.mmc", "/dev/disk/by-path/platform-30b60000.mmc:part3",
		"@30b60000:x", "mmc@:x", "mmc@30B60000:x", "Mmc@30b60000:x", "2mmc@30b60000:x", "mmc@30b6@0000:x", "mmc@3.b:x", "@a.a:x", "mmc:x",
		".mmc:x", "30b60000.:x", "30b6g.mmc:x", "30b60000.2mmc:x", "30b60000.mm\n:x", "30b60000.mmc@1:x",
	} {
		if got, rest := CutController(spec); got != "" || rest != spec {
			t.Errorf("%q: %q, %q", spec, got, rest)
		}
	}
}
