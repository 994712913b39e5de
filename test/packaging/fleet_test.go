// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const fleet = "packaging/fleet/"

// Rules and dashboard query only metrics and labels that the program prints.
// cmd/imxcrypt checks the page's list against the program. The test also checks the
// dashboard itself, because there is no Grafana here that could do it.
func TestFleetAsksForMetricsThatExist(t *testing.T) {
	t.Parallel()
	metrics := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(imxcrypt_[a-z_]+)` \\| ([a-z, ]+) \\|").FindAllStringSubmatch(read(t, "docs/monitoring.md"), -1) {
		metrics[m[1]] = strings.Split(m[2], ", ")
	}
	if len(metrics) < 10 {
		t.Fatalf("the page has %d metrics", len(metrics))
	}
	// What Prometheus and node-exporter add.
	foreign := map[string][]string{"up": nil, "node_textfile_mtime_seconds": {"file"}}
	name := regexp.MustCompile(`\b(?:imxcrypt_[a-z_]+|node_textfile_mtime_seconds|up)\b`)
	lists := regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)|\{\{ *(?:\$labels\.)?([a-z_]+) *\}\}|\$labels\.([a-z_]+)|([a-z_]+) *(?:=~|!~|!=|=) *"`)
	seen := map[string]bool{}
	check := func(where, expression, texts string) {
		t.Helper()
		labels := []string{"instance", "job"}
		for _, metric := range name.FindAllString(expression, -1) {
			seen[metric] = true
			own, is := metrics[metric]
			if other, known := foreign[metric]; known {
				own, is = other, true
			}
			if !is {
				t.Errorf("%s: there is no metric %s", where, metric)
			}
			labels = append(labels, own...)
		}
		for _, m := range lists.FindAllStringSubmatch(expression+"\n"+texts, -1) {
			for _, label := range strings.Split(m[1]+m[2]+m[3]+m[4], ",") {
				if label = strings.TrimSpace(label); !slices.Contains(labels, label) {
					t.Errorf("%s: none of its metrics has the label %q: %q", where, label, labels)
				}
			}
		}
	}

	type place struct{ X, Y, W, H int }
	var dashboard struct {
		ID            *int
		UID           string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID          int
			Title, Type string
			GridPos     place
			Datasource  struct{ UID string }
			Targets     []struct{ Expr, RefID, LegendFormat string }
		}
	}
	text := read(t, fleet+"grafana/imxcrypt.json")
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := map[string]bool{}
	for _, v := range dashboard.Templating.List {
		variables[v.Name] = true
	}
	for _, m := range regexp.MustCompile(`\$\{?([a-z]+)`).FindAllStringSubmatch(text, -1) {
		if !variables[m[1]] {
			t.Errorf("the dashboard has no variable %s", m[1])
		}
	}
	// Without an id Grafana assigns one; with one the dashboard would replace someone
	// else's.
	if dashboard.ID != nil || dashboard.UID == "" || dashboard.SchemaVersion < 36 {
		t.Errorf("uid %q, schema %d", dashboard.UID, dashboard.SchemaVersion)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		if ids[panel.ID] || panel.ID == 0 {
			t.Errorf("panel %q has the id %d of another", panel.Title, panel.ID)
		}
		ids[panel.ID] = true
		if !slices.Contains([]string{"stat", "table", "bargauge", "timeseries"}, panel.Type) || panel.Datasource.UID != "${source}" {
			t.Errorf("panel %q is a %s of %s", panel.Title, panel.Type, panel.Datasource.UID)
		}
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				if other, is := taken[[2]int{x, y}]; is || x >= 24 {
					t.Fatalf("panel %q lies on %q, or outside, at %d, %d", panel.Title, other, x, y)
				}
				taken[[2]int{x, y}] = panel.Title
			}
		}
		references := map[string]bool{}
		for _, target := range panel.Targets {
			if references[target.RefID] || target.RefID == "" {
				t.Errorf("panel %q has the refId %q twice", panel.Title, target.RefID)
			}
			references[target.RefID] = true
			check("panel "+panel.Title, target.Expr, target.LegendFormat)
		}
	}
	for metric := range metrics {
		if !seen[metric] && metric != "imxcrypt_last_unlock_timestamp_seconds" {
			t.Errorf("the dashboard does not show %s", metric)
		}
	}
	alerts := regexp.MustCompile(`(?s)- alert: (\w+)\n +expr: ([^\n]+)\n(.*?)(?:\z| - alert)`)
	rules := read(t, fleet+"prometheus/imxcrypt.rules.yml")
	checked := 0
	for rest := rules; ; checked++ {
		m := alerts.FindStringSubmatchIndex(rest)
		if m == nil {
			break
		}
		check("alert "+rest[m[2]:m[3]], rest[m[4]:m[5]], rest[m[6]:m[7]])
		rest = rest[m[7]:]
	}
	if want := strings.Count(rules, "- alert: "); checked != want || checked == 0 {
		t.Errorf("%d of %d alerts were checked", checked, want)
	}
}

func TestPrometheusRules(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT TESTED: Prometheus' rules, which need promtool, without -short only")
	}
	rules := read(t, fleet+"prometheus/imxcrypt.rules.yml")
	tests := read(t, fleet+"prometheus/imxcrypt.test.yml")
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		if !strings.Contains(tests, "alertname: "+m[1]) {
			t.Errorf("%s has no test", m[1])
		}
	}
	promtool := abs(t, filepath.Join(top, "test/tools/promtool"))
	folder := filepath.Join(top, fleet+"prometheus")
	if said := command(t, folder, []string{promtool, "check", "rules", "imxcrypt.rules.yml"}); !strings.Contains(said, "rules found") {
		t.Errorf("promtool says %s", said)
	}
	if said := command(t, folder, []string{promtool, "test", "rules", "imxcrypt.test.yml"}); !strings.Contains(said, "SUCCESS") {
		t.Errorf("promtool says %s", said)
	}
}

// The unit's command line, with a program that simulates the states of a board: the
// file is either complete or not there.
func TestMetricsUnit(t *testing.T) {
	t.Parallel()
	unit := read(t, "packaging/systemd/imxcrypt-metrics.service")
	m := regexp.MustCompile(`(?m)^ExecStart=/bin/sh -c '(.*)' \$\{IMXCRYPT_METRICS\}$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatal("the unit has no such command")
	}
	dir := t.TempDir()
	program, file := filepath.Join(dir, "imxcrypt"), filepath.Join(dir, "imxcrypt.prom")
	script := strings.ReplaceAll(strings.ReplaceAll(m[1], "$$", "$"), "/usr/bin/imxcrypt", program)
	for _, step := range []struct {
		says string
		exit string
		code int
		want string
	}{
		{"echo one 1", "0", 0, "one 1\n"},
		{"echo two 2", "3", 0, "two 2\n"}, // a volume has a problem
		{"true", "2", 2, ""},              // the configuration does not load
		{"echo three 3", "1", 0, "three 3\n"},
	} {
		if err := writeProgram(program, "#!/bin/sh\n"+step.says+"\nexit "+step.exit+"\n"); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", script, file)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != step.code {
			t.Errorf("%q with %s: exit code %d, expected %d: %s", step.says, step.exit, got, step.code, out)
		}
		text, _ := os.ReadFile(file)
		if string(text) != step.want {
			t.Errorf("%q with %s leaves %q, expected %q", step.says, step.exit, text, step.want)
		}
		if left, _ := filepath.Glob(file + ".*"); left != nil {
			t.Errorf("left behind: %v", left)
		}
	}
}
