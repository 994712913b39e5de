// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"imxcrypt/bench"
	"imxcrypt/configs"
)

func TestBench(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3")
	out, _ := b.must(t, exitDone, "bench", "--device", "/dev/mmcblk2p3", "--each", "1ms", "--keys", "2")
	for _, want := range []string{"MiB/s", "4096", "key made in", "source caam: the CAAM's driver is there", "recommended for the volume's entry in the configuration:\n    sector_size: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, _ = b.must(t, exitDone, "bench", "--device", "/dev/mmcblk2p3", "--each", "1ms", "--keys", "2", "--json")
	var r bench.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Best == nil || len(r.Rows) < 9 {
		t.Errorf("%v: %s", err, out)
	}
	b.must(t, exitUsage, "bench", "--source", "none")
	b.must(t, exitUsage, "bench", "--keys", "0")
	b.must(t, exitUsage, "bench", "--each", "0s")
	b.must(t, exitUsage, "bench", "--wrap", "cbc")
}

// The recommendation can be added to a volume's other fields unchanged.
func TestRecommendationIsConfiguration(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{nil, {"same_cpu_crypt"}, {"same_cpu_crypt", "submit_from_crypt_cpus"}} {
		text := "volumes:\n  - name: data\n    device: /dev/mmcblk2p3\n" + recommendation("caam", bench.Row{SectorSize: 2048, Flags: flags})
		c, err := configs.Parse("imxcrypt.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if v := c.Volumes[0]; v.SectorSize != 2048 || !slices.Equal(v.CryptFlags, flags) {
			t.Errorf("read as %+v", v)
		}
	}
}
