// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Every help text has an example and the exit codes.
func TestHelpHasExampleAndExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range shown((&app{}).root()) {
		if _, codes, _ := strings.Cut(c.Long, "\n\nExit codes:\n"); !strings.HasPrefix(codes, "  0  done\n  1  failed\n  2  usage or configuration") || strings.Contains(codes, "\n\n") {
			t.Errorf("%s --help does not end with the exit codes", c.CommandPath())
		}
		if !strings.Contains(c.Example, c.CommandPath()) && !strings.Contains(c.Example, "imxcrypt --") {
			t.Errorf("%s --help shows no example of it: %q", c.CommandPath(), c.Example)
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if n := len([]rune(line)); n > 90 {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), n, line)
			}
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes)
	complete := func(args ...string) []string {
		t.Helper()
		out, _ := b.must(t, exitDone, append([]string{"__complete"}, args...)...)
		var words []string
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if word != "" && !strings.HasPrefix(word, ":") {
				words = append(words, word)
			}
		}
		return words
	}
	has := func(words []string, want string) bool { return slices.Contains(words, want) }

	for _, c := range shown((&app{}).root()) {
		if c.HasAvailableSubCommands() || !strings.Contains(c.Use, "NAME") || strings.HasPrefix(c.CommandPath(), "imxcrypt key") || strings.HasPrefix(c.CommandPath(), "imxcrypt config") {
			continue
		}
		words := append(strings.Fields(c.CommandPath())[1:], "")
		if words[0] == "sleep" { // its first argument says what to do
			words = []string{"sleep", "resume", ""}
		}
		if got := complete(words...); !has(got, "data") || !has(got, "spare") {
			t.Errorf("%s completes to %q", c.CommandPath(), got)
		}
	}
	if got := complete("unlock", "data", ""); has(got, "data") || !has(got, "spare") {
		t.Errorf("a volume is offered twice: %q", got)
	}
	for _, one := range []string{"rotate", "erase", "adopt"} {
		if got := complete(one, "data", ""); len(got) > 0 {
			t.Errorf("%s takes one volume, and is offered %q", one, got)
		}
	}
	if got := complete(""); !has(got, "unlock") || !has(got, "doctor") || has(got, "generator") {
		t.Errorf("commands: %q", got)
	}
	if got := complete("provision", "--"); !has(got, "--require-closed") || !has(got, "--json") {
		t.Errorf("flags: %q", got)
	}
	if got := complete("status", "--state", ""); !has(got, "mounted") {
		t.Errorf("states: %q", got)
	}
	if got := complete("--log-level", ""); !has(got, "debug") {
		t.Errorf("levels: %q", got)
	}
	if got := complete("config", "example", ""); !has(got, "minimal") {
		t.Errorf("examples: %q", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, _ := b.must(t, exitDone, "completion", shell)
		if !strings.Contains(out, "imxcrypt") {
			t.Errorf("%s: %s", shell, out)
		}
		if path, err := exec.LookPath(shell); err == nil {
			c := exec.Command(path, "-n") // reads the script, runs nothing
			c.Stdin = strings.NewReader(out)
			if output, err := c.CombinedOutput(); err != nil || len(output) > 0 {
				t.Errorf("%s does not take the script: %v %s", shell, err, output)
			}
		}
	}
}

// Without the package bash-completion, bash completes a word and a word after =, and
// completes nothing, without a message, if nothing matches.
func TestBashCompletionWithoutItsPackage(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("NOT TESTED: there is no bash")
	}
	out, _ := newRig(t, threeVolumes).must(t, exitDone, "completion", "bash")
	for line, want := range map[string]string{
		"imxcrypt un":                `words "un"|reply unlock`,
		"imxcrypt unlock ":           `words "unlock" ""|reply unlock`,
		"imxcrypt --log-level=un":    `words "--log-level=un"|reply unlock`,
		"imxcrypt unlock nothing":    `words "unlock" "nothing"|reply `,
		"imxcrypt status --state no": `words "status" "--state" "no"|reply `,
	} {
		// The stand-in for the program records its arguments in a file.
		c := exec.Command(bash, "--norc", "--noprofile", "-c", out+`
imxcrypt() { shift; printf ' "%s"' "$@" >&3; printf 'unlock\n:4\n'; }
compopt() { :; }
COMP_LINE=$LINE COMP_POINT=${#LINE} COMP_TYPE=9
exec 3>&1; printf words
__start_imxcrypt
printf '|reply %s' "${COMPREPLY[*]}"`)
		c.Env = []string{"LINE=" + line, "PATH=/usr/bin:/bin"}
		if got, err := c.CombinedOutput(); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; expected %q", line, got, err, want)
		}
	}
}
