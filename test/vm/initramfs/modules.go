// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Modules is a kernel's module directory, lib/modules/RELEASE, with the
// modules.dep, modules.alias and modules.softdep that depmod made.
type Modules struct {
	dir     string
	release string
	paths   map[string]string   // name → path below dir
	needs   map[string][]string // path → paths, as modules.dep gives them: nearest last
	builtin map[string]bool     // names
}

// OpenModules reads the directory for a release, such as "6.1.0-56-amd64".
func OpenModules(dir, release string) (*Modules, error) {
	m := &Modules{dir: dir, release: release, paths: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	text, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep: no colon in %q", line)
		}
		m.paths[ModuleName(file)] = file
		m.needs[file] = strings.Fields(needs)
	}
	text, err = os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for _, file := range strings.Fields(string(text)) {
		m.builtin[ModuleName(file)] = true
	}
	return m, nil
}

// ModuleName returns the name of a module by its file: dm_crypt for
// "kernel/drivers/md/dm-crypt.ko".
func ModuleName(file string) string {
	name := strings.TrimSuffix(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Order returns the paths, below the module directory, of the named modules and all
// their dependencies, in an order in which they can be loaded. It skips names built
// into the kernel; unknown names are an error.
func (m *Modules) Order(names ...string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	for _, name := range names {
		name = ModuleName(name)
		file, ok := m.paths[name]
		if !ok {
			if m.builtin[name] {
				continue
			}
			return nil, fmt.Errorf("no module %s in kernel %s", name, m.release)
		}
		// modules.dep lists all indirect dependencies; the one to load first is last.
		needs := m.needs[file]
		for i := len(needs) - 1; i >= 0; i-- {
			if !seen[needs[i]] {
				seen[needs[i]] = true
				order = append(order, needs[i])
			}
		}
		if !seen[file] {
			seen[file] = true
			order = append(order, file)
		}
	}
	return order, nil
}

// GuestDir returns the path of the module directory in the guest.
func (m *Modules) GuestDir() string { return "/usr/lib/modules/" + m.release }

// AddTo adds the named modules, their dependencies and modprobe's indexes, reduced to
// these modules, to the tree, so that the kernel's own requests for modules work too.
func (m *Modules) AddTo(t Tree, names ...string) error {
	order, err := m.Order(names...)
	if err != nil {
		return err
	}
	var dep strings.Builder
	included := map[string]bool{}
	for _, file := range order {
		data, err := os.ReadFile(filepath.Join(m.dir, file))
		if err != nil {
			return err
		}
		t[path.Join(m.GuestDir(), file)] = Entry{Data: data, Perm: 0o644}
		included[ModuleName(file)] = true
		fmt.Fprintf(&dep, "%s: %s\n", file, strings.Join(m.needs[file], " "))
	}
	t[path.Join(m.GuestDir(), "modules.dep")] = Entry{Data: []byte(dep.String()), Perm: 0o644}
	for _, name := range []string{"modules.alias", "modules.softdep"} {
		data, err := m.index(name, included)
		if err != nil {
			return err
		}
		t[path.Join(m.GuestDir(), name)] = Entry{Data: data, Perm: 0o644}
	}
	builtin, err := os.ReadFile(filepath.Join(m.dir, "modules.builtin"))
	if err != nil {
		return err
	}
	t[path.Join(m.GuestDir(), "modules.builtin")] = Entry{Data: builtin, Perm: 0o644}
	return nil
}

// index returns the lines of modules.alias ("alias PATTERN MODULE") or
// modules.softdep ("softdep MODULE …") that are about the included modules.
func (m *Modules) index(name string, included map[string]bool) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(m.dir, name))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 3 {
			continue
		}
		about := words[2]
		if words[0] == "softdep" {
			about = words[1]
		}
		if included[ModuleName(about)] {
			out.WriteString(lines.Text() + "\n")
		}
	}
	return out.Bytes(), lines.Err()
}
