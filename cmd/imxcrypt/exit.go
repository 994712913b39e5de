// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/fault"
)

// exitCodes returns the section on exit codes of a command's help: the codes that
// every command has, and the given ones.
func exitCodes(more ...fault.Exit) string {
	var b strings.Builder
	b.WriteString("Exit codes:")
	for e := fault.ExitDone; e <= fault.ExitHeaderDamaged; e++ {
		if e <= fault.ExitUsage || slices.Contains(more, e) {
			fmt.Fprintf(&b, "\n  %d  %v", e, e)
		}
	}
	return b.String()
}
