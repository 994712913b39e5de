// SPDX-License-Identifier: Apache-2.0

package suspend

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is what /proc says about a process.
type process struct {
	pid    int
	name   string
	state  byte // as in proc(5): D waits for a device
	kernel bool
}

// kernelThread is PF_KTHREAD of the kernel's include/linux/sched.h.
const kernelThread = 0x00200000

func (f *Freezer) process(pid int) (process, error) {
	text, err := os.ReadFile(filepath.Join(f.o.Proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, err
	}
	return parseProcess(pid, string(text))
}

// parseProcess reads /proc/PID/stat: "pid (name) state ppid pgrp session tty tpgid
// flags …"; the name may contain anything.
func parseProcess(pid int, text string) (process, error) {
	first, last := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if first < 0 || last < first {
		return process{}, fmt.Errorf("process %d: stat is not understood", pid)
	}
	fields := strings.Fields(text[last+1:])
	if len(fields) < 7 {
		return process{}, fmt.Errorf("process %d: stat is too short", pid)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return process{}, fmt.Errorf("process %d: flags: %w", pid, err)
	}
	return process{pid: pid, name: text[first+1 : last], state: fields[0][0], kernel: flags&kernelThread != 0}, nil
}

// maxCulprits is how many processes a message names.
const maxCulprits = 5

// culprits names the processes that keep the cgroups from being frozen. If any of them
// wait for a device, it names only those.
func (f *Freezer) culprits(cgroups []string) string {
	var waiting, all []string
	for _, g := range cgroups {
		f.walk(g, 0, func(cgroup string, p process) {
			text := fmt.Sprintf("%q (process %d, state %c, cgroup %s)", p.name, p.pid, p.state, cgroup)
			all = append(all, text)
			if p.state == 'D' {
				waiting = append(waiting, text)
			}
		})
	}
	if len(waiting) > 0 {
		all = waiting
	}
	if len(all) == 0 {
		return "cgroup " + strings.Join(cgroups, ", ")
	}
	if more := len(all) - maxCulprits; more > 0 {
		all = append(all[:maxCulprits], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}

// maxDepth bounds the walk through the cgroups.
const maxDepth = 16

// walk visits the processes of the cgroup and of those below it, except frozen cgroups.
func (f *Freezer) walk(cgroup string, depth int, visit func(string, process)) {
	if depth > maxDepth || f.isFrozen(cgroup) {
		return
	}
	pids, _ := f.processes(cgroup) // best effort: only improves a message
	for _, pid := range pids {
		if p, err := f.process(pid); err == nil {
			visit(cgroup, p)
		}
	}
	children, _ := f.children(cgroup)
	for _, c := range children {
		f.walk(c, depth+1, visit)
	}
}
