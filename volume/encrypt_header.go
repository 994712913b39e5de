// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
)

// The header of a device that is encrypted in place, and its first key.

// createHeader writes the header, with the first records, and proves the key in it.
func (x *rotating) createHeader(ctx context.Context, src source.Source, h *header.Header, path string) error {
	x.trusted = x.suspendGuard()
	key, err := x.firstKey(ctx, src, h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if !x.s.Detached() {
		return x.createOnDevice(ctx, h, key, path)
	}
	image, err := h.LUKS.Image()
	if err != nil {
		return err
	}
	before := x.rememberedNow(x.s)
	area := header.NewImage(image, int64(len(image)))
	if err := x.recordsOf(ctx, h, area, path); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := x.sys.Files.Create(x.s.Header, image, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fault.New(fault.FileExists, x.s.Header+" exists already", err)
		}
		return err
	}
	x.j.did("header written to " + x.s.Header)
	if err = x.open(path); err == nil {
		err = x.proveAlone(ctx, key)
	}
	if err != nil && ctx.Err() == nil {
		// It is a new file that nothing relies on yet.
		err = errors.Join(err, x.sys.Files.Remove(x.s.Header))
		if r, ok := x.recall(x.s); ok && r.UUID == h.LUKS.UUID {
			x.rememberAs(x.s, before)
		}
	}
	return err
}

// firstKey makes the volume's first key and puts it into the header, in memory.
func (x *rotating) firstKey(ctx context.Context, src source.Source, h *header.Header) (source.Key, error) {
	k := h.Next
	key, blob, _, _, err := x.newKey(ctx, src, requestOf(k), copies{})
	if err != nil {
		return nil, err
	}
	x.j.did("key created")
	k.Token.Blob, k.Token.Created = blob, x.sys.Now()
	if x.s.Detached() {
		k.Check = header.Check{}
	}
	if err := h.Store(); err != nil {
		key.Wipe()
		return nil, err
	}
	return key, nil
}

// recordsOf puts the first records into the header area in memory.
func (x *rotating) recordsOf(ctx context.Context, h *header.Header, area header.Image, path string) error {
	data, err := x.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer data.Close()
	l, err := h.Layout(x.storageOn(data))
	if err != nil {
		return err
	}
	b, err := h.RotationBinding(h.Next.Token.Generation)
	if err != nil {
		return err
	}
	e, err := reencrypt.NewEngine(reencrypt.Options{
		Layout: l, Binding: b, Lanes: 1, Unit: header.BlockAlign,
		Views: reencrypt.Views{Old: data, New: data, Raw: data, Meta: area},
	})
	if err != nil {
		return err
	}
	return e.Begin(ctx)
}

// proveAlone is proveFirst for a run that has not locked the header file yet.
func (x *rotating) proveAlone(ctx context.Context, key source.Key) (err error) {
	release, err := x.kernel.LockHeader(ctx, x.s, x.h.LUKS.UUID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	return x.proveFirst(ctx, key)
}

// proveFirst gives the first key its check, reads the header back from storage and proves
// it: only then may anything be encrypted with it. The caller has locked the header file.
func (x *rotating) proveFirst(ctx context.Context, key source.Key) error {
	if x.s.Detached() {
		if err := x.kernel.DeriveCheck(ctx, x.s, x.h.Next, x.c, key); err != nil {
			return err
		}
	}
	// A check derived with a dead key would refuse the right one from now on.
	if err := x.trusted(); err != nil {
		return err
	}
	if err := x.h.Write(x.c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	h, err := header.Read(x.c)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if !h.Encrypting() {
		return fault.Newf(fault.HeaderInvalid, "the header that was read back does not record the encryption")
	}
	if err := x.proveOpens(ctx, x.s, h.Next, x.c); err != nil {
		return err
	}
	x.h = h
	x.j.identify(h, x.j.result.Device)
	x.j.did("key proved")
	x.rememberBegan(x.s, h)
	return x.dropEraseRecord(x.s, x.c)
}

// firstKeyAgain gives up a first key that was never proved, or does not open, while no
// data is under it, and makes a new one.
func (x *rotating) firstKeyAgain(ctx context.Context) error {
	src, err := x.sources.Of(x.s)
	if err != nil {
		return err
	}
	if x.h.Next.Token.State, err = x.stateAllowed(); err != nil {
		return err
	}
	x.sys.Log.Warn("the key of an interrupted encryption was never proved; another one is made", "volume", x.s.Name)
	key, err := x.firstKey(ctx, src, x.h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if !x.s.Detached() {
		x.h.Next.Check.Offset = x.h.Next.FreeCheckArea()
		if err := x.writeCheck(ctx, x.s, x.h.Next, x.c.Header, key); err != nil {
			return err
		}
	} else if err := x.h.Write(x.c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	return x.proveFirst(ctx, key)
}
