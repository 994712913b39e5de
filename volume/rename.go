// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// RenameOptions change how a volume is renamed.
type RenameOptions struct {
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is called after each step.
	Progress func(Step)
}

// Rename gives the volume that was made as old the name that the configuration has for
// it: in the header's label and in the check of the key, which is bound to the name. The
// key, its recovery copy, the data and the filesystem with its UUID stay as they are.
// Only a locked volume is renamed: a mapping in use, its units and its entry in the mount
// table have the old name. If it is cut off at any point, the volume has one of the two
// names, and the same command finishes it.
func (m *Manager) Rename(ctx context.Context, s spec.Volume, old string, o RenameOptions) (Result, error) {
	n := &renaming{Manager: m, s: s, was: s, o: o, j: m.begin(s, o.Progress)}
	n.was.Name, n.was.Mapping = old, strings.TrimSuffix(s.Mapping, s.Name)+old
	return n.j.result, Failed(ctx, "rename", s, n.locked(ctx))
}

// renaming is one run over one volume.
type renaming struct {
	*Manager
	// was is the configuration with the volume's old name.
	s, was spec.Volume
	o      RenameOptions
	j      *runLog
	c      *header.Storage
	h      *header.Header
}

// locked also takes the lock of the old name.
func (n *renaming) locked(ctx context.Context) (err error) {
	release, err := n.sys.Locks.Acquire(ctx, n.was.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return n.onDevice(ctx, n.s, func(path string) error { return n.onPath(ctx, path) })
}

func (n *renaming) onPath(ctx context.Context, path string) (err error) {
	if n.c, err = n.openContainer(n.s, path, rotationFlags(!n.o.DryRun)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.c.Close()) }()
	if n.h, err = header.Read(n.c); err != nil {
		return err
	}
	n.j.identify(n.h, path)
	if err := n.mayRename(ctx); err != nil {
		return err
	}
	if n.o.DryRun {
		if !n.renamed() {
			n.j.would(fmt.Sprintf("prove the key, and give the volume the name %q instead of %q", n.s.Name, n.was.Name))
		}
		n.j.result.Already = n.renamed()
		return nil
	}
	return n.run(ctx)
}

// renamed reports whether the header has the new name already.
func (n *renaming) renamed() bool { return n.h.LUKS.Label == n.s.Name }

// mayRename applies the rules that must hold before anything is written.
func (n *renaming) mayRename(ctx context.Context) error {
	as := n.was
	if n.renamed() {
		as = n.s
	} else if is := n.h.LUKS.Label; is != n.was.Name {
		return fault.Newf(fault.HeaderMismatch, "the volume on %s has the name %q, neither %q nor %q", n.c.Data.Path(), is, n.was.Name, n.s.Name)
	}
	if err := n.mayOpen(as, n.h, n.j); err != nil {
		return err
	}
	switch {
	case n.h.Next != nil:
		return fault.Newf(fault.RotationUnderWay, "a rotation is under way, and both its keys are bound to the name: finish it under the old one")
	case n.h.Unbound():
		return fault.Newf(fault.RenameRefused, "the detached header has no check that binds its key to a name: `imxcrypt provision` adds it, under the old name")
	case n.renamed():
		return nil
	}
	if err := headerWritable(n.h, n.c); err != nil {
		return err
	}
	if n.o.DryRun {
		_, err := n.kernel.UsedByUs(n.s, n.h, n.c.Data)
		return err
	}
	// What a run under the old name left behind would be someone else's under the new
	// one.
	if _, err := n.kernel.RemovePrivate(ctx, n.was); err != nil {
		return err
	}
	return n.kernel.Claim(ctx, n.s, n.h, n.c.Data, true)
}

func (n *renaming) run(ctx context.Context) (err error) {
	if n.renamed() {
		// Prove the key again: a run that was cut off did not get that far.
		n.j.result.Already = true
		err = n.proveOpens(ctx, n.s, n.h, n.c)
	} else {
		next, lh := *n.h, *n.h.LUKS
		lh.Label = n.s.Name
		next.LUKS = &lh
		if n.h, err = n.rebind(ctx, n.s, n.c, n.h, next); err == nil {
			n.j.did("header written and proved")
			n.j.warn("back up the header again: an older backup has the old name (imxcrypt header backup " + n.s.Name + " FILE)")
		}
	}
	if err == nil {
		n.moveRecord()
	}
	return err
}

// moveRecord moves the board's record of the volume to its new name.
func (n *renaming) moveRecord() {
	r, ok := n.recall(n.was)
	if !ok || r.UUID != n.h.LUKS.UUID {
		n.remember(n.s, n.h.LUKS.UUID)
		return
	}
	if n.record(n.s, r) {
		n.forget(n.was)
	}
}
