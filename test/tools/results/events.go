// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is a line of `go test -json` (go doc test2json), and of the build
// (go help buildjson).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// record is a test, or a package if the name is empty.
type record struct {
	output strings.Builder
	parent bool // has subtests
	failed bool // it, or a subtest
}

type reader struct {
	out     io.Writer
	verbose bool
	step    step
	tests   map[string]map[string]*record // package → test
}

// readTests follows a run, prints each package with its failures when it ends, and
// returns the counts.
func readTests(in io.Reader, out io.Writer, name string, verbose bool) (step, error) {
	r := &reader{out: out, verbose: verbose, step: step{Name: name}, tests: map[string]map[string]*record{}}
	lines := bufio.NewReader(in)
	seen := false
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			seen = true
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				fmt.Fprint(out, line) // go's own messages
			} else {
				r.take(e)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r.step, err
		}
	}
	if !seen {
		return r.step, errors.New("no events of tests on standard input")
	}
	return r.step, nil
}

func (r *reader) test(pkg, name string) *record {
	if r.tests[pkg] == nil {
		r.tests[pkg] = map[string]*record{}
	}
	t := r.tests[pkg][name]
	if t == nil {
		t = &record{}
		r.tests[pkg][name] = t
	}
	return t
}

// parentOf returns the name of the test to which a subtest belongs, or "".
func (r *reader) parentOf(pkg, name string) string {
	for {
		i := strings.LastIndex(name, "/")
		if i < 0 {
			return ""
		}
		// A subtest's own name may contain slashes.
		if name = name[:i]; r.tests[pkg][name] != nil {
			return name
		}
	}
}

func (r *reader) take(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "run":
		r.test(e.Package, e.Test)
		if p := r.parentOf(e.Package, e.Test); p != "" {
			r.test(e.Package, p).parent = true
		}
	case "output":
		r.test(e.Package, e.Test).output.WriteString(e.Output)
		r.cost(e)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnded(e)
		} else {
			r.testEnded(e)
		}
	}
}

// cost adds up the processor time of machines that test/vm logs, by the name of the
// test without its subtests.
func (r *reader) cost(e event) {
	_, text, found := strings.Cut(e.Output, ": vm: used ")
	var seconds float64
	if !found || e.Test == "" {
		return
	}
	if n, _ := fmt.Sscanf(text, "%f s of processor time", &seconds); n != 1 {
		return
	}
	top, _, _ := strings.Cut(e.Test, "/")
	if r.step.Machines == nil {
		r.step.Machines = map[string]float64{}
	}
	r.step.Machines[strings.TrimPrefix(e.Package, "imxcrypt/")+"."+top] += seconds
}

func (r *reader) testEnded(e event) {
	t := r.test(e.Package, e.Test)
	short := strings.TrimPrefix(e.Package, "imxcrypt/") + "." + e.Test
	if r.verbose && strings.Count(e.Test, "/") < 4 {
		fmt.Fprintf(r.out, "%-4s %7.1f s  %s\n", e.Action, e.Elapsed, short)
	}
	if e.Action == "fail" {
		if !t.failed { // no subtest has reported the reason
			r.step.Failed = append(r.step.Failed, short)
			r.step.said(short, t.output.String())
			fmt.Fprintf(r.out, "FAIL %s\n%s", short, t.output.String())
		} else if text := ownOutput(t.output.String()); text != "" {
			fmt.Fprintf(r.out, "FAIL %s\n%s", short, text)
		}
		for name := e.Test; ; {
			r.test(e.Package, name).failed = true
			if name = r.parentOf(e.Package, name); name == "" {
				break
			}
		}
		r.test(e.Package, "").failed = true
	}
	switch {
	case t.parent:
	case e.Action == "pass":
		r.step.Passed++
	case e.Action == "skip":
		reason := strings.Join(strings.Fields(ownOutput(t.output.String())), " ")
		r.step.Skipped = append(r.step.Skipped, short+": "+reason)
		fmt.Fprintf(r.out, "SKIP %s: %s\n", short, reason)
	}
	t.output.Reset()
}

// said keeps the last lines of a failed test for the summary, without what test/vm adds
// at the end of a failed test. If the log is long, the summary is often all that one
// sees.
func (s *step) said(test, output string) {
	var own []string
	machine := false
	for _, line := range strings.Split(strings.TrimRight(ownOutput(output), "\n"), "\n") {
		if place, text, found := strings.Cut(line, ": "); found && strings.HasSuffix(strings.TrimRight(place, "0123456789"), "_test.go:") {
			machine = strings.HasPrefix(text, "--- end of the ") || strings.HasPrefix(text, "vm: used ")
		}
		if !machine {
			own = append(own, strings.TrimSpace(line))
		}
	}
	if s.Said == nil {
		s.Said = map[string][]string{}
	}
	s.Said[test] = own[max(0, len(own)-saidLines):]
}

// ownOutput removes the marks that go test itself writes.
func ownOutput(text string) string {
	var own strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		word := strings.TrimSpace(line)
		if word != "" && !strings.HasPrefix(word, "=== ") && !strings.HasPrefix(word, "--- ") {
			own.WriteString(line)
		}
	}
	return own.String()
}

func (r *reader) packageEnded(e event) {
	t := r.test(e.Package, "")
	switch {
	case e.Action == "fail" && !t.failed:
		// The package did not compile, or it crashed or ran out of time: the tests that
		// were running have reported nothing.
		r.step.Failed = append(r.step.Failed, e.Package)
		fmt.Fprintf(r.out, "FAIL %s\n%s", e.Package, t.output.String())
		for name, test := range r.tests[e.Package] {
			if name != "" && test.output.Len() > 0 {
				fmt.Fprintf(r.out, "--- output of %s\n%s", name, test.output.String())
			}
		}
	case e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL %s %.1f s\n", e.Package, e.Elapsed)
	case e.Action == "pass":
		fmt.Fprintf(r.out, "ok   %s %.1f s\n", e.Package, e.Elapsed)
	}
	delete(r.tests, e.Package)
}
