// SPDX-License-Identifier: Apache-2.0

package bench

import "testing"

func TestRecommendation(t *testing.T) {
	t.Parallel()
	row := func(size int, speed float64, flags ...string) Row {
		return Row{Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: size, Flags: flags, Read: speed, Write: speed, slowRead: speed, slowWrite: speed}
	}
	noisy := func(r Row, slowest float64) Row {
		r.slowRead, r.slowWrite = slowest, slowest
		return r
	}
	broken := row(4096, 0)
	broken.Problem = "no"
	for name, c := range map[string]struct {
		rows  []Row
		size  int
		flags int
	}{
		"larger sectors are faster":             {[]Row{row(512, 10), row(4096, 50)}, 4096, 0},
		"a little is not worth smaller sectors": {[]Row{row(512, 52), row(4096, 50)}, 4096, 0},
		"much is":                               {[]Row{row(512, 80), row(4096, 50)}, 512, 0},
		"much in one part of three is noise":    {[]Row{noisy(row(1024, 80), 45), row(4096, 50)}, 4096, 0},
		"flags that are fast now and then":      {[]Row{row(4096, 50), noisy(row(4096, 60, "same_cpu_crypt"), 40)}, 4096, 0},
		"noise above what it is compared with":  {[]Row{noisy(row(1024, 80), 60), row(4096, 50)}, 1024, 0},
		"flags that bring little":               {[]Row{row(4096, 50), row(4096, 54, "same_cpu_crypt")}, 4096, 0},
		"flags that bring much":                 {[]Row{row(4096, 50), row(4096, 60, "same_cpu_crypt"), row(4096, 70, "a", "b")}, 4096, 2},
		"what failed is not recommended":        {[]Row{row(512, 10), broken}, 512, 0},
	} {
		if got := recommend(c.rows); got == nil || got.SectorSize != c.size || len(got.Flags) != c.flags {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := recommend([]Row{broken}); got != nil {
		t.Errorf("%+v", got)
	}
}
