// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

var update = flag.Bool("update", false, "regenerate testdata/messages.txt and docs/configuration.md")

// testdata/messages.txt reads like a session: below a line "=== what it shows" is a file
// as it might be written, below "--- says" what imxcrypt says about it. \t, \r, \0 and
// \xNN stand for bytes that an editor would not show.
const messagesFile = "testdata/messages.txt"

func TestMessages(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(messagesFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(data), "=== ")
	out := head
	seen := map[string]bool{}
	for section := range strings.SplitSeq(rest, "\n=== ") {
		title, body, _ := strings.Cut(section, "\n")
		input, want, _ := strings.Cut(body, "--- says\n")
		got := messages(input)
		out += "=== " + title + "\n" + input + "--- says\n" + got + "\n"
		if seen[title] {
			t.Errorf("two cases are called %q", title)
		}
		seen[title] = true
		if !*update && strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s\n%s\nsays:\n%s\nwant:\n%s", title, input, got, want)
		}
	}
	if *update {
		if err := os.WriteFile(messagesFile, []byte(strings.TrimRight(out, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func messages(input string) string {
	input = strings.NewReplacer(`\t`, "\t", `\r`, "\r", `\0`, "\x00", `\xff`, "\xff", `\xBOM`, "\ufeff").Replace(input)
	_, err := Parse("imxcrypt.yaml", []byte(input))
	if err == nil {
		return "(nothing)\n"
	}
	return err.Error() + "\n"
}

func TestErrorsCarryTheirCode(t *testing.T) {
	t.Parallel()
	_, err := Parse("x.yaml", []byte("volumes: 3\nfoo: 1\n"))
	var all *Errors
	if !errors.As(err, &all) || len(all.Problems) != 2 || !fault.Is(err, fault.ConfigInvalid) {
		t.Fatalf("got %#v", err)
	}
	var one *Error
	if !errors.As(err, &one) || one.Line != 1 || one.Column != 10 || one.Field != "volumes" {
		t.Fatalf("first problem: %#v", one)
	}
}

func TestManyProblemsAreCounted(t *testing.T) {
	t.Parallel()
	_, err := Parse("x.yaml", []byte("volumes: []\n"+strings.Repeat("? x\n", 80)))
	var all *Errors
	if !errors.As(err, &all) || len(all.Problems) != maxProblems || all.More != 80-maxProblems {
		t.Fatalf("got %v", err)
	}
	if !strings.HasSuffix(err.Error(), "x.yaml: and 30 more") {
		t.Errorf("ends with: %s", err.Error()[len(err.Error())-60:])
	}
}

func TestUnknownVolume(t *testing.T) {
	t.Parallel()
	c := parse(t, "volumes: [{name: data, device: /dev/sda}]")
	if v, err := c.Volume("data"); err != nil || v.Device != "/dev/sda" {
		t.Fatalf("%v, %v", v, err)
	}
	_, err := c.Volume("dat")
	if !fault.Is(err, fault.VolumeUnknown) || err.Error() != `no volume "dat" in test.yaml (did you mean "data"?)` {
		t.Errorf("got %v", err)
	}
}
