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
	other := func(cipher string, r Row) Row {
		r.Cipher = cipher
		return r
	}
	usual := row(512, 0).Cipher
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
		if got := recommend(c.rows, []string{usual}); got == nil || got.SectorSize != c.size || len(got.Flags) != c.flags {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := recommend([]Row{broken}, []string{usual, "adiantum"}); got != nil {
		t.Errorf("%+v", got)
	}

	const fast, slow = 30, 10
	for name, c := range map[string]struct {
		rows []Row
		want string
	}{
		"no instructions for AES":         {[]Row{row(4096, slow), other("adiantum", row(4096, fast)), other("essiv", row(4096, slow))}, "adiantum"},
		"instructions for AES":            {[]Row{row(4096, fast), other("adiantum", row(4096, slow))}, usual},
		"little is not worth another one": {[]Row{row(4096, 50), other("adiantum", row(4096, 54))}, usual},
		"nor is what is fast at times":    {[]Row{row(4096, 50), other("adiantum", noisy(row(4096, 60), 40))}, usual},
		"the best setting of each":        {[]Row{row(512, slow), row(4096, fast), other("adiantum", row(512, 20)), other("adiantum", row(4096, 20))}, usual},
		"a kernel without the usual one":  {[]Row{broken, other("adiantum", row(4096, slow))}, "adiantum"},
		"a kernel without the other one":  {[]Row{row(4096, slow), other("adiantum", broken)}, usual},
		"the fastest, but for old data":   {[]Row{row(4096, slow), other("essiv", row(4096, fast))}, usual},
	} {
		if got := recommend(c.rows, []string{usual, "adiantum"}); got == nil || got.Cipher != c.want || got.SectorSize != 4096 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
