// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"imxcrypt/internal/doctor"
	"imxcrypt/internal/secret"
)

// stateRow is a state that a volume can be in.
type stateRow struct {
	name string
	// config is the configuration, by default oneDisk.
	config string
	// how leads to the state, as a session (session_test.go). Before that, unless fresh
	// is set, the volume was made, its header was backed up to /backup, something was
	// written to it, and it was locked.
	how   string
	fresh bool
	// advice is part of the first advice.
	advice string
	// follow does what the advice says; afterwards the volume opens, and what was written
	// is there.
	follow string
	// after is the exit code of status after that.
	after int
	// lost says why nothing leads to the data.
	lost string
}

const oneDisk = `volumes:
  - {name: data, device: /dev/mmcblk2p3, mount: /data, timeout: 0s}
`

// The page docs/states.md has for each state what the commands print, and where their
// first advice leads. Each cell is what the command printed, and each advice was tried.
// In the inner loop this is done for one state in four.
func TestStatesPageIsUpToDate(t *testing.T) {
	t.Parallel()
	if err := secret.Harden(); err != nil {
		t.Skipf("NOT TESTED: %v (root may, or `ulimit -l unlimited`)", err)
	}
	rows := states()
	lines := make([]string, len(rows))
	t.Run("states", func(t *testing.T) {
		for i, r := range rows {
			t.Run(r.name, func(t *testing.T) {
				if testing.Short() && i%4 != 0 {
					t.Skip("NOT TESTED: one state in four with -short")
				}
				t.Parallel()
				lines[i] = r.line(t)
			})
		}
	})
	if !testing.Short() {
		generated(t, "docs/states.md", statesHead+strings.Join(lines, ""))
		return
	}
	page, err := os.ReadFile("../../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !bytes.Contains(page, []byte(line)) {
			t.Errorf("docs/states.md is not up to date: run make docs; it lacks\n%s", line)
		}
	}
}

// in returns a board in the state.
func (r stateRow) in(t *testing.T) *session {
	s := newSession(t)
	start := "> config\n  " + strings.ReplaceAll(strings.TrimSuffix(cmp.Or(r.config, oneDisk), "\n"), "\n", "\n  ") + "\n> disk /dev/mmcblk2p3 8\n> mkdir /data\n"
	if !r.fresh {
		start += "$ imxcrypt provision --allow-insecure data\n$ imxcrypt header backup data /backup\n> write\n$ imxcrypt lock data\n"
	}
	s.replay(start + r.how)
	return s
}

// answer is what a command printed in the state.
type answer struct {
	exit              int
	code, words, hint string
}

func (a answer) cell() string {
	if a.exit == 0 {
		return cmp.Or(a.words, "done") + " (0)"
	}
	return fmt.Sprintf("`%s` (%d)", a.code, a.exit)
}

// ask runs a command in the state.
func (r stateRow) ask(t *testing.T, args ...string) answer {
	s := r.in(t)
	exit, stdout, _ := s.exec(append(args, "--json"))
	line, _, _ := strings.Cut(stdout, "\n")
	var got struct {
		resultJSON
		Volumes []statusJSON
	}
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stdout)
	}
	a := answer{exit: exit}
	switch e := got.Error; {
	case e != nil:
		a.code, a.words, a.hint = string(e.Code), s.normalise(e.Message), e.Hint
	case got.Mounted != "":
		a.words = "mounted"
	case got.Mapping != "":
		a.words = "unlocked"
	case args[0] == "verify":
		a.words = "opens"
	}
	if exit == 0 && len(got.Warnings) > 0 {
		a.words += ", with a warning"
	}
	if args[0] != "status" || len(got.Volumes) == 0 {
		return a
	}
	v := got.Volumes[0]
	a.code = v.State
	cell := []string{v.State}
	add := func(p *problem) {
		cell = append(cell, "`"+string(p.Code)+"`")
		a.words, a.hint = cmp.Or(a.words, s.normalise(p.Message)), cmp.Or(a.hint, p.Hint)
	}
	if v.Problem != nil {
		add(v.Problem)
	}
	for _, w := range v.Warnings {
		add(&w)
	}
	if f := v.LastFailure; f != nil && v.Problem == nil {
		add(&f.problem)
	}
	a.code = strings.Join(cell, ", ")
	return a
}

// diagnosis returns what doctor reports about the volume.
func (r stateRow) diagnosis(t *testing.T) string {
	s := r.in(t)
	_, stdout, _ := s.exec([]string{"doctor", "--deep", "--json"})
	var report doctor.Report
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, c := range report.Checks {
		if c.Name != "volume data" && (c.Name != "configuration" || c.Level == doctor.OK) {
			continue
		}
		if c.Level == doctor.OK {
			found = append(found, "ok")
		} else {
			found = append(found, fmt.Sprintf("%s `%s`", c.Level, c.ID))
		}
	}
	return strings.Join(found, ", ")
}

// line runs all commands, and follows the first advice.
func (r stateRow) line(t *testing.T) string {
	status, unlock := r.ask(t, "status"), r.ask(t, "unlock", "--mount", "data")
	verify, boot := r.ask(t, "verify", "data"), r.ask(t, "boot")
	message, hint := unlock.words, unlock.hint
	if unlock.exit == 0 {
		message, hint = status.words, status.hint
	}
	first, _, _ := strings.Cut(hint, ". ")
	if !strings.Contains(first, r.advice) || (first == "") != (r.advice == "") {
		t.Errorf("the first advice is %q, not %q", first, r.advice)
	}
	if strings.Contains(first, "--wipe") || strings.Contains(first, "imxcrypt erase") && r.lost == "" {
		t.Errorf("the first advice destroys: %s", first)
	}
	if r.lost != "" && unlock.exit == 0 {
		t.Error("it is not lost: it opens")
	}
	leads := r.lost
	if r.lost == "" {
		leads = "to the data"
		if r.follow == provisionIt || r.config == scratch {
			leads = "to a new volume"
		}
		s := r.in(t)
		s.replay(r.follow + "\n> read\n")
		if exit, stdout, stderr := s.exec([]string{"status", "data"}); exit != r.after {
			t.Errorf("after that, status ends with %d:\n%s%s", exit, stdout, stderr)
		}
	}
	return fmt.Sprintf("| %s | %s (%d) | %s | %s | %s | %s | %s | %s | %s |\n", r.name, status.code, status.exit, r.diagnosis(t),
		verify.cell(), unlock.cell(), boot.cell(), cellText(message), cellText(first), leads)
}

// cellText escapes a text for a cell of a table.
func cellText(s string) string {
	return cmp.Or(strings.NewReplacer("|", `\|`, "\n", " ", "<", `\<`).Replace(s), "–")
}

// mark is written to the volume, and read back, at markAt.
const (
	mark   = "the quick brown fox"
	markAt = 3 << 20
)

// marked reads or writes the mark through the volume's mapping, which must exist.
func (s *session) marked(write bool) error {
	f, err := s.board.Mapping("data", write)
	if err != nil {
		return err
	}
	block := make([]byte, 4096)
	copy(block, mark)
	if write {
		if _, err := f.WriteAt(block, markAt); err != nil {
			return err
		}
		return f.Close()
	}
	got := make([]byte, len(block))
	if _, err := f.ReadAt(got, markAt); err != nil {
		return err
	}
	if !bytes.Equal(got, block) {
		return fmt.Errorf("what was written is not there: %.32q", got)
	}
	return f.Close()
}

const statesHead = `# The states of a volume

Made by the tests of cmd/imxcrypt from what the program says on a simulated board
(` + "`make docs`" + `). Each cell is what the command said there, with its exit code; doctor's is
what ` + "`doctor --deep`" + ` says of the volume, since its exit code is about the whole board. Each
advice was followed: the last column says whether that led to the data, or why nothing
does. The volume is called ` + "`data`" + `, required, and to be mounted on ` + "`/data`" + `;
` + "`unlock`" + ` was called with ` + "`--mount`" + `.

| state | status | doctor | verify | unlock | boot | in words | first advice | leads |
|---|---|---|---|---|---|---|---|---|
`
