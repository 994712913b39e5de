// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imxcrypt/internal/fault"
)

// namespace is a mount namespace other than this process's, with the processes in it.
type namespace struct {
	processes []Process
	entries   []Entry
}

// ElsewhereError means that a filesystem stays mounted in another mount namespace.
type ElsewhereError struct {
	Target    string // as it is called there
	Processes []Process
}

func (e *ElsewhereError) Error() string {
	var who []string
	for i, p := range e.Processes {
		if i == maxNamed {
			who = append(who, fmt.Sprintf("%d more", len(e.Processes)-i))
			break
		}
		who = append(who, fmt.Sprintf("%d (%s)", p.PID, p.Command))
	}
	return fmt.Sprintf("also mounted on %s in another mount namespace, which unmounting it here does not reach: process %s", e.Target, strings.Join(who, ", "))
}

// FaultCode implements fault.Coder.
func (e *ElsewhereError) FaultCode() fault.Code { return fault.MountBusy }

// Elsewhere checks that no chosen mount stays in another mount namespace when those in
// this one are unmounted: services and containers may have copies of their own. It leaves
// out what cannot be determined: a namespace without a process is invisible. The error is
// an *ElsewhereError.
func (System) Elsewhere(chosen func(*Entry) bool) error { return elsewhere("/proc", chosen) }

func elsewhere(proc string, chosen func(*Entry) bool) error {
	ours, _ := ListAt(proc)
	others := namespaces(proc)
	masters := map[int]int{} // the group that a group follows
	for _, entries := range append([][]Entry{ours}, lists(others)...) {
		for _, e := range entries {
			if e.Shared != 0 && e.Master != 0 {
				masters[e.Shared] = e.Master
			}
		}
	}
	for _, n := range others {
		for i := range n.entries {
			if e := &n.entries[i]; chosen(e) && !slices.ContainsFunc(ours, func(our Entry) bool {
				return chosen(&our) && follows(e, n.entries, &our, ours, masters)
			}) {
				return &ElsewhereError{Target: e.Target, Processes: n.processes}
			}
		}
	}
	return nil
}

// follows reports whether the kernel unmounts e when it unmounts our: what is mounted on
// a shared mount is also unmounted from the peers of that mount, and from the mounts that
// follow them.
func follows(e *Entry, entries []Entry, our *Entry, ours []Entry, masters map[int]int) bool {
	below, above := parent(e, entries), parent(our, ours)
	if below == nil || above == nil || above.Shared == 0 || within(e, below) != within(our, above) {
		return false
	}
	if below.Shared == above.Shared {
		return true
	}
	for group, hops := below.Master, 0; group != 0 && hops <= len(masters); group, hops = masters[group], hops+1 {
		if group == above.Shared {
			return true
		}
	}
	return false
}

func parent(e *Entry, entries []Entry) *Entry {
	i := slices.IndexFunc(entries, func(p Entry) bool { return p.ID == e.Parent })
	if i < 0 || e.ID == e.Parent {
		return nil
	}
	return &entries[i]
}

// within returns a mount point's path in the filesystem that it is in.
func within(e, below *Entry) string {
	return filepath.Join(below.Root, strings.TrimPrefix(e.Target, strings.TrimSuffix(below.Target, "/")))
}

func lists(all []namespace) (entries [][]Entry) {
	for _, n := range all {
		entries = append(entries, n.entries)
	}
	return entries
}

// namespaces lists the mount namespaces other than this process's.
func namespaces(proc string) []namespace {
	own, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	processes, err2 := os.ReadDir(proc)
	if err != nil || err2 != nil {
		return nil
	}
	known := map[string]int{}
	var all []namespace
	for _, e := range processes {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		id, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || id == own {
			continue
		}
		i, ok := known[id]
		if !ok {
			entries, err := listFile(filepath.Join(dir, "mountinfo"))
			if err != nil && len(entries) == 0 {
				continue // it has ended
			}
			i = len(all)
			known[id], all = i, append(all, namespace{entries: entries})
		}
		command, _ := os.ReadFile(filepath.Join(dir, "comm"))
		all[i].processes = append(all[i].processes, Process{PID: pid, Command: strings.TrimSpace(string(command))})
	}
	return all
}
