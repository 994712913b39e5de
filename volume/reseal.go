// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// ResealOptions change how a volume's key is given to this chip.
type ResealOptions struct {
	Opener
	// Fingerprint asks for the fingerprint of the recovery copy as it was noted when the
	// copy was made. It is called only if a key is to be given. nil refuses.
	Fingerprint func() (string, error)
	// DryRun looks and changes nothing. It compares the fingerprint if it can ask for it.
	DryRun bool
	// Progress is called after each step.
	Progress func(Step)
}

// Reseal gives a volume's key to this chip, from its recovery copy: a new blob of the
// same key. The data and the check are not touched. It serves to move a volume to a
// replacement board, and to close a chip whose volume was made while it was open. The
// blob in the header is replaced only after the new one is proved.
func (m *Manager) Reseal(ctx context.Context, s spec.Volume, o ResealOptions) (Result, error) {
	j := m.begin(s, o.Progress)
	return j.result, Failed(ctx, "reseal", s, m.reseal(ctx, s, o, j))
}

func (m *Manager) reseal(ctx context.Context, s spec.Volume, o ResealOptions, j *runLog) error {
	s = s.For(spec.SourceCAAM, "") // no other source has recovery copies
	src, err := m.sources.Of(s)
	if err != nil {
		return err
	}
	into, ok := src.(source.Importer)
	if !ok {
		return fault.Newf(fault.RecoveryMissing, "a key of source %s has no recovery copy", s.Source)
	}
	return m.onHeader(ctx, s, blockdev.Flags{Direct: true}, j, func(c *header.Storage, h *header.Header) error {
		if err := errors.Join(h.Matches(s), h.Recoverable()); err != nil {
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
		if err := t.mayWrite(ctx); err != nil {
			return err
		}
		return t.run(ctx)
	})
}

// resealing is one run over one volume.
type resealing struct {
	*Manager
	s    spec.Volume
	o    ResealOptions
	j    *runLog
	src  source.Source
	into source.Importer
	c    *header.Storage
	h    *header.Header
	path string
}

// opensHere reports whether this chip opens the volume as it is.
func (t *resealing) opensHere(ctx context.Context) (bool, error) {
	if err := t.sys.Harden(); err != nil {
		return false, err
	}
	key, err := t.src.Open(ctx, requestOf(t.h), t.h.Token.Blob)
	switch {
	case fault.Is(err, fault.BlobRejected), fault.Is(err, fault.BlobDamaged), fault.Is(err, fault.KeyLengthMismatch):
		return false, nil
	case err != nil:
		return false, err
	}
	defer key.Wipe()
	err = t.proveKey(ctx, t.s, t.h, t.c, key)
	if fault.Is(err, fault.KeyWrong) {
		return false, nil
	}
	return err == nil, err
}

// mayWrite enforces that no one uses the volume and that its header can be written.
func (t *resealing) mayWrite(ctx context.Context) error {
	if err := headerWritable(t.h, t.c); err != nil {
		return err
	}
	if t.o.DryRun {
		_, err := t.kernel.UsedByUs(t.s, t.h, t.c.Data)
		return err
	}
	return t.kernel.Claim(ctx, t.s, t.h, t.c.Data, true)
}

// write writes the header, with the device and the header's file open exclusively.
func (t *resealing) write() error {
	c, err := t.openContainer(t.s, t.path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(t.h.Write(c.Header), c.Close())
}

func (t *resealing) run(ctx context.Context) error {
	state := t.sys.SecurityState()
	if err := (&provisioning{Manager: t.Manager, s: t.s, j: t.j}).stateAllowed(state); err != nil {
		return err
	}
	if err := t.trusted(); err != nil {
		return err
	}
	red, err := t.o.unseal(t.h)
	if err != nil {
		return err
	}
	defer red.Wipe()
	t.j.did("recovery copy opened")
	if t.o.DryRun {
		if t.o.Fingerprint == nil {
			t.j.would("ask for the fingerprint of the recovery copy")
		}
		t.j.would("have this chip seal the key, prove it and replace the blob in the header")
		return nil
	}
	key, blob, err := t.into.CreateFrom(ctx, requestOf(t.h), red)
	if err != nil {
		return err
	}
	key.Wipe()
	t.j.did("key sealed by this chip")
	// The blob is what is stored, so the blob is what is proved.
	sealed := *t.h
	sealed.Token.Blob, sealed.Token.State = blob, state
	if err := t.proveOpens(ctx, t.s, &sealed, t.c); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	t.j.did("new blob proved")
	if err := ctx.Err(); err != nil {
		return err
	}
	t.h.Token.Blob, t.h.Token.State = blob, state
	if err := t.write(); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	t.j.identify(t.h, t.path)
	return t.readBack(ctx, blob)
}

// trusted enforces that the copy is the one made with the volume, before anything is
// opened with it.
func (t *resealing) trusted() error {
	if t.o.Fingerprint == nil {
		if t.o.DryRun {
			return nil
		}
		return fault.Newf(fault.Usage, "the fingerprint of the recovery copy is missing: nothing else says whose key is in it")
	}
	noted, err := t.o.Fingerprint()
	if err != nil {
		return err
	}
	return t.h.MatchFingerprint(noted)
}

// readBack proves what was written, as a later unlock will see it.
func (t *resealing) readBack(ctx context.Context, blob []byte) error {
	c, h, err := t.openHeader(t.s, t.path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if !bytes.Equal(h.Token.Blob, blob) {
		return fault.Newf(fault.IOFailed, "%s does not read back as it was written", c.Header.Path())
	}
	if err := t.proveOpens(ctx, t.s, h, c); err != nil {
		return err
	}
	t.j.did("header written and proved")
	return nil
}
