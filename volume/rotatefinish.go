// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// finish ends a rotation whose data has all moved.
func (x *rotating) finish(ctx context.Context, k *mapping.Stack, next source.Key) error {
	if x.h.Decrypting() {
		return x.endDecryption(ctx, k)
	}
	if x.live {
		if err := x.putBack(ctx, next); err != nil {
			return err
		}
	}
	if err := k.Remove(ctx); err != nil {
		return err
	}
	// Prove the stored blob once more: it is about to be the only one.
	h, err := header.Read(x.c)
	if err != nil {
		return err
	}
	if h.Next == nil {
		return fault.Newf(fault.HeaderInvalid, "the header changed while the volume was rotated")
	}
	if err := x.proveOpens(ctx, x.s, h.Next, x.c); err != nil {
		return fmt.Errorf("the new key, once more: %w", err)
	}
	done := h.EndRotation()
	if !h.Encrypting() {
		if err := x.clearFreed(ctx); err != nil {
			return err
		}
	} else if done, err = x.endEncryption(ctx, h, next); err != nil {
		return err
	}
	if err := done.Write(x.c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	if h.Encrypting() {
		x.rememberEnd(x.s, h, x.j)
		x.j.did("header completed")
	} else {
		x.j.did("old key removed")
	}
	if h.Token.Source == spec.SourceDev {
		src := source.Dev{Files: x.sys.Files, Dir: x.s.StateDir}
		if err := x.sys.Files.Remove(src.Path(requestOf(h))); err != nil {
			x.j.warn("the file of the old key could not be removed: " + err.Error())
		}
	}
	x.h = done
	x.j.identify(done, x.j.result.Device)
	if f := done.Fingerprint(); f != "" {
		x.j.warnOfRecovery(done.Token.Recovery)
		x.j.warn("the recovery copy is that of the new key: note its fingerprint, a reseal asks for it: " + f)
	}
	return nil
}

// putBack makes a live volume one plain crypt mapping with the new key.
func (x *rotating) putBack(ctx context.Context, next source.Key) error {
	live, err := x.sys.Mapper.Table(x.s.Mapping)
	if err != nil {
		return err
	}
	return next.Use(mapping.Description(x.h.Next), func(ref dmcrypt.KeyRef) error {
		t, err := mapping.DataTable(x.h.Next, x.s, x.c.Data.Number(), ref)
		if err != nil || t.Equal(live) {
			return err
		}
		if err := x.trusted(); err != nil { // next was opened before the first zone
			return err
		}
		if err := x.sys.Mapper.Swap(ctx, x.s.Mapping, t, false, dmcrypt.Public, mapping.Quietly); err != nil {
			return err
		}
		x.j.did("volume put over the new key")
		return nil
	})
}

// clearFreed overwrites the space that the data has left. The superblock there would
// still be right under the old key, and would make an old copy of the header look good.
// At most one zone of the old place is overwritten: behind it no superblock proves a key.
func (x *rotating) clearFreed(ctx context.Context) error {
	old, moved, size := x.h.Segment.Offset, x.h.Next.Segment.Offset, x.h.Segment.Size
	from, to := old, moved // the data moved up
	if moved < old {
		from, to = max(moved+size, old), old+size
	}
	if to <= from {
		return nil
	}
	// The last block, too: a rotation back begins there or with the first, and a later
	// restore checks whether one has begun.
	last := to - header.BlockAlign
	// This must be durable before the header that forgets it.
	if err := errors.Join(blockdev.Zero(ctx, x.c.Data, from, min(to, from+header.MaxZone)), blockdev.Zero(ctx, x.c.Data, last, to), x.c.Data.Flush()); err != nil {
		return fault.New(fault.IOFailed, "clear what the data has left on "+x.c.Data.Path(), err)
	}
	x.j.did("free space cleared")
	return nil
}
