// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The program has every command that a page names, with the flags given there.
func TestPagesNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)`(?:imxcrypt [^`]*)`")
	line := regexp.MustCompile(`(?m)^(?:# |    )?(imxcrypt [a-z].*)$`)
	word := regexp.MustCompile("^[a-z]+$")
	root := (&app{}).root()
	named := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := code.FindAllString(string(text), -1)
		for _, m := range line.FindAllStringSubmatch(regexp.MustCompile("(?s)`[^`\n]*`").ReplaceAllString(string(text), ""), -1) {
			found = append(found, m[1])
		}
		for _, command := range found {
			command, _, _ = strings.Cut(strings.Trim(command, "`"), " #")
			for _, end := range []string{"|", ";", "&&", ">", "<"} {
				command, _, _ = strings.Cut(command, end)
			}
			words := strings.Fields(command)[1:]
			if len(words) == 0 || !word.MatchString(words[0]) {
				continue // imxcrypt --help, imxcrypt.yaml, imxcrypt@NAME
			}
			c, rest, err := root.Find(words)
			if err != nil || c == root {
				t.Errorf("%s: there is no %q", page, command)
				continue
			}
			named++
			for _, argument := range rest {
				flag, _, _ := strings.Cut(argument, "=")
				if !strings.HasPrefix(flag, "--") || flag == "--" {
					continue
				}
				name := strings.TrimRight(strings.TrimPrefix(flag, "--"), ".,`)\"'\\")
				if c.Flag(name) == nil && c.InheritedFlags().Lookup(name) == nil && name != "help" {
					t.Errorf("%s: %q has no flag --%s", page, command, name)
				}
			}
		}
	}
	if named < 150 {
		t.Errorf("only %d commands were found", named)
	}
}
