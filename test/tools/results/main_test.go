// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func events(t *testing.T, list ...event) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	for _, e := range list {
		if err := json.NewEncoder(&out).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	return &out
}

func TestTestsWithoutSubtestsAreCounted(t *testing.T) {
	var printed strings.Builder
	in := events(t,
		event{Action: "run", Package: "imxcrypt/a", Test: "TestOne"},
		event{Action: "run", Package: "imxcrypt/a", Test: "TestOne/good"},
		event{Action: "run", Package: "imxcrypt/a", Test: "TestOne/bad"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne/bad", Output: "    a_test.go:1: wrong\n"},
		event{Action: "pass", Package: "imxcrypt/a", Test: "TestOne/good"},
		event{Action: "fail", Package: "imxcrypt/a", Test: "TestOne/bad"},
		event{Action: "fail", Package: "imxcrypt/a", Test: "TestOne"},
		event{Action: "run", Package: "imxcrypt/a", Test: "TestTwo"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestTwo", Output: "=== RUN   TestTwo\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestTwo", Output: "    a_test.go:9: no device\n"},
		event{Action: "skip", Package: "imxcrypt/a", Test: "TestTwo"},
		event{Action: "fail", Package: "imxcrypt/a"},
		event{Action: "run", Package: "imxcrypt/b", Test: "TestEndless"},
		event{Action: "output", Package: "imxcrypt/b", Test: "TestEndless", Output: "panic: test timed out\n"},
		event{Action: "fail", Package: "imxcrypt/b"},
		event{Action: "build-output", ImportPath: "imxcrypt/c", Output: "c.go:1: syntax error\n"},
		event{Action: "fail", Package: "imxcrypt/c"},
		event{Action: "skip", Package: "imxcrypt/without-tests"},
	)
	got, err := readTests(in, &printed, "unit", false)
	if err != nil {
		t.Fatal(err)
	}
	if got.Passed != 1 {
		t.Errorf("%d passed, want 1", got.Passed)
	}
	if want := []string{"a.TestOne/bad", "imxcrypt/b", "imxcrypt/c"}; !slices.Equal(got.Failed, want) {
		t.Errorf("failed %q, want %q", got.Failed, want)
	}
	if want := []string{"a.TestTwo: a_test.go:9: no device"}; !slices.Equal(got.Skipped, want) {
		t.Errorf("skipped %q, want %q", got.Skipped, want)
	}
	for _, text := range []string{"a_test.go:1: wrong", "test timed out", "syntax error"} {
		if !strings.Contains(printed.String(), text) {
			t.Errorf("%q is not printed:\n%s", text, printed.String())
		}
	}
}

func TestNothingToReadIsNoSuccess(t *testing.T) {
	if _, err := readTests(strings.NewReader(""), &strings.Builder{}, "unit", false); err == nil {
		t.Error("no events, and no error")
	}
}

func TestSummary(t *testing.T) {
	dir := t.TempDir()
	if _, err := summarize(&strings.Builder{}, dir); err == nil {
		t.Error("no results, and no error")
	}
	for _, step := range []string{"gofmt", "vet"} {
		if _, err := run(dir, step, false, step == "gofmt", step == "vet", false); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	ok, err := summarize(&out, dir)
	if ok || err != nil || !strings.HasSuffix(out.String(), "\n1 passed, 1 failed, 0 skipped\n") {
		t.Errorf("%v, %v:\n%s", ok, err, out.String())
	}
	if !strings.Contains(out.String(), "FAILED\n  vet: vet") {
		t.Errorf("the failure is not named:\n%s", out.String())
	}
}

func TestTheSummarySaysWhy(t *testing.T) {
	dir := t.TempDir()
	got, err := readTests(events(t,
		event{Action: "run", Package: "imxcrypt/a", Test: "TestOne"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne", Output: "=== RUN   TestOne\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne", Output: "    a_test.go:12: the file is lost:\n        sum differs\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne", Output: "    b_test.go:9: --- end of the kernel log\n        [ 1.0] EXT4-fs\n        ---\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne", Output: "    b_test.go:9: vm: used 1.0 s of processor time\n--- FAIL: TestOne (1.00s)\n"},
		event{Action: "fail", Package: "imxcrypt/a", Test: "TestOne"},
	), &strings.Builder{}, "vmtest", false)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vmtest.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := summarize(&out, dir); err != nil {
		t.Fatal(err)
	}
	want := "\n!!! FAILED\n  vmtest: a.TestOne\n      a_test.go:12: the file is lost:\n      sum differs\n\n0 passed, 1 failed"
	if !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwithout %s", out.String(), want)
	}
}

func TestWhatMachinesCost(t *testing.T) {
	in := events(t,
		event{Action: "run", Package: "imxcrypt/a", Test: "TestOne/arm64"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne/arm64", Output: "    a_test.go:1: vm: used 12.5 s of processor time\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestOne", Output: "    a_test.go:9: vm: used 2.5 s of processor time\n"},
		event{Action: "output", Package: "imxcrypt/a", Test: "TestTwo", Output: "    a_test.go:9: vm: used 20.0 s of processor time\n"},
		event{Action: "pass", Package: "imxcrypt/a", Test: "TestTwo"},
	)
	got, err := readTests(in, &strings.Builder{}, "vmtest", false)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"    35 s  in all, of which:", "    20 s  a.TestTwo", "    15 s  a.TestOne"}
	if lines := costs(got.Machines); !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}
