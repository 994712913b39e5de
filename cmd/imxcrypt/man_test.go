// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// shown returns all commands that users may see, except cobra's own.
func shown(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if !c.Hidden && c.Name() != "help" {
			all = append(all, shown(c)...)
		}
	}
	return all
}

// The manual pages are made from the commands' help.
func TestManualPagesAreUpToDate(t *testing.T) {
	t.Parallel()
	pages := map[string]bool{}
	for _, c := range shown((&app{}).root()) {
		name := "docs/man/" + strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		pages[name] = true
		page := manualPage(c)
		for _, section := range regexp.MustCompile(`(?m)^\.SH .*$`).FindAllString(page, -1) {
			if strings.Count(page, section+"\n") != 1 {
				t.Errorf("%s has %q twice", name, section)
			}
		}
		generated(t, name, page)
	}
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	pages["docs/man/imxcrypt.yaml.5"] = true
	generated(t, "docs/man/imxcrypt.yaml.5", configurationPage(string(text)))

	have, err := filepath.Glob("../../docs/man/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if name := strings.TrimPrefix(path, "../../"); !pages[name] {
			t.Errorf("%s is the page of no command", name)
		}
	}
}

// roff escapes text for a line of man(7).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "→", "->").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func example(b *strings.Builder, text string) {
	b.WriteString(".EX\n")
	for _, line := range strings.Split(strings.Trim(text, "\n"), "\n") {
		b.WriteString(roff(line) + "\n")
	}
	b.WriteString(".EE\n")
}

func manualPage(c *cobra.Command) string {
	var b strings.Builder
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	b.WriteString(".\\\" Made from the program's help by the tests of cmd/imxcrypt.\n")
	b.WriteString(".TH " + strings.ToUpper(name) + " 1 \"\" imxcrypt imxcrypt\n.SH NAME\n")
	b.WriteString(roff(name) + ` \- ` + roff(c.Short) + "\n.SH SYNOPSIS\n.B " + roff(c.CommandPath()) + "\n")
	if c.HasAvailableSubCommands() {
		b.WriteString(`\fICOMMAND\fR [\fIOPTION\fR...]` + "\n")
	} else {
		_, args, _ := strings.Cut(c.Use, " ")
		b.WriteString(strings.TrimSpace(`[\fIOPTION\fR...] `+roff(args)) + "\n")
	}
	long, codes, _ := strings.Cut(c.Long, "Exit codes:\n")
	if strings.TrimSpace(long) == "" {
		long = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
	}
	b.WriteString(".SH DESCRIPTION\n")
	prose(&b, long)
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, s := range c.Commands() {
			if !s.Hidden && s.Name() != "help" && s.Name() != "completion" {
				b.WriteString(".TP\n.B " + roff(s.Name()) + "\n" + roff(s.Short) + "\n")
			}
		}
	}
	// imxcrypt's own options are the global ones: one section is enough.
	options(&b, "OPTIONS", c.LocalFlags())
	options(&b, "GLOBAL OPTIONS", c.InheritedFlags())
	if codes != "" {
		b.WriteString(".SH EXIT STATUS\n")
		for _, line := range strings.Split(strings.TrimSpace(codes), "\n") {
			code, what, _ := strings.Cut(strings.TrimSpace(line), " ")
			b.WriteString(".TP\n.B " + code + "\n" + roff(strings.TrimSpace(what)) + "\n")
		}
	}
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n")
		example(&b, c.Example)
	}
	b.WriteString(".SH SEE ALSO\n")
	if c.HasParent() {
		b.WriteString(".BR imxcrypt (1),\n")
	}
	b.WriteString(".BR imxcrypt.yaml (5)\n")
	return b.String()
}

// prose formats the long help: paragraphs, and indented examples.
func prose(b *strings.Builder, text string) {
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(p, "  ") {
			example(b, p)
			continue
		}
		for _, line := range strings.Split(p, "\n") {
			b.WriteString(roff(strings.TrimSpace(line)) + "\n")
		}
	}
}

func options(b *strings.Builder, title string, flags *pflag.FlagSet) {
	var list strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		line := roff("--" + f.Name)
		if f.Shorthand != "" {
			line = roff("-"+f.Shorthand) + ", " + line
		}
		list.WriteString(".TP\n\\fB" + line + `\fR`)
		if value != "" {
			list.WriteString(` \fI` + roff(value) + `\fR`)
		}
		list.WriteString("\n" + roff(usage))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			list.WriteString(" (default " + roff(f.DefValue) + ")")
		}
		list.WriteString("\n")
	})
	if list.Len() > 0 {
		b.WriteString(".SH " + title + "\n" + list.String())
	}
}

// configurationPage makes imxcrypt.yaml(5) from the page about the configuration.
// It knows the Markdown used there: headings, paragraphs, lists, tables,
// fenced blocks.
func configurationPage(text string) string {
	var b strings.Builder
	b.WriteString(".\\\" Made from docs/configuration.md by the tests of cmd/imxcrypt.\n")
	b.WriteString(".TH IMXCRYPT.YAML 5 \"\" imxcrypt imxcrypt\n.SH NAME\nimxcrypt.yaml \\- configuration of imxcrypt(1)\n.SH DESCRIPTION\n")
	text = regexp.MustCompile(`(?s)<!--.*?-->\n?`).ReplaceAllString(text, "")
	_, text, _ = strings.Cut(text, "\n") // the title
	fenced, table := false, 0
	for _, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			b.WriteString(map[bool]string{true: ".PP\n.RS 4\n.EX\n", false: ".EE\n.RE\n"}[fenced])
		case fenced:
			b.WriteString(roff(line) + "\n")
		case strings.HasPrefix(line, "### "):
			b.WriteString(".SS " + inline(line[4:]) + "\n")
		case strings.HasPrefix(line, "## "):
			b.WriteString(".SH " + strings.ToUpper(inline(line[3:])) + "\n")
		case strings.HasPrefix(line, "|"):
			// The first two rows are the table's head.
			if table++; table > 2 {
				cells := strings.Split(strings.Trim(line, "| "), " | ")
				b.WriteString(".TP\n" + inline(cells[0]) + "\n" + inline(strings.Join(cells[1:], "; ")) + "\n")
			}
			continue
		case strings.HasPrefix(line, "- "):
			b.WriteString(".IP \\(bu 2\n" + inline(line[2:]) + "\n")
		case strings.TrimSpace(line) == "":
			b.WriteString(".PP\n")
		default:
			b.WriteString(inline(strings.TrimSpace(line)) + "\n")
		}
		table = 0
	}
	page := regexp.MustCompile(`(\.PP\n)+`).ReplaceAllString(b.String(), ".PP\n")
	page = regexp.MustCompile(`\.PP\n(\.S[HS]|\.IP|\.TP)`).ReplaceAllString(page, "$1")
	page = regexp.MustCompile(`(\.S[HS] [^\n]*\n)\.PP\n`).ReplaceAllString(page, "$1")
	return strings.TrimSuffix(page, ".PP\n") + ".SH SEE ALSO\n.BR imxcrypt (1)\n"
}

// inline replaces links by their text, and marks by fonts.
func inline(s string) string {
	s = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(s, "$1")
	s = roff(s)
	s = regexp.MustCompile("`([^`]*)`").ReplaceAllString(s, `\fB$1\fR`)
	return regexp.MustCompile(`\*\*([^*]*)\*\*`).ReplaceAllString(s, `\fB$1\fR`)
}
