// SPDX-License-Identifier: Apache-2.0

package crashtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/atomicfile"
)

// Store is what a tree is on: a [Disk] whose states are enumerated, or an [Image].
type Store interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	FlushRange(off, length int64) error
}

// Tree is a filesystem that promises only what POSIX promises. A file's contents, size
// and mode are durable when the file is flushed, its name when its folder is. Until then
// each name by itself may stand for what it stood for before, and each sector of a file,
// its size and its mode may be there or not: a renamed file may be there under both names
// or under none, a new file may be there without its contents.
//
// It is on a store, in slots of 5 MiB: a sector of attributes {generation, kind, mode,
// size}, and the contents from byte 4096 on. Those of a folder are its names, one sector
// each, {generation of the folder, slot, kind, its generation, name}. If generations
// differ, the slot has been used again, and the file is empty.
type Tree struct {
	// Step, if set, is called before each operation. If it returns an error, the
	// operation returns that and is not done. Paths are the tree's.
	Step func(what string) error

	mu     sync.Mutex
	store  Store
	locked map[int]bool
}

const (
	treeSlots    = 16
	treeSlotSize = 5 << 20
	treeContents = 4096
	treeNames    = 64 // of a folder
	treeEntry    = 16 // bytes before the name

	treeFile   = 1
	treeFolder = 2

	// TreeSize is the size in bytes that the store of a tree must have.
	TreeSize = treeSlots * treeSlotSize
)

// NewTree returns the filesystem on a store: an empty root folder if the store is all
// zeros.
func NewTree(store Store) *Tree { return &Tree{store: store, locked: map[int]bool{}} }

// node is a slot with what its attributes say.
type node struct {
	slot       int
	generation uint32
	kind, mode uint32
	size       int64
}

func (t *Tree) step(what string) error {
	if t.Step == nil {
		return nil
	}
	return t.Step(what)
}

// Abandon releases all locks, as the end of the process that held them does.
func (t *Tree) Abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.locked)
}

// node reads a slot's attributes as the generation that a name asks for.
func (t *Tree) node(slot int, generation uint32, kind uint32) (node, error) {
	n := node{slot: slot, generation: generation, kind: kind}
	b := make([]byte, sector)
	if _, err := t.store.ReadAt(b, int64(slot)*treeSlotSize); err != nil {
		return n, err
	}
	if le := binary.LittleEndian; le.Uint32(b) == generation && slot > 0 {
		n.mode, n.size = le.Uint32(b[8:]), int64(le.Uint64(b[16:]))
	}
	return n, nil
}

func (t *Tree) writeNode(n node) error {
	b := make([]byte, sector)
	le := binary.LittleEndian
	le.PutUint32(b, n.generation)
	le.PutUint32(b[4:], n.kind)
	le.PutUint32(b[8:], n.mode)
	le.PutUint64(b[16:], uint64(n.size))
	_, err := t.store.WriteAt(b, int64(n.slot)*treeSlotSize)
	return err
}

func (t *Tree) flush(slot int) error {
	return t.store.FlushRange(int64(slot)*treeSlotSize, treeSlotSize)
}

// name is an entry of a folder: what the name stands for now. Slot 0 is nothing.
type name struct {
	at         int64 // in the store, in bytes
	slot       int
	generation uint32
	kind       uint32
	name       string
}

// names returns a folder's entries, including the free ones.
func (t *Tree) names(folder node) ([]name, error) {
	b := make([]byte, treeNames*sector)
	from := int64(folder.slot)*treeSlotSize + treeContents
	if _, err := t.store.ReadAt(b, from); err != nil {
		return nil, err
	}
	all := make([]name, 0, treeNames)
	for i := range treeNames {
		e, le := b[i*sector:(i+1)*sector], binary.LittleEndian
		n := name{at: from + int64(i*sector)}
		if le.Uint32(e) == folder.generation {
			n.slot, n.kind, n.generation = int(le.Uint16(e[4:])), uint32(le.Uint16(e[6:])), le.Uint32(e[8:])
			text, _, _ := bytes.Cut(e[treeEntry:], []byte{0})
			n.name = string(text)
		}
		all = append(all, n)
	}
	return all, nil
}

// set makes a name stand for something else, or for nothing. A name keeps its
// sector for ever.
func (t *Tree) set(folder node, what string, to node) error {
	if len(what) > 255 {
		return unix.ENAMETOOLONG
	}
	all, err := t.names(folder)
	if err != nil {
		return err
	}
	at := int64(-1)
	for _, n := range all {
		if n.name == what {
			at = n.at
			break
		}
		if n.name == "" && at < 0 {
			at = n.at
		}
	}
	if at < 0 {
		return unix.ENOSPC
	}
	b, le := make([]byte, sector), binary.LittleEndian
	le.PutUint32(b, folder.generation)
	le.PutUint16(b[4:], uint16(to.slot))
	le.PutUint16(b[6:], uint16(to.kind))
	le.PutUint32(b[8:], to.generation)
	copy(b[treeEntry:], what)
	_, err = t.store.WriteAt(b, at)
	return err
}

func (t *Tree) lookup(folder node, what string) (node, error) {
	all, err := t.names(folder)
	if err != nil {
		return node{}, err
	}
	for _, n := range all {
		if n.name == what && n.slot > 0 {
			return t.node(n.slot, n.generation, n.kind)
		}
	}
	return node{}, fs.ErrNotExist
}

// fresh returns an empty slot that no name stands for.
func (t *Tree) fresh(kind, mode uint32) (node, error) {
	var used [treeSlots]bool
	used[0] = true
	last := uint32(0)
	var visit func(folder node) error
	visit = func(folder node) error {
		all, err := t.names(folder)
		if err != nil {
			return err
		}
		for _, n := range all {
			last = max(last, n.generation)
			if n.slot == 0 {
				continue
			}
			used[n.slot] = true
			if n.kind == treeFolder {
				if err := visit(node{slot: n.slot, generation: n.generation, kind: treeFolder}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := visit(node{kind: treeFolder}); err != nil {
		return node{}, err
	}
	free := 0
	b := make([]byte, 4)
	for slot := range treeSlots {
		if _, err := t.store.ReadAt(b, int64(slot)*treeSlotSize); err != nil {
			return node{}, err
		}
		last = max(last, binary.LittleEndian.Uint32(b))
		if !used[slot] && !t.locked[slot] && free == 0 {
			free = slot
		}
	}
	if free == 0 {
		return node{}, unix.ENOSPC
	}
	n := node{slot: free, generation: last + 1, kind: kind, mode: mode}
	return n, t.writeNode(n)
}

func (t *Tree) walk(p string) (node, error) {
	at := node{kind: treeFolder}
	for _, part := range strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/") {
		if part == "" {
			continue
		}
		next, err := t.lookup(at, part)
		if err != nil {
			return node{}, err
		}
		if next.kind != treeFolder {
			return node{}, unix.ENOTDIR
		}
		at = next
	}
	return at, nil
}

// OpenFolder implements [atomicfile.FS].
func (t *Tree) OpenFolder(p string) (atomicfile.Folder, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.walk(p)
	if err != nil {
		return nil, err
	}
	return &treeDir{tree: t, node: n, path: path.Clean("/" + p)}, nil
}

// Read returns a file's contents and mode as they are now, flushed or not.
func (t *Tree) Read(p string) ([]byte, fs.FileMode, error) {
	f, err := t.File(p)
	if err != nil {
		return nil, 0, err
	}
	data := make([]byte, f.Size())
	_, err = f.ReadAt(data, 0)
	return data, fs.FileMode(f.node.mode), err
}

// Names lists the files and folders in a folder.
func (t *Tree) Names(folder string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.walk(folder)
	if err != nil {
		return nil
	}
	all, _ := t.names(n)
	var out []string
	for _, n := range all {
		if n.slot > 0 {
			out = append(out, n.name)
		}
	}
	return out
}

// TreeFile is a file's contents as a disk of the file's size, for what is written in
// place.
type TreeFile struct {
	tree *Tree
	node node
}

// File opens an existing file.
func (t *Tree) File(p string) (*TreeFile, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	folder, err := t.walk(path.Dir(p))
	if err != nil {
		return nil, err
	}
	n, err := t.lookup(folder, path.Base(p))
	if err == nil && n.kind != treeFile {
		err = unix.EISDIR
	}
	return &TreeFile{tree: t, node: n}, err
}

// Size returns the size in bytes.
func (f *TreeFile) Size() int64 { return f.node.size }

// ReadAt reads inside the file's size.
func (f *TreeFile) ReadAt(p []byte, off int64) (int, error) {
	if off > f.node.size {
		return 0, unix.EINVAL
	}
	return f.tree.store.ReadAt(p[:min(int64(len(p)), f.node.size-off)], f.start()+off)
}

// WriteAt writes inside the file's size.
func (f *TreeFile) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.node.size {
		return 0, unix.ENOSPC
	}
	return f.tree.store.WriteAt(p, f.start()+off)
}

// Flush makes the file durable, but not its name.
func (f *TreeFile) Flush() error { return f.tree.flush(f.node.slot) }

func (f *TreeFile) start() int64 { return int64(f.node.slot)*treeSlotSize + treeContents }

// treeDir is an open folder.
type treeDir struct {
	tree *Tree
	node node
	path string
}

// do locks the tree for one operation.
func (d *treeDir) do(what, on string, run func() error) error {
	if err := d.tree.step(what + " " + path.Join(d.path, on)); err != nil {
		return err
	}
	d.tree.mu.Lock()
	defer d.tree.mu.Unlock()
	return run()
}

func (d *treeDir) Stat(name string) (info atomicfile.Info, err error) {
	d.tree.mu.Lock()
	defer d.tree.mu.Unlock()
	n, err := d.tree.lookup(d.node, name)
	return n.info(), err
}

func (n node) info() atomicfile.Info {
	mode := fs.FileMode(n.mode)
	if n.kind == treeFolder {
		mode |= fs.ModeDir
	}
	return atomicfile.Info{Mode: mode, Links: 1, ID: [2]uint64{uint64(n.slot), uint64(n.generation)}, Mine: true}
}

func (d *treeDir) Open(name string) (f atomicfile.File, err error) {
	err = d.do("open", name, func() error {
		n, err := d.tree.lookup(d.node, name)
		if errors.Is(err, fs.ErrNotExist) {
			if n, err = d.tree.fresh(treeFile, 0o600); err == nil {
				err = d.tree.set(d.node, name, n)
			}
		}
		if err == nil && n.kind != treeFile {
			err = unix.EISDIR
		}
		f = &treeOpen{dir: d, name: name, node: n}
		return err
	})
	return f, err
}

func (d *treeDir) rename(from, to string, replace bool) error {
	return d.do("rename", to, func() error {
		n, err := d.tree.lookup(d.node, from)
		if err != nil {
			return err
		}
		old, err := d.tree.lookup(d.node, to)
		switch {
		case err == nil && !replace:
			return unix.EEXIST
		case err == nil && old.kind == treeFolder:
			return unix.EISDIR
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := d.tree.set(d.node, to, n); err != nil {
			return err
		}
		return d.tree.set(d.node, from, node{})
	})
}

func (d *treeDir) Rename(from, to string) error    { return d.rename(from, to, true) }
func (d *treeDir) RenameNew(from, to string) error { return d.rename(from, to, false) }

func (d *treeDir) Remove(name string) error {
	return d.do("remove", name, func() error {
		if _, err := d.tree.lookup(d.node, name); err != nil {
			return err
		}
		return d.tree.set(d.node, name, node{})
	})
}

func (d *treeDir) Mkdir(name string, perm fs.FileMode) error {
	return d.do("mkdir", name, func() error {
		if _, err := d.tree.lookup(d.node, name); err == nil {
			return unix.EEXIST
		}
		n, err := d.tree.fresh(treeFolder, uint32(perm.Perm()))
		if err == nil {
			err = d.tree.set(d.node, name, n)
		}
		return err
	})
}

func (d *treeDir) Sync() error {
	return d.do("flush", "", func() error { return d.tree.flush(d.node.slot) })
}

func (d *treeDir) Close() error { return nil }

// treeOpen is an open file, written from its start.
type treeOpen struct {
	dir    *treeDir
	name   string
	node   node
	locked bool
	at     int64
}

func (f *treeOpen) Lock() error {
	f.dir.tree.mu.Lock()
	defer f.dir.tree.mu.Unlock()
	if f.dir.tree.locked[f.node.slot] {
		return unix.EWOULDBLOCK
	}
	f.dir.tree.locked[f.node.slot], f.locked = true, true
	return nil
}

func (f *treeOpen) Stat() (atomicfile.Info, error) { return f.node.info(), nil }

func (f *treeOpen) Empty() error {
	return f.dir.do("empty", f.name, func() error {
		f.node.size = 0
		return f.dir.tree.writeNode(f.node)
	})
}

func (f *treeOpen) Chmod(perm fs.FileMode) error {
	return f.dir.do("chmod", f.name, func() error {
		f.node.mode = uint32(perm.Perm())
		return f.dir.tree.writeNode(f.node)
	})
}

func (f *treeOpen) Write(p []byte) (int, error) {
	err := f.dir.do("write", f.name, func() error {
		if f.at+int64(len(p)) > treeSlotSize-treeContents {
			return unix.ENOSPC
		}
		start := int64(f.node.slot)*treeSlotSize + treeContents
		if _, err := f.dir.tree.store.WriteAt(p, start+f.at); err != nil {
			return err
		}
		f.at += int64(len(p))
		f.node.size = max(f.node.size, f.at)
		return f.dir.tree.writeNode(f.node)
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *treeOpen) Sync() error {
	return f.dir.do("flush", f.name, func() error { return f.dir.tree.flush(f.node.slot) })
}

func (f *treeOpen) Close() error {
	f.dir.tree.mu.Lock()
	defer f.dir.tree.mu.Unlock()
	if f.locked {
		delete(f.dir.tree.locked, f.node.slot)
	}
	return nil
}
