// SPDX-License-Identifier: Apache-2.0

package suspend

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/fault"
)

// hierarchy is a fake cgroup hierarchy. Each of its cgroups is always frozen or never
// frozen. The scenarios freeze the real hierarchy.
type hierarchy struct {
	t    *testing.T
	root string
}

func newHierarchy(t *testing.T) *hierarchy {
	t.Helper()
	h := &hierarchy{t, t.TempDir()}
	h.write("cgroup/cgroup.procs", fmt.Sprintf("2\n%d\n", os.Getpid()))
	h.process(2, "kthreadd", 'S', kernelThread)
	h.write("proc/self/cgroup", "1:name=systemd:/\n0::/home\n")
	h.group("home", true)
	h.write("cgroup/"+ownCgroup+"/cgroup.freeze", "0\n")
	h.write("cgroup/"+ownCgroup+"/cgroup.procs", "")
	return h
}

func (h *hierarchy) write(rel, text string) {
	h.t.Helper()
	path := filepath.Join(h.root, rel)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hierarchy) read(rel string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.root, rel))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (h *hierarchy) group(name string, frozen bool, pids ...int) {
	h.t.Helper()
	state := map[bool]int{true: 1}[frozen]
	h.write("cgroup/"+name+"/cgroup.freeze", "0\n")
	h.write("cgroup/"+name+"/cgroup.events", fmt.Sprintf("populated 1\nfrozen %d\n", state))
	h.write("cgroup/"+name+"/cgroup.procs", strings.Trim(fmt.Sprintln(pids), "[]\n"))
}

func (h *hierarchy) process(pid int, name string, state byte, flags int) {
	h.t.Helper()
	h.write(fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (%s) %c 1 1 1 0 -1 %d 0 0\n", pid, name, state, flags))
}

func (h *hierarchy) open() *Freezer {
	h.t.Helper()
	f, err := OpenFreezer(FreezerOptions{Proc: h.root + "/proc", Hierarchy: h.root + "/cgroup", Patience: 100 * time.Millisecond})
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// The cgroups at the top are frozen and thawed again. Meanwhile this process is outside
// them, and a cgroup that another process froze stays frozen.
func TestFreezeAndThaw(t *testing.T) {
	h := newHierarchy(t)
	h.group("system.slice", true)
	h.group("init.scope", true)
	h.group("paused", true)
	h.write("cgroup/paused/cgroup.freeze", "1\n")
	f := h.open()
	if err := f.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	me := fmt.Sprint(os.Getpid())
	for _, g := range []string{"home", "system.slice", "init.scope", "paused"} {
		if got := h.read("cgroup/" + g + "/cgroup.freeze"); got != "1" {
			t.Errorf("%s: %s", g, got)
		}
	}
	if own := h.read("cgroup/" + ownCgroup + "/cgroup.procs"); own != me || h.read("cgroup/"+ownCgroup+"/cgroup.freeze") != "0" {
		t.Errorf("own cgroup: %q", own)
	}
	if err := f.Thaw(); err != nil {
		t.Fatal(err)
	}
	for g, want := range map[string]string{"home": "0", "system.slice": "0", "init.scope": "0", "paused": "1"} {
		if got := h.read("cgroup/" + g + "/cgroup.freeze"); got != want {
			t.Errorf("%s: %s", g, got)
		}
	}
	if got := h.read("cgroup/home/cgroup.procs"); got != me {
		t.Errorf("this process is not back: %q", got)
	}
}

// A process that does not stop is named, and all are resumed.
func TestNotFrozen(t *testing.T) {
	h := newHierarchy(t)
	h.group("system.slice", false)
	h.group("system.slice/ok.service", true, 40)
	h.group("system.slice/nfs.service", false, 41, 42)
	h.process(40, "frozen", 'S', 0)
	h.process(41, "shell", 'S', 0)
	h.process(42, "cp (old) x", 'D', 0)
	err := h.open().Freeze(context.Background())
	if !fault.Is(err, fault.NotFrozen) || !strings.Contains(err.Error(), `not stopped after 100ms: "cp (old) x" (process 42, state D, cgroup system.slice/nfs.service)`) ||
		strings.Contains(err.Error(), "shell") {
		t.Fatal(err)
	}
	if got := h.read("cgroup/system.slice/cgroup.freeze"); got != "0" {
		t.Errorf("still frozen: %s", got)
	}
}

// The hierarchy must be complete and able to freeze.
func TestUnfitHierarchies(t *testing.T) {
	for name, spoil := range map[string]func(*hierarchy){
		"a container's part": func(h *hierarchy) { h.write("cgroup/cgroup.type", "domain\n") },
		"no freezer": func(h *hierarchy) {
			if err := os.RemoveAll(h.root + "/cgroup/" + ownCgroup); err != nil {
				t.Fatal(err)
			}
		},
	} {
		h := newHierarchy(t)
		spoil(h)
		_, err := OpenFreezer(FreezerOptions{Proc: h.root + "/proc", Hierarchy: h.root + "/cgroup"})
		if !fault.Is(err, fault.SuspendMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The kernel's sync is off only during the sleep.
func TestPower(t *testing.T) {
	h := newHierarchy(t)
	h.write("sys/power/state", "freeze mem disk\n")
	h.write("sys/power/sync_on_suspend", "1\n")
	p, err := OpenPower(h.root + "/sys")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SyncNothing(); err != nil {
		t.Fatal(err)
	}
	if err := p.Sleep(); err != nil {
		t.Fatal(err)
	}
	if state, sync := h.read("sys/power/state"), h.read("sys/power/sync_on_suspend"); !strings.HasPrefix(state, "mem") || sync != "1" {
		t.Errorf("state %q, sync_on_suspend %q", state, sync)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	h.write("sys/power/state", "freeze disk\n")
	if _, err := OpenPower(h.root + "/sys"); !fault.Is(err, fault.SuspendMissing) {
		t.Errorf("without mem: %v", err)
	}
	h.write("sys/power/state", "mem\n")
	if err := os.Remove(h.root + "/sys/power/sync_on_suspend"); err != nil {
		t.Fatal(err)
	}
	if p, err = OpenPower(h.root + "/sys"); err != nil {
		t.Fatal(err)
	}
	if err := p.SyncNothing(); !fault.Is(err, fault.SuspendMissing) {
		t.Errorf("an old kernel: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A service ends while its cgroup is being frozen, or once it is frozen. The rest is
// frozen and thawed all the same, and nothing is reported.
func TestACgroupThatVanishesIsNoFailure(t *testing.T) {
	t.Parallel()
	h := newHierarchy(t)
	if err := os.Mkdir(filepath.Join(h.root, "cgroup/ending"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.group("ended", true)
	h.group("stays", true)
	f := h.open()
	if err := f.Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, g := range []string{"ended", "home"} {
		if err := os.RemoveAll(filepath.Join(h.root, "cgroup", g)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Thaw(); err != nil {
		t.Fatal(err)
	}
	if got := h.read("cgroup/stays/cgroup.freeze"); got != "0" {
		t.Errorf("stays: %q", got)
	}
	if got := h.read("cgroup/cgroup.procs"); got != fmt.Sprint(os.Getpid()) {
		t.Errorf("this process is elsewhere: %q", got)
	}
}
