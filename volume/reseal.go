// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// ResealOptions change how a volume is given to this chip.
type ResealOptions struct {
	// Identities is an identity file of age; it is read once, if at all.
	Identities io.Reader
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is told of each step when it is done.
	Progress func(Step)
}

// Reseal gives the key of a volume to this chip, out of its recovery copy: a new
// blob for the same key. The data and the check are not touched. It is the way
// to a replacement board, and over closing a chip whose volume was made while it
// was open. The blob in the header is replaced only after the new one is proved.
func (m *Manager) Reseal(ctx context.Context, s Spec, o ResealOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	return j.result, failed(ctx, "reseal", s, m.reseal(ctx, s, o, j))
}

func (m *Manager) reseal(ctx context.Context, s Spec, o ResealOptions, j *journey) error {
	src, err := m.sourceOf(s)
	if err != nil {
		return err
	}
	into, ok := src.(importing)
	if !ok {
		return refuse(fault.RecoveryMissing, "a key of source %s has no recovery copy", s.Source)
	}
	return m.onHeader(ctx, s, blockdev.Flags{Write: !o.DryRun, Direct: true}, j, func(c *container, h *header) error {
		if err := errors.Join(h.matches(s), h.recoverable()); err != nil {
			return err
		}
		t := &resealing{Manager: m, s: s, o: o, j: j, src: src, into: into, c: c, h: h, path: j.result.Device}
		opens, err := t.opensHere(ctx)
		if err != nil {
			return err
		}
		if opens {
			j.result.Already = true
			return nil
		}
		return t.run(ctx)
	})
}

// resealing is one run over one volume.
type resealing struct {
	*Manager
	s    Spec
	o    ResealOptions
	j    *journey
	src  source
	into importing
	c    *container
	h    *header
	path string
}

// opensHere tells whether this chip opens the volume as it is.
func (t *resealing) opensHere(ctx context.Context) (bool, error) {
	key, err := t.src.open(ctx, t.h.keyRequest(), t.h.token.Blob)
	switch {
	case fault.Is(err, fault.BlobRejected), fault.Is(err, fault.BlobDamaged), fault.Is(err, fault.KeyLengthMismatch):
		return false, nil
	case err != nil:
		return false, err
	}
	defer key.wipe()
	err = t.proveKey(ctx, t.s, t.h, t.c, key)
	if fault.Is(err, fault.KeyWrong) {
		return false, nil
	}
	return err == nil, err
}

func (t *resealing) run(ctx context.Context) error {
	state := t.sys.SecurityState()
	if err := (&provisioning{Manager: t.Manager, s: t.s, j: t.j}).stateAllowed(state); err != nil {
		return err
	}
	red, err := t.h.unseal(t.o.Identities)
	if err != nil {
		return err
	}
	defer red.Wipe()
	t.j.did("recovery copy opened")
	if t.o.DryRun {
		t.j.would("have this chip seal the key, prove it and replace the blob in the header")
		return nil
	}
	key, blob, err := t.into.createFrom(ctx, t.h.keyRequest(), red)
	if err != nil {
		return err
	}
	key.wipe()
	t.j.did("key sealed by this chip")
	// The blob is what will be stored, so the blob is what is proved.
	if err := t.prove(ctx, t.h, t.c, blob); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	t.j.did("new blob proved")
	if err := ctx.Err(); err != nil {
		return err
	}
	t.h.token.Blob, t.h.token.State = blob, state
	if err := t.h.write(t.c.header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	t.j.of(t.h, t.path)
	return t.readBack(ctx, blob)
}

func (t *resealing) prove(ctx context.Context, h *header, c *container, blob []byte) error {
	key, err := t.src.open(ctx, h.keyRequest(), blob)
	if err != nil {
		return err
	}
	defer key.wipe()
	return t.proveKey(ctx, t.s, h, c, key)
}

// readBack proves what was written, as a later unlock will see it.
func (t *resealing) readBack(ctx context.Context, blob []byte) error {
	c, h, err := t.openHeader(t.s, t.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.close()
	if !bytes.Equal(h.token.Blob, blob) {
		return refuse(fault.IOFailed, "%s does not read back as it was written", c.header.Path())
	}
	if err := t.prove(ctx, h, c, h.token.Blob); err != nil {
		return err
	}
	t.j.did("header written and proved")
	return nil
}
