// SPDX-License-Identifier: Apache-2.0

// Results counts tests. It reads `go test -json` and prints what a person wants to see
// of it; it records the results of other steps of `make test`; and it summarizes
// everything.
//
//	go test -json ./... | results -dir DIR -step unit [-v]
//	results -dir DIR -step vet -passed|-failed
//	results -dir DIR -summary
//
// Exit codes: 0 all passed, 1 something failed, 2 usage.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// step is the result of one step of a run. Only tests without subtests are counted.
type step struct {
	Name    string   `json:"name"`
	Passed  int      `json:"passed"`
	Failed  []string `json:"failed"`
	Skipped []string `json:"skipped"` // with the reason
	// The last lines of a test that has failed.
	Said map[string][]string `json:"said,omitempty"`
	// Seconds of processor time that the virtual machines of a test have used,
	// including its subtests.
	Machines map[string]float64 `json:"machines,omitempty"`
}

// dearest is the number of tests that the summary lists with their machines' processor
// time.
const dearest = 20

// saidLines is the number of lines of a failed test that the summary repeats.
const saidLines = 12

func main() {
	var (
		dir     = flag.String("dir", "", "folder of the run's results")
		name    = flag.String("step", "", "name of the step")
		passed  = flag.Bool("passed", false, "record the step as passed")
		failed  = flag.Bool("failed", false, "record the step as failed")
		summary = flag.Bool("summary", false, "sum up all steps")
		verbose = flag.Bool("v", false, "name every test as it ends")
	)
	flag.Parse()
	if *dir == "" || flag.NArg() != 0 || *summary == (*name != "") || *passed && *failed {
		flag.Usage()
		os.Exit(2)
	}
	ok, err := run(*dir, *name, *summary, *passed, *failed, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(dir, name string, summary, passed, failed, verbose bool) (bool, error) {
	if summary {
		return summarize(os.Stdout, dir)
	}
	s := step{Name: name}
	switch {
	case passed:
		s.Passed = 1
	case failed:
		s.Failed = []string{name}
	default:
		var err error
		if s, err = readTests(os.Stdin, os.Stdout, name, verbose); err != nil {
			return false, err
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	return len(s.Failed) == 0, os.WriteFile(filepath.Join(dir, name+".json"), text, 0o644)
}

// summarize prints every step, what failed and what was skipped, and a last line with
// three numbers.
func summarize(out io.Writer, dir string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return false, err
	}
	if len(files) == 0 {
		return false, fmt.Errorf("no results in %s", dir)
	}
	sort.Strings(files)
	all := step{Machines: map[string]float64{}}
	var why []string // the failed tests, with the last lines of each
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		var s step
		if err := json.Unmarshal(text, &s); err != nil {
			return false, fmt.Errorf("%s: %w", file, err)
		}
		fmt.Fprintf(out, "%-16s %5d passed %4d failed %4d skipped\n", s.Name, s.Passed, len(s.Failed), len(s.Skipped))
		all.Passed += s.Passed
		for _, f := range s.Failed {
			all.Failed = append(all.Failed, s.Name+": "+f)
			why = append(why, s.Name+": "+f)
			for _, line := range s.Said[f] {
				why = append(why, "    "+line)
			}
		}
		for _, k := range s.Skipped {
			all.Skipped = append(all.Skipped, s.Name+": "+k)
		}
		maps.Copy(all.Machines, s.Machines)
	}
	list := func(title string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(out, "\n%s\n  %s\n", title, strings.Join(lines, "\n  "))
		}
	}
	list("Processor time of virtual machines", costs(all.Machines))
	list("!!! SKIPPED: these have proved nothing", all.Skipped)
	list("!!! FAILED", why)
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", all.Passed, len(all.Failed), len(all.Skipped))
	return len(all.Failed) == 0, nil
}

// costs returns a line with the sum, and a line for each of the tests whose machines
// used most.
func costs(machines map[string]float64) []string {
	if len(machines) == 0 {
		return nil
	}
	names := slices.SortedFunc(maps.Keys(machines), func(a, b string) int {
		return cmp.Or(cmp.Compare(machines[b], machines[a]), cmp.Compare(a, b))
	})
	var sum float64
	var lines []string
	for i, name := range names {
		sum += machines[name]
		if i < dearest {
			lines = append(lines, fmt.Sprintf("%6.0f s  %s", machines[name], name))
		}
	}
	return append([]string{fmt.Sprintf("%6.0f s  in all, of which:", sum)}, lines...)
}
