// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"imxcrypt/volume"
)

func TestBench(t *testing.T) {
	t.Parallel()
	b := newBench(t, threeVolumes, "/dev/mmcblk2p3")
	out, _ := b.must(t, exitDone, "bench", "--device", "/dev/mmcblk2p3", "--each", "1ms", "--keys", "2")
	for _, want := range []string{"MiB/s", "4096", "key made in", "recommended: sector_size: "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, _ = b.must(t, exitDone, "bench", "--device", "/dev/mmcblk2p3", "--each", "1ms", "--keys", "2", "--json")
	var r volume.BenchmarkResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Best == nil || len(r.Rows) < 9 {
		t.Errorf("%v: %s", err, out)
	}
	b.must(t, exitUsage, "bench", "--source", "none")
	b.must(t, exitUsage, "bench", "--keys", "0")
	b.must(t, exitUsage, "bench", "--each", "0s")
	b.must(t, exitUsage, "bench", "--wrap", "cbc")
	if got := recommendation(volume.BenchmarkRow{SectorSize: 4096, Flags: []string{"same_cpu_crypt"}}); got != "sector_size: 4096, crypt_flags: [same_cpu_crypt]" {
		t.Error(got)
	}
}
