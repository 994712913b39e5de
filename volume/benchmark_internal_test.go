// SPDX-License-Identifier: Apache-2.0

package volume

import "testing"

func TestRecommendation(t *testing.T) {
	t.Parallel()
	row := func(size int, speed float64, flags ...string) BenchmarkRow {
		return BenchmarkRow{Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: size, Flags: flags, Read: speed, Write: speed}
	}
	broken := row(4096, 0)
	broken.Problem = "no"
	for name, c := range map[string]struct {
		rows  []BenchmarkRow
		size  int
		flags int
	}{
		"larger sectors are faster":             {[]BenchmarkRow{row(512, 10), row(4096, 50)}, 4096, 0},
		"a little is not worth smaller sectors": {[]BenchmarkRow{row(512, 52), row(4096, 50)}, 4096, 0},
		"much is":                               {[]BenchmarkRow{row(512, 80), row(4096, 50)}, 512, 0},
		"flags that bring little":               {[]BenchmarkRow{row(4096, 50), row(4096, 54, "same_cpu_crypt")}, 4096, 0},
		"flags that bring much":                 {[]BenchmarkRow{row(4096, 50), row(4096, 60, "same_cpu_crypt"), row(4096, 70, "a", "b")}, 4096, 2},
		"what failed is not recommended":        {[]BenchmarkRow{row(512, 10), broken}, 512, 0},
	} {
		if got := recommend(c.rows); got == nil || got.SectorSize != c.size || len(got.Flags) != c.flags {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := recommend([]BenchmarkRow{broken}); got != nil {
		t.Errorf("%+v", got)
	}
}
