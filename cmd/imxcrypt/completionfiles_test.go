// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// The completion scripts to be installed are the ones that the program prints: to install
// them, nothing needs to be built or run.
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
