// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/doctor"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fault/manual"
)

// The troubleshooting page is generated from the table of faults, the messages in the
// sources, and doctor's findings.
func TestTroubleshootingPageIsUpToDate(t *testing.T) {
	t.Parallel()
	generated(t, "docs/troubleshooting.md", troubleshootingPage(t))
}

func troubleshootingPage(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("<!-- Made from internal/fault and the messages of the program by `make docs`. Do not edit. -->\n\n" +
		"# Troubleshooting, by exact message\n\n" +
		"Every error has three parts: what failed and on which object, why (with the\n" +
		"kernel's own words), and a hint of what to do. The output of commands with `--json`\n" +
		"has the code that heads each entry here. What varies in a message is shown as `…`.\n\n" +
		"| code | exit code | meaning |\n|---|---|---|\n")
	entries := manual.Entries()
	for _, e := range entries {
		fmt.Fprintf(&b, "| [%s](#%s) | %d | %s |\n", e.Code, e.Code, e.Exit, e.Meaning)
	}
	messages := readMessages(t).byCode(t)
	for _, exit := range []fault.Exit{fault.ExitUsage, fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy,
		fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged, fault.ExitFailed} {
		title, _, _ := strings.Cut(exit.String(), " (")
		fmt.Fprintf(&b, "\n## %s (exit code %d)\n", strings.ToUpper(title[:1])+title[1:], exit)
		for _, e := range entries {
			if e.Exit == exit {
				writeEntry(&b, e, messages[e.Code])
			}
		}
	}
	b.WriteString("\n## What `imxcrypt doctor` says\n\n" +
		"Each finding by its `id` in `--json`. What is wrong with the configuration or a\n" +
		"volume has the code of one of the entries above.\n")
	verb := regexp.MustCompile(`%[a-z]`)
	for _, f := range doctor.Findings() {
		b.WriteString("\n### doctor: " + f.ID + "\n\n")
		b.WriteString("    " + string(f.Level) + "  " + f.Check + "  " + verb.ReplaceAllString(f.Text, "…") + "\n\n")
		b.WriteString("**What to do:** " + f.Remedy + ".\n")
	}
	return b.String()
}

// writeEntry writes an entry with its own messages, and the messages in the sources that
// are not part of one of them.
func writeEntry(b *strings.Builder, e manual.Entry, found []string) {
	fmt.Fprintf(b, "\n### %s\n\n", e.Code)
	for _, text := range e.Messages {
		b.WriteString("    " + text + "\n")
	}
	listed := len(e.Messages) > 0
	for _, text := range found {
		if !slices.ContainsFunc(e.Messages, func(whole string) bool { return strings.Contains(whole, text) }) {
			b.WriteString("    " + text + "\n")
			listed = true
		}
	}
	if listed {
		b.WriteString("\n")
	}
	b.WriteString(e.Meaning)
	if e.Cause != "" {
		b.WriteString(" " + e.Cause)
	}
	b.WriteString("\n\n**What to do:** " + e.Remedy() + "\n")
}

// The program prints the messages in package manual: each constant part of a message is a
// text in the sources, or the kernel's text for an errno.
func TestManualQuotesTheProgram(t *testing.T) {
	t.Parallel()
	texts := readMessages(t).texts
	for errno := unix.Errno(1); errno < 134; errno++ {
		texts = append(texts, errno.Error())
	}
	// cobra's and pflag's.
	texts = append(texts, "unknown flag: …")
	known := func(part string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, part) })
	}
	for _, e := range manual.Entries() {
		for _, message := range e.Messages {
			for _, part := range strings.FieldsFunc(message, func(r rune) bool { return strings.ContainsRune("…:;\"", r) }) {
				part = strings.TrimSpace(part)
				for _, varies := range []string{"FILE", "LINE", "COLUMN", "volumes[0].FIELD", "/", "--"} {
					if strings.HasPrefix(part, varies) {
						_, part, _ = strings.Cut(part, " ")
					}
				}
				if len(part) > 6 && strings.Contains(part, " ") && !known(part) {
					t.Errorf("%s: the program nowhere says %q of %q", e.Code, part, message)
				}
			}
		}
	}
}
