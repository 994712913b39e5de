// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// resultJSON is one volume's result in JSON output, one line each.
type resultJSON struct {
	volume.Result
	OK    bool     `json:"ok"`
	Error *problem `json:"error"`
}

// failureJSON is the line of a command that failed without printing another line.
type failureJSON struct {
	OK    bool     `json:"ok"`
	Error *problem `json:"error"`
}

// printResult prints the result of an operation, as text with say or as JSON. The caller
// prints the operation's error, unless the output is JSON.
func (a *app) printResult(r volume.Result, err error, say func(volume.Result) string) error {
	a.audit(r, err)
	for _, w := range r.Warnings {
		a.log.Warn(w, "volume", r.Volume)
	}
	if a.json {
		a.printed = a.printed || err != nil
		if a.operation == "provision" {
			return a.printJSON(a.provisionLine(r, err))
		}
		return a.printJSON(resultJSON{Result: r, OK: err == nil, Error: a.problemOf(r.Volume, err)})
	}
	if a.verbose {
		for _, s := range r.Steps {
			fmt.Fprintf(a.stderr, "%s: %s%s\n", r.Volume, s.What, durationText(time.Duration(s.Took)))
		}
	}
	if err == nil {
		fmt.Fprintln(a.stdout, say(r))
	}
	return nil
}

// sentence describes in one line the state that a volume is in now.
func sentence(r volume.Result) string {
	var b strings.Builder
	b.WriteString(r.Volume + ": ")
	switch {
	case r.Mounted != "":
		fmt.Fprintf(&b, "mounted on %s", r.Mounted)
	case r.Mapping != "":
		fmt.Fprintf(&b, "unlocked as %s", r.Mapping)
	default:
		b.WriteString("provisioned, locked")
	}
	if r.Already {
		b.WriteString(" (already)")
	}
	return b.String()
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.1f ms)", float64(d)/float64(time.Millisecond))
}

// printPlan prints the steps of a dry run.
func (a *app) printPlan(r volume.Result, err error) error {
	if a.json {
		a.printed = a.printed || err != nil
		return a.printJSON(resultJSON{Result: r, OK: err == nil, Error: a.problemOf(r.Volume, err)})
	}
	for _, w := range r.Warnings {
		a.log.Warn(w, "volume", r.Volume)
	}
	if err != nil {
		return nil
	}
	if len(r.Steps) == 0 {
		fmt.Fprintf(a.stdout, "%s: would do nothing\n", r.Volume)
	}
	for _, s := range r.Steps {
		fmt.Fprintf(a.stdout, "%s: would %s\n", r.Volume, s.What)
	}
	return nil
}

// eachPlan is each for dry runs.
func (a *app) eachPlan(ctx context.Context, list []spec.Volume, do operation) error {
	var errs []error
	for _, s := range list {
		r, err := do(ctx, s)
		errs = append(errs, a.printPlan(r, err), err)
	}
	return errors.Join(errs...)
}
