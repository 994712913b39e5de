// SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

type state int

const (
	stateFailed state = iota // or never ended
	statePassed
	stateSkipped
)

// testResult is one test of a test binary's verbose output.
type testResult struct {
	name   string
	state  state
	output string
}

var (
	verboseMark   = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(\S+)$`)
	verboseResult = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+) \(`)
)

// parseVerbose reads the output of a test binary run with -test.v. It reports tests
// without subtests, in the order of their start. A test with subtests is reported only
// if it failed and no subtest did. A test that began and did not end has failed (the
// binary crashed in it).
func parseVerbose(output string) []testResult {
	var order []string
	tests := map[string]*testResult{}
	var current *testResult
	for _, line := range strings.Split(output, "\n") {
		if mark := verboseMark.FindStringSubmatch(line); mark != nil {
			current = tests[mark[2]]
			if current == nil {
				current = &testResult{name: mark[2]}
				tests[mark[2]] = current
				order = append(order, mark[2])
			}
			continue
		}
		if result := verboseResult.FindStringSubmatch(line); result != nil {
			// What follows is this test's own output until the next mark.
			if current = tests[result[2]]; current != nil {
				current.state = map[string]state{"PASS": statePassed, "FAIL": stateFailed, "SKIP": stateSkipped}[result[1]]
			}
			continue
		}
		if current != nil && line != "" {
			current.output += line + "\n"
		}
	}
	var results []testResult
	for _, name := range order {
		parent, explained := false, false
		for _, other := range order {
			if strings.HasPrefix(other, name+"/") {
				parent = true
				explained = explained || tests[other].state == stateFailed
			}
		}
		if !parent || tests[name].state == stateFailed && !explained {
			results = append(results, *tests[name])
		}
	}
	return results
}

func TestVerboseOutputIsUnderstood(t *testing.T) {
	output := strings.Join([]string{
		"=== RUN   TestA", "--- PASS: TestA (0.00s)",
		"=== RUN   TestB", "=== RUN   TestB/one", "    b_test.go:3: one is wrong", "=== RUN   TestB/two",
		"--- FAIL: TestB (0.01s)", "    --- FAIL: TestB/one (0.00s)", "    --- PASS: TestB/two (0.00s)",
		"=== RUN   TestC", "    c_test.go:9: no such device", "--- SKIP: TestC (0.00s)",
		"=== RUN   TestD", "=== RUN   TestD/fine", "    d_test.go:4: afterwards it was wrong",
		"--- FAIL: TestD (0.01s)", "    --- PASS: TestD/fine (0.00s)",
		"=== RUN   TestE", "panic: oh", "",
	}, "\n")
	want := []testResult{
		{"TestA", statePassed, ""},
		{"TestB/one", stateFailed, "    b_test.go:3: one is wrong\n"},
		{"TestB/two", statePassed, ""},
		{"TestC", stateSkipped, "    c_test.go:9: no such device\n"},
		{"TestD", stateFailed, ""},
		{"TestD/fine", statePassed, "    d_test.go:4: afterwards it was wrong\n"},
		{"TestE", stateFailed, "panic: oh\n"},
	}
	if got := parseVerbose(output); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
