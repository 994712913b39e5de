// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Programs adds programs from a directory of unpacked packages, together with the
// dynamic loader and all libraries that they need.
type Programs struct {
	Root    string // the unpacked packages
	Triplet string // Debian's name of the architecture's library directory, "aarch64-linux-gnu"
}

// AddTo puts the programs into usr/bin or usr/sbin of the tree, as in their package.
// Symbolic links of the package (mkfs.ext4) stay links, and their targets are added
// too. If a program or library is missing, the error names it.
func (p Programs) AddTo(t Tree, names ...string) error {
	for _, name := range names {
		if err := p.program(t, name); err != nil {
			return err
		}
	}
	return nil
}

func (p Programs) program(t Tree, name string) error {
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin"} {
		file := filepath.Join(p.Root, dir, name)
		if _, err := os.Lstat(file); err != nil {
			continue
		}
		guest := "/usr/" + filepath.Base(dir) + "/" + name
		if _, done := t[guest]; done {
			return nil
		}
		if link, err := os.Readlink(file); err == nil {
			t[guest] = Entry{Link: link}
			return p.program(t, filepath.Base(link))
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		t[guest] = Entry{Data: data, Perm: 0o755}
		return p.libraries(t, file)
	}
	return fmt.Errorf("program %s is in none of the packages under %s", name, p.Root)
}

// Library adds a library by its soname, found as the dynamic loader would. It is for
// libraries that a program opens only at run time.
func (p Programs) Library(t Tree, soname string) error {
	guest := "/usr/lib/" + p.Triplet + "/" + soname
	if _, done := t[guest]; done {
		return nil
	}
	for _, dir := range []string{"lib/" + p.Triplet, "usr/lib/" + p.Triplet} {
		file := filepath.Join(p.Root, dir, soname)
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		t[guest] = Entry{Data: data, Perm: 0o755}
		return p.libraries(t, file)
	}
	return fmt.Errorf("library %s is in none of the packages under %s", soname, p.Root)
}

func (p Programs) libraries(t Tree, file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return nil // a script
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		text, err := io.ReadAll(segment.Open())
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := p.loader(t, strings.TrimRight(string(text), "\x00")); err != nil {
			return err
		}
	}
	sonames, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, soname := range sonames {
		if err := p.Library(t, soname); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// loader adds the dynamic loader at the path that programs name, below /lib or /lib64,
// which are links to /usr/… in the guest.
func (p Programs) loader(t Tree, name string) error {
	guest := "/usr" + name
	if _, done := t[guest]; done {
		return nil
	}
	target, err := os.Readlink(filepath.Join(p.Root, name))
	if err == nil {
		// Debian's link is relative ("aarch64-linux-gnu/ld-….so.1") or absolute; either
		// way it points into the library directory.
		name = "lib/" + p.Triplet + "/" + filepath.Base(target)
	}
	data, err := os.ReadFile(filepath.Join(p.Root, name))
	if err != nil {
		return err
	}
	t[guest] = Entry{Data: data, Perm: 0o755}
	return nil
}
