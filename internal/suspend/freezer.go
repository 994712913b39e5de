// SPDX-License-Identifier: Apache-2.0

// Package suspend puts the machine to sleep: it stops all other processes, syncs,
// suspends to RAM, and resumes the processes.
package suspend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
)

// FreezerOptions says where a Freezer finds things. The zero value is right outside
// tests.
type FreezerOptions struct {
	// Proc is "/proc".
	Proc string
	// Hierarchy is where cgroup v2 is mounted. If empty, OpenFreezer searches for it, and
	// mounts it on Own if it finds none.
	Hierarchy string
	// Own is the directory to mount it on: "/run/imxcrypt/cgroup".
	Own string
	// Patience is how long the processes may take to stop; 20 s, as in the kernel.
	Patience time.Duration
}

const (
	// ownCgroup holds this process while the others are frozen.
	ownCgroup = "imxcrypt-sleep"
	// strayCgroup holds the processes from the root of the hierarchy, which cannot be
	// frozen. Without systemd, all processes are there.
	strayCgroup     = "imxcrypt-frozen"
	defaultPatience = 20 * time.Second
)

// Freezer stops all processes except this one with the freezer of cgroup v2 (Linux 5.2).
// It freezes the cgroups at the top of the hierarchy, and with them all cgroups below.
// Processes started meanwhile are frozen from the start.
type Freezer struct {
	o       FreezerOptions
	mounted bool
	// home is the cgroup that this process came from.
	home string
	// frozen lists the cgroups that this Freezer froze.
	frozen []string
}

// OpenFreezer finds the hierarchy. The error has the code suspend-missing if the
// kernel cannot freeze.
func OpenFreezer(o FreezerOptions) (*Freezer, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Own == "" {
		o.Own = "/run/imxcrypt/cgroup"
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	f := &Freezer{o: o}
	if o.Hierarchy == "" {
		if err := f.find(); err != nil {
			return nil, fault.New(fault.SuspendMissing, "the kernel has no cgroup v2 to freeze processes with", err)
		}
	}
	if err := f.check(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// find finds cgroup v2 among the mounts, or mounts it.
func (f *Freezer) find() error {
	entries, err := mount.ListAt(f.o.Proc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type == "cgroup2" && e.Root == "/" {
			f.o.Hierarchy = e.Target
			return nil
		}
	}
	if err := os.MkdirAll(f.o.Own, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", f.o.Own, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount cgroup2 on %s: %w", f.o.Own, err)
	}
	f.o.Hierarchy, f.mounted = f.o.Own, true
	return nil
}

// check verifies that the hierarchy is complete and can freeze.
func (f *Freezer) check() error {
	if _, err := os.Stat(f.path("cgroup.type")); err == nil {
		// The root has no such file: this is a container's part of it.
		return fault.New(fault.SuspendMissing, f.o.Hierarchy+" is not the root of the cgroups: a container cannot put the machine to sleep", nil)
	}
	if err := os.Mkdir(f.path(ownCgroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup: %w", err)
	}
	if _, err := os.Stat(f.path(ownCgroup, "cgroup.freeze")); err != nil {
		return errors.Join(fault.New(fault.SuspendMissing, "the kernel cannot freeze cgroups (Linux 5.2)", err), os.Remove(f.path(ownCgroup)))
	}
	return nil
}

func (f *Freezer) path(elem ...string) string {
	return filepath.Join(append([]string{f.o.Hierarchy}, elem...)...)
}

// Close removes what OpenFreezer made. Call it after Thaw.
func (f *Freezer) Close() error {
	var err error
	if e := os.Remove(f.path(ownCgroup)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = e
	}
	if f.mounted {
		f.mounted = false
		err = errors.Join(err, unix.Unmount(f.o.Own, 0), os.Remove(f.o.Own))
	}
	return err
}

// Freeze stops all other processes and returns when they have stopped. If one does not
// stop, for example because it waits for a device, Freeze resumes all of them and returns
// an error of code not-frozen that names it.
func (f *Freezer) Freeze(ctx context.Context) error {
	err := f.freeze(ctx)
	if err != nil {
		err = errors.Join(err, f.Thaw())
	}
	return err
}

func (f *Freezer) freeze(ctx context.Context) error {
	if err := f.leaveHome(); err != nil {
		return err
	}
	if err := f.gatherStrays(); err != nil {
		return err
	}
	groups, err := f.top()
	if err != nil {
		return err
	}
	for _, g := range groups {
		was, err := os.ReadFile(f.path(g, "cgroup.freeze"))
		if gone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", g, err)
		}
		if strings.TrimSpace(string(was)) == "1" {
			continue // frozen by another process, which will thaw it
		}
		err = os.WriteFile(f.path(g, "cgroup.freeze"), []byte("1"), 0)
		if gone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", g, err)
		}
		f.frozen = append(f.frozen, g)
	}
	return f.wait(ctx)
}

// leaveHome moves this process into a cgroup of its own, so that the processes in
// its old one, such as a login shell, are frozen too.
func (f *Freezer) leaveHome() error {
	text, err := os.ReadFile(filepath.Join(f.o.Proc, "self/cgroup"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		// The line of cgroup v2 is "0::/path" (cgroups(7)).
		if home, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			f.home = home
		}
	}
	if f.home == "" || strings.HasPrefix(f.home, "/..") {
		return fault.New(fault.SuspendMissing, fmt.Sprintf("this process is in no cgroup of the hierarchy (%q)", f.home), nil)
	}
	return f.move(os.Getpid(), ownCgroup)
}

func (f *Freezer) move(pid int, cgroup string) error {
	if err := os.WriteFile(f.path(cgroup, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("move process %d to cgroup %q: %w", pid, cgroup, err)
	}
	return nil
}

// strayRounds bounds the search for processes in the root. Each round finds those forked
// during the previous one.
const strayRounds = 100

// gatherStrays moves the processes in the root of the hierarchy into a cgroup that
// can be frozen.
func (f *Freezer) gatherStrays() error {
	for range strayRounds {
		strays, err := f.strays()
		if err != nil || len(strays) == 0 {
			return err
		}
		if err := os.Mkdir(f.path(strayCgroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a cgroup: %w", err)
		}
		for _, pid := range strays {
			if err := f.move(pid, strayCgroup); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return fault.New(fault.NotFrozen, "new processes appear faster than they can be stopped", nil)
}

// strays lists the processes in the root, except kernel threads and this process.
func (f *Freezer) strays() ([]int, error) {
	pids, err := f.processes("")
	if err != nil {
		return nil, err
	}
	var strays []int
	for _, pid := range pids {
		if p, err := f.process(pid); err == nil && !p.kernel && pid != os.Getpid() {
			strays = append(strays, pid)
		}
	}
	return strays, nil
}

func (f *Freezer) processes(cgroup string) ([]int, error) {
	text, err := os.ReadFile(f.path(cgroup, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("list the processes of cgroup %q: %w", cgroup, err)
	}
	var pids []int
	for _, field := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// top lists the cgroups directly below the root, except our own.
func (f *Freezer) top() ([]string, error) {
	groups, err := f.children("")
	return slices.DeleteFunc(groups, func(g string) bool { return g == ownCgroup }), err
}

func (f *Freezer) children(cgroup string) ([]string, error) {
	entries, err := os.ReadDir(f.path(cgroup))
	if err != nil {
		return nil, fmt.Errorf("list the cgroups: %w", err)
	}
	var groups []string
	for _, e := range entries {
		if e.IsDir() {
			groups = append(groups, filepath.Join(cgroup, e.Name()))
		}
	}
	return groups, nil
}

// waitPause is short compared with freezing, which takes some milliseconds.
const waitPause = 5 * time.Millisecond

// wait returns when all are frozen. Its error names the processes that are not.
func (f *Freezer) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.o.Patience)
	defer cancel()
	tick := time.NewTicker(waitPause)
	defer tick.Stop()
	for {
		left := slices.DeleteFunc(slices.Clone(f.frozen), f.isFrozen)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			return fault.New(fault.NotFrozen, fmt.Sprintf("not stopped after %v: %s", f.o.Patience, f.culprits(left)), nil)
		}
	}
}

// gone reports whether err means that a cgroup was removed, before its file was opened or
// since. The cgroups of services that end are removed.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// isFrozen reports whether a cgroup is frozen, or gone.
func (f *Freezer) isFrozen(cgroup string) bool {
	text, err := os.ReadFile(f.path(cgroup, "cgroup.events"))
	if err != nil {
		return gone(err)
	}
	return slices.Contains(strings.Split(string(text), "\n"), "frozen 1")
}

// Thaw resumes everything that Freeze stopped, and moves the processes back to their
// cgroups.
func (f *Freezer) Thaw() error {
	var errs []error
	for _, g := range slices.Backward(f.frozen) {
		if err := os.WriteFile(f.path(g, "cgroup.freeze"), []byte("0"), 0); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("thaw cgroup %s: %w", g, err))
		}
	}
	f.frozen = nil
	errs = append(errs, f.releaseStrays())
	if f.home != "" {
		err := f.move(os.Getpid(), f.home)
		if gone(err) {
			err = f.move(os.Getpid(), "")
		}
		errs = append(errs, err)
		f.home = ""
	}
	return errors.Join(errs...)
}

func (f *Freezer) releaseStrays() error {
	for range strayRounds {
		pids, err := f.processes(strayCgroup)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := f.move(pid, ""); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if err := os.Remove(f.path(strayCgroup)); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(waitPause)
	}
	return fmt.Errorf("cgroup %s does not become empty", strayCgroup)
}
