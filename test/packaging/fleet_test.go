// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const fleet = "packaging/fleet/"

// Rules and dashboard ask for metrics that the program prints. The page's list is
// held against the program by cmd/imxcrypt.
func TestFleetAsksForMetricsThatExist(t *testing.T) {
	t.Parallel()
	metrics := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(imxcrypt_[a-z_]+)` \\|").FindAllStringSubmatch(read(t, "docs/monitoring.md"), -1) {
		metrics[m[1]] = true
	}
	if len(metrics) < 10 {
		t.Fatalf("the page has %d metrics", len(metrics))
	}
	name := regexp.MustCompile(`\bimxcrypt_[a-z_]+\b`)
	var dashboard struct {
		UID    string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, fleet+"grafana/imxcrypt.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	check := func(where, expression string) {
		for _, metric := range name.FindAllString(expression, -1) {
			seen[metric] = true
			if !metrics[metric] {
				t.Errorf("%s: there is no metric %s", where, metric)
			}
		}
	}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			check("panel "+panel.Title, target.Expr)
		}
	}
	for metric := range metrics {
		if !seen[metric] && metric != "imxcrypt_last_unlock_timestamp_seconds" {
			t.Errorf("the dashboard does not show %s", metric)
		}
	}
	check("rules", read(t, fleet+"prometheus/imxcrypt.rules.yml"))
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

// The unit's command line, with a program that plays the states of a board: the file
// is whole or not there.
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
