// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// The completion scripts that are installed are those that the program prints:
// nothing needs to be built, or run, to install them.
func TestCompletionScriptsAreUpToDate(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var script, messages strings.Builder
		if code := run(t.Context(), []string{"completion", shell}, strings.NewReader(""), &script, &messages, func(string) string { return "" }); code != exitDone {
			t.Fatalf("completion %s: exit code %d\n%s", shell, code, messages.String())
		}
		generated(t, "packaging/completions/imxcrypt."+shell, script.String())
	}
}
