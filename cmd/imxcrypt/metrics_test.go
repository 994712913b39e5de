// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// exposition parses Prometheus' text format, version 0.0.4, as strictly as promtool's
// check does, and returns the value of each series.
func exposition(text string) (map[string]float64, error) {
	const name = `[a-zA-Z_:][a-zA-Z0-9_:]*`
	help := regexp.MustCompile(`^# HELP (` + name + `) (.+)$`)
	kind := regexp.MustCompile(`^# TYPE (` + name + `) (counter|gauge|histogram|summary|untyped)$`)
	sample := regexp.MustCompile(`^(` + name + `)\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)$`)
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("the last line has no end")
	}
	series, begun, current, typed := map[string]float64{}, map[string]bool{}, "", false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := help.FindStringSubmatch(line); m != nil {
			if begun[m[1]] {
				return nil, fmt.Errorf("%s is described in two places", m[1])
			}
			if regexp.MustCompile(`\\[^\\n]`).MatchString(m[2]) {
				return nil, fmt.Errorf("%q: a help text knows \\\\ and \\n only", line)
			}
			begun[m[1]], current, typed = true, m[1], false
			continue
		}
		if m := kind.FindStringSubmatch(line); m != nil {
			if m[1] != current || typed {
				return nil, fmt.Errorf("%q does not follow its HELP", line)
			}
			typed = true
			if m[2] == "counter" != strings.HasSuffix(current, "_total") {
				return nil, fmt.Errorf("%s: counters and only they end in _total", current)
			}
			for _, suffix := range []string{"_count", "_sum", "_bucket"} {
				if strings.HasSuffix(current, suffix) {
					return nil, fmt.Errorf("%s: %s is for histograms", current, suffix)
				}
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%q is no sample", line)
		}
		if m[1] != current || !typed {
			return nil, fmt.Errorf("%q is outside of its group", line)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		id := m[1] + "{" + m[2] + "}"
		if _, twice := series[id]; twice {
			return nil, fmt.Errorf("%s is there twice", id)
		}
		series[id] = value
	}
	return series, nil
}

func TestExpositionIsReadStrictly(t *testing.T) {
	t.Parallel()
	const good = "# HELP a_b Something.\n# TYPE a_b gauge\na_b{volume=\"x\\\"y\"} 1\na_b{volume=\"z\"} 0.5\n"
	if s, err := exposition(good); err != nil || len(s) != 2 {
		t.Fatalf("%v %v", s, err)
	}
	for name, bad := range map[string]string{
		"no end":           strings.TrimSuffix(good, "\n"),
		"twice":            good + "a_b{volume=\"z\"} 1\n",
		"two places":       good + good,
		"no type":          "# HELP a Something.\na{} 1\n",
		"no help":          "# TYPE a gauge\na{} 1\n",
		"a bare quote":     strings.Replace(good, `x\"y`, `x"y`, 1),
		"a wrong escape":   strings.Replace(good, `x\"y`, `x\ty`, 1),
		"no number":        strings.Replace(good, "0.5", "half", 1),
		"a wrong name":     strings.ReplaceAll(good, "a_b", "a-b"),
		"counter's suffix": strings.ReplaceAll(good, "a_b", "a_total"),
	} {
		if _, err := exposition(bad); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 500e6, time.UTC)
	all := []volumeStatus{
		{required: true, Status: volume.Status{Name: "data", State: volume.Mounted, Generation: 3, SecurityState: "closed", Size: 16 << 40, Created: at,
			Rotation: &volume.Rotation{Done: 1, Total: 4, Generation: 4}, LastUnlock: &volume.LastUnlock{At: at, Took: 17500 * time.Microsecond}}},
		{Status: volume.Status{Name: `a "quoted" back\slash`, State: volume.Locked, Generation: 1, SecurityState: "open"}},
		{Status: volume.Status{Name: "old", State: volume.Damaged, Err: fault.New(fault.HeaderDamaged, "x", nil)}},
	}
	var b bytes.Buffer
	if err := writeMetrics(&b, all); err != nil {
		t.Fatal(err)
	}
	series, err := exposition(b.String())
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	for id, want := range map[string]float64{
		`imxcrypt_volume_up{volume="data"}`: 1, `imxcrypt_volume_up{volume="old"}`: 0,
		`imxcrypt_volume_required{volume="old"}`:               0,
		`imxcrypt_volume_state{volume="data",state="mounted"}`: 1, `imxcrypt_volume_state{volume="data",state="locked"}`: 0,
		`imxcrypt_volume_state{volume="a \"quoted\" back\\slash",state="locked"}`: 1,
		`imxcrypt_volume_problem{volume="old",code="header-damaged"}`:             1,
		`imxcrypt_volume_size_bytes{volume="data"}`:                               16 << 40,
		`imxcrypt_key_generation{volume="data"}`:                                  3,
		`imxcrypt_key_open_state{volume="a \"quoted\" back\\slash"}`:              1,
		`imxcrypt_key_created_timestamp_seconds{volume="data"}`:                   1772600767,
		`imxcrypt_rotation_progress_ratio{volume="data"}`:                         0.25,
		`imxcrypt_last_unlock_duration_seconds{volume="data"}`:                    0.0175,
		`imxcrypt_last_unlock_timestamp_seconds{volume="data"}`:                   1772600767.5,
	} {
		if got, ok := series[id]; !ok || got != want {
			t.Errorf("%s is %v (%v), expected %v in\n%s", id, got, ok, want, b.String())
		}
	}
	for id := range series {
		if strings.Contains(id, "old") && (strings.Contains(id, "_key_") || strings.Contains(id, "_unlock_")) {
			t.Errorf("%s of a volume that shows no key", id)
		}
	}
}

// The program's output is valid for volumes in any state, and for names that are given
// twice.
func TestMetricsOfARun(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")
	b.must(t, exitDone, "provision", "data")
	for _, names := range [][]string{nil, {"data", "data"}} {
		_, out, _ := b.run(append([]string{"status", "--prometheus"}, names...)...)
		series, err := exposition(out)
		if err != nil || series[`imxcrypt_volume_up{volume="data"}`] != 1 || series[`imxcrypt_last_unlock_duration_seconds{volume="data"}`] < 0 {
			t.Errorf("%v: %v in\n%s", names, err, out)
		}
	}
}

// A table on the page about monitoring has every metric, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	at := time.Unix(1, 0)
	err := writeMetrics(&b, []volumeStatus{{Status: volume.Status{Name: "x", Generation: 1, Created: at, Err: fault.New(fault.Busy, "x", nil),
		Rotation: &volume.Rotation{Total: 1}, LastUnlock: &volume.LastUnlock{At: at}}}})
	if err != nil {
		t.Fatal(err)
	}
	documented(t, "docs/monitoring.md", regexp.MustCompile("(?m)^\\| `(imxcrypt_[a-z_]+)` \\|"), regexp.MustCompile(`(?m)^# TYPE (\S+) `), b.String())
	// And its labels, in their order.
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^(imxcrypt_[a-z_]+)\{(.*)\} `).FindAllStringSubmatch(b.String(), -1) {
		var labels []string
		for _, label := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, label[1])
		}
		if row := "\n| `" + m[1] + "` | " + strings.Join(labels, ", ") + " | "; !strings.Contains(string(page), row) {
			t.Errorf("the page has no%s", row)
		}
	}
}
