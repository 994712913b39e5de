// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

func TestEscape(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/dev/mmcblk2p3\n":          "/dev/mmcblk2p3\n",
		"größe, 容量\ta\r":            "größe, 容量\ta\r",
		"/dev/\u202ep3":             `/dev/\u202ep3`,
		"a\u200fb\u2066c\u2069":     `a\u200fb\u2066c\u2069`,
		"zero\u200bwidth\ufeff":     `zero\u200bwidth\ufeff`,
		"tag\U000e0001":             `tag\udb40\udc01`,
		"next\u0085line":            `next\u0085line`,
		"\x1b[2Jgone":               `\u001b[2Jgone`,
		"\x9b2J \xff":               `\x9b2J \xff`,
		sgrRed + "red" + sgrPlain:   sgrRed + "red" + sgrPlain,
		"\r50 % " + clearLine:       "\r50 % " + clearLine,
		"bell\a delete\x7f nul\x00": `bell\u0007 delete\u007f nul\u0000`,
	} {
		if got := escape(text); got != want {
			t.Errorf("%q became %q, expected %q", text, got, want)
		}
	}
}

// A path that would look like another is printed so that the difference is visible: in
// errors, results and logs, for people and for programs.
func TestAPathThatCannotBeSeenIsEscapedEverywhere(t *testing.T) {
	t.Parallel()
	const hidden = "\u202e3p2klbcmm\u202c\x1b[2J"
	dir := t.TempDir()
	config := filepath.Join(dir, "imxcrypt.yaml")
	text := "volumes:\n  - name: data\n    device: \"/dev/\\u202e3p2klbcmm\\u202c\"\n    header: \"/nonexistent/\\u202ex\"\n    timeout: 0s\n    source: dev\n    allow_insecure: true\n    mount: {path: \"/mnt/\\u202ey\"}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, hidden)
	if err := os.WriteFile(file, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--config", config, "status", "data"}, {"--config", config, "status", "--json", "data"},
		{"--config", config, "--log-level", "debug", "unlock", "data"}, {"--config", config, "--json", "unlock", "data"},
		{"--config", config, "config", "show"}, {"--config", config, "erase", "--dry-run", "data"},
		{"--config", filepath.Join(dir, "\u202egone.yaml"), "status"},
		{"key", "inspect", file}, {"header", "check", file}, {"unlock", hidden},
	} {
		var out bytes.Buffer
		run(context.Background(), args, strings.NewReader(""), &out, &out, func(string) string { return "" })
		for _, r := range out.String() {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
				t.Errorf("%q prints %q raw:\n%q", args, r, out.String())
				break
			}
		}
		if strings.Contains(strings.Join(args, " "), "--json") {
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "{") && !json.Valid([]byte(line)) {
					t.Errorf("%q: no JSON any more: %s", args, line)
				}
			}
		}
		if out.Len() == 0 {
			t.Errorf("%q says nothing", args)
		}
	}
}
