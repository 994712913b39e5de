// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"os"
	"strings"
	"testing"
)

const mergeFile = "testdata/merge.txt"

// testdata/merge.txt reads like a session, as testdata/messages.txt does: below a line
// "=== what it shows" the files, each below "--- " and its name, then below "--- says"
// the errors for them together, or the merged configuration.
func TestMerge(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(mergeFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(data), "=== ")
	out := head
	for section := range strings.SplitSeq(rest, "\n=== ") {
		title, body, _ := strings.Cut(section, "\n")
		input, want, _ := strings.Cut(body, "--- says\n")
		var files []source
		for part := range strings.SplitSeq(strings.TrimPrefix(input, "--- "), "\n--- ") {
			name, text, _ := strings.Cut(part, "\n")
			files = append(files, source{name, []byte(text)})
		}
		c, err := merge("main.yaml", files)
		got := ""
		if err != nil {
			got = err.Error() + "\n"
		} else {
			// Only what a file gives: defaults are tested elsewhere.
			for line := range strings.Lines(string(c.Origins(nil))) {
				if !strings.HasSuffix(line, "# default\n") {
					got += line
				}
			}
		}
		out += "=== " + title + "\n" + input + "--- says\n" + got + "\n"
		if !*update && strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s\n%s\nsays:\n%s\nwant:\n%s", title, input, got, want)
		}
	}
	if *update {
		if err := os.WriteFile(mergeFile, []byte(strings.TrimRight(out, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// The origins are comments, so the output loads again.
func TestOriginsLoadAgain(t *testing.T) {
	t.Parallel()
	c, err := merge("main.yaml", []source{{"main\n#.yaml", []byte("state_dir: \"/a # b\"\n")}, {"b.yaml", []byte(small)}})
	if err != nil {
		t.Fatal(err)
	}
	shown := c.Origins(map[string]string{"allow_insecure": "--allow-insecure"})
	again, err := Parse("x.yaml", shown)
	if err != nil || string(again.YAML()) != string(c.YAML()) {
		t.Errorf("%v\n%s", err, shown)
	}
	for _, want := range []string{`"/a # b"`, "# main?#.yaml:1\n", "  # --allow-insecure\n", "device: /dev/sda", "  # b.yaml:1\n"} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("%q is missing in\n%s", want, shown)
		}
	}
}

func FuzzMerge(f *testing.F) {
	data, err := os.ReadFile(mergeFile)
	if err != nil {
		f.Fatal(err)
	}
	for section := range strings.SplitSeq(string(data), "\n=== ") {
		_, body, _ := strings.Cut(section, "\n")
		input, _, _ := strings.Cut(body, "--- says\n")
		if parts := strings.Split(input, "--- "); len(parts) > 2 {
			_, a, _ := strings.Cut(parts[1], "\n")
			_, b, _ := strings.Cut(parts[2], "\n")
			f.Add([]byte(a), []byte(b))
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		c, err := merge("a", []source{{"a", a}, {"b", b}})
		if err != nil {
			var all *Errors
			if !errors.As(err, &all) || len(all.Problems) == 0 || len(all.Problems) > maxProblems {
				t.Fatalf("error is %#v", err)
			}
			for _, p := range all.Problems {
				if p.Err != nil || p.Reason == "" || p.File != "a" && p.File != "b" {
					t.Errorf("a problem that only viper saw, or without a reason or a file: %v", p)
				}
			}
			return
		}
		// What is refused in each file alone is also refused in both together, except for
		// volumes that only one of them gives.
		for _, text := range [][]byte{a, b} {
			if _, err := Parse("x", text); err != nil && !strings.Contains(err.Error(), "volumes: is missing") {
				t.Errorf("taken together, refused alone: %v", err)
			}
		}
		again, err := Parse("x", c.Origins(nil))
		if err != nil || string(again.YAML()) != string(c.YAML()) {
			t.Errorf("%v: shown as\n%s", err, c.Origins(nil))
		}
	})
}
