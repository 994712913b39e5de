// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// Decrypt undoes [Manager.Encrypt]: a volume becomes a device with a plaintext
// filesystem. The caller has asked a person.
//
// The volume opens until its header is gone; then the device is the plain filesystem.
// With a detached header the data moves starting from its end, so that the superblock
// becomes plaintext last. With a header on the device the data moves down starting from
// its beginning, and the bytes that belong where the header is go to the end of the
// device (see endOnStart). While the volume is in use, its data is moved but the header
// stays: the volume's mappings are recognised by it.
func (m *Manager) Decrypt(ctx context.Context, s spec.Volume, o RotateOptions) (RotateResult, error) {
	r, err := m.decrypt(ctx, s, o)
	return r, Failed(ctx, "decrypt", s, err)
}

func (m *Manager) decrypt(ctx context.Context, s spec.Volume, o RotateOptions) (RotateResult, error) {
	if err := inPlaceable(s); err != nil {
		return RotateResult{Result: m.begin(s, nil).result}, err
	}
	return m.inPlace(ctx, s, o, func(x *rotating, path string) error {
		switch {
		case x.ending != nil:
			return x.continueEnding(ctx, path)
		case x.started:
			return fault.Newf(fault.RotationUnderWay, "the volume is being encrypted: `imxcrypt encrypt %s` continues that", s.Name)
		case s.EncryptPlain && (x.h == nil || !x.h.Decrypting()):
			return fault.Newf(fault.ConfigInvalid, "the configuration has on_plaintext: encrypt, so the next boot would encrypt the volume again: remove that setting first")
		case x.h == nil:
			return x.decryptedAlready(path)
		case x.h.Encrypting():
			return fault.Newf(fault.RotationUnderWay, "the volume is being encrypted: `imxcrypt encrypt %s` continues that", s.Name)
		case x.h.Next != nil && !x.h.Decrypting():
			return fault.Newf(fault.RotationUnderWay, "the volume is being rotated: `imxcrypt rotate --resume-only %s` ends that", s.Name)
		}
		x.decrypts = true
		var err error
		switch {
		case x.h.Decrypting():
			err = x.claimDecryption(ctx)
		case !s.Detached():
			x.plainAt, err = x.placePlain()
		}
		if err != nil {
			return err
		}
		return x.continueInPlace(ctx)
	})
}

// decryptedAlready checks that a device without a header is in plaintext.
func (x *rotating) decryptedAlready(path string) (err error) {
	dev, err := x.sys.Devices.Open(path, rotationFlags(false))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	switch err := header.Plaintext(dev); {
	case fault.Is(err, fault.PlaintextFound):
	case err != nil:
		return err
	case x.s.Detached():
		return fault.Newf(fault.NotProvisioned, "detached header %s is not there, and %s shows no filesystem in plain text", x.s.Header, path)
	default:
		return fault.Newf(fault.NotProvisioned, "%s shows neither a volume nor a filesystem in plain text", path)
	}
	x.j.result.Already = true
	if !x.o.DryRun {
		x.forget(x.s)
	}
	return nil
}

// startDecryption writes the first records, then the header that says that the data is
// being decrypted. No one can make such a header without the key: its check covers that
// statement, too.
func (x *rotating) startDecryption(ctx context.Context) error {
	if err := x.rememberDecryption("", ""); err != nil {
		return err
	}
	from := ""
	if x.h.Check.Exists() {
		from = decryptionMark(x.h)
	}
	x.trusted = x.suspendGuard()
	old, err := x.openProved(ctx, x.s, x.h, x.c, nil)
	if err != nil {
		return err
	}
	defer old.Wipe()
	if err := x.allOfFilesystem(ctx, old); err != nil {
		return err
	}
	if x.c.Detached() {
		if err := x.beginDetached(ctx, old); err != nil {
			return err
		}
	} else {
		if err := x.filesystemNow(ctx, old); err != nil {
			return err
		}
		if !x.h.Copies.Intact() {
			// The first records replace those of the previous rotation, which an older
			// copy may refer to.
			if err := x.h.RepairOn(x.c); err != nil {
				return fmt.Errorf("write both copies of the header: %w", err)
			}
		}
		x.h.BeginDecryption(x.plainAt)
		x.h.Check.Offset = x.h.FreeCheckArea()
	}
	l, err := x.h.Layout(x.c)
	if err != nil {
		return err
	}
	if err := x.firstRecords(ctx, x.h.Next, l); err != nil {
		return err
	}
	if !x.c.Detached() {
		// Prove the check before the header has it: if it was written with a dead key, no
		// key fits it.
		if err := x.writeCheck(ctx, x.s, x.h, x.c.Header, old); err != nil {
			return err
		}
		if err := x.proveOpens(ctx, x.s, x.h, x.c); err != nil {
			return fmt.Errorf("the check, as it is stored: %w", err)
		}
	}
	if err := x.rememberDecryption(decryptionMark(x.h), ""); err != nil {
		return err
	}
	if err := x.h.Write(x.c.Header); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	h, err := header.Read(x.c)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if !h.Decrypting() {
		return fault.Newf(fault.HeaderInvalid, "the header that was read back does not record the decryption")
	}
	if err := x.proveOpens(ctx, x.s, h, x.c); err != nil {
		return err
	}
	x.h = h
	if err := x.rememberDecryption(decryptionMark(h), from); err != nil {
		return err
	}
	x.j.did("key proved, header says that the data is decrypted")
	return nil
}

// filesystemNow checks that the data shows the configured filesystem, and names it in the
// header: at the end it must be seen in plaintext, and it may be a different one from
// what the volume was made with.
func (x *rotating) filesystemNow(ctx context.Context, old source.Key) error {
	if err := x.seeFilesystem(ctx, x.s, x.h, x.c, old); err != nil {
		return err
	}
	sb, err := x.superblock(ctx, old)
	if err != nil {
		return err
	}
	if !sb.Verified || sb.UUID == "" {
		return fault.Newf(fault.FilesystemWrong, "the %s filesystem in the volume cannot be verified: %s", sb.Type, sb.Proof)
	}
	x.h.Token.Filesystem = header.FilesystemID{Type: sb.Type, UUID: sb.UUID}
	return nil
}

// decryptionMark returns what distinguishes this decryption from all others.
func decryptionMark(h *header.Header) string { return hex.EncodeToString(h.Check.Digest[:]) }

// rememberDecryption puts the mark of a decryption into the volume's record, if there is
// one. The mark is written before the header: a decryption that the record does not name
// is refused. from is the mark of the header before it, once that is replaced: no data has
// moved until then.
func (x *rotating) rememberDecryption(mark, from string) error {
	r, ok := x.recall(x.s)
	if r.Decrypts, r.DecryptsFrom = mark, from; ok && !x.record(x.s, r) {
		return fault.Newf(fault.DecryptRefused, "%s cannot be written, but must record the decryption: a decryption without a record is not continued", rememberedPath(x.s))
	}
	return nil
}

// decryptionRecorded reports whether the volume's record names the decryption that the
// header says is under way, or there is no record. A header that the record does not name
// may be an old copy, from a decryption that has ended: what it calls plaintext may be
// anyone's.
func (m *Manager) decryptionRecorded(s spec.Volume, h *header.Header) bool {
	r, ok := m.recall(s)
	return !ok || r.Decrypts == decryptionMark(h)
}

// notBeforeDecryption refuses the header that a decryption has replaced: the key would
// make noise of what is in plain text by now.
func (m *Manager) notBeforeDecryption(s spec.Volume, h *header.Header) error {
	mark := decryptionMark(h)
	if !bytes.Contains(m.rememberedNow(s), []byte(mark)) {
		return nil // of most volumes, at each start
	}
	if r, ok := m.recall(s); ok && r.DecryptsFrom == mark {
		return fault.Newf(fault.HeaderRolledBack, "%s says that a decryption of the volume has begun, and the header is a copy from before it: put the latest one back, since a part of the data may be in plain text. If the device is a copy from before it, too, move %[1]s away", rememberedPath(s))
	}
	return nil
}

func decryptionNotRecorded(s spec.Volume) error {
	return fault.Newf(fault.HeaderRolledBack, "the header says that the volume is being decrypted, but %s has no record of that: the header is an old copy, or another system began the decryption. To continue it anyway: `imxcrypt decrypt %s`", rememberedPath(s), s.Name)
}

// refuseDecrypting refuses to make or restore a header of a volume that is being decrypted
// by its record.
func (m *Manager) refuseDecrypting(s spec.Volume) error {
	if r, ok := m.recall(s); ok && r.Decrypts != "" {
		return fault.Newf(fault.RollbackRefused, "%s says that a decryption of the volume has begun: a part of the data may be in plain text, and only the volume's own header says which", rememberedPath(s))
	}
	return nil
}

// claimDecryption takes over a decryption that the record does not name: a person asks
// for it, and the key proves that the header is the volume's.
func (x *rotating) claimDecryption(ctx context.Context) error {
	if x.o.DryRun {
		return nil // it refuses such a header later
	}
	if x.decryptionRecorded(x.s, x.h) {
		if r, ok := x.recall(x.s); ok {
			x.record(x.s, r) // a killed run may not have made it durable
		}
		return nil
	}
	if err := x.proveOpens(ctx, x.s, x.h, x.c); err != nil {
		return errors.Join(decryptionNotRecorded(x.s), err)
	}
	return x.rememberDecryption(decryptionMark(x.h), "")
}

// beginDetached makes the header that of a decryption, in memory. Its check is derived
// with the key, which must fit the existing check.
func (x *rotating) beginDetached(ctx context.Context, key source.Key) error {
	if !x.h.Check.Exists() {
		if err := x.kernel.DeriveCheck(ctx, x.s, x.h, x.c, key); err != nil {
			return err
		}
	}
	block, err := x.kernel.ReadCheck(ctx, x.s, x.h, x.c, key)
	if err != nil {
		return fmt.Errorf("derive the check: %w", err)
	}
	if !x.h.Check.Fits(block, x.h.Binding()) {
		return fault.Newf(fault.KeyWrong, "the key that was proved a moment ago no longer matches its check")
	}
	x.h.BeginDecryption(0)
	x.h.Check.Digest = header.Derive(block, x.h.Binding())
	return nil
}

// endDecryption removes the header, once the filesystem is seen on the device itself.
func (x *rotating) endDecryption(ctx context.Context, k *mapping.Stack) error {
	if x.live {
		x.j.warn(fmt.Sprintf("all data is in plain text, and the volume is in use by its mapping: `imxcrypt lock %s`, then `imxcrypt decrypt %s` removes the header", x.s.Name, x.s.Name))
		return nil
	}
	if err := k.Remove(ctx); err != nil {
		return err
	}
	r, err := x.h.RotationRecord(x.c)
	if err != nil {
		return err
	}
	if r.Phase != reencrypt.Finished {
		return fault.Newf(fault.RotationDamaged, "the record says that %d of %d bytes are in plain text", r.Done(), r.DataSize)
	}
	// Without the key, anyone can write a header and a record that say that all data is
	// in plaintext. If the key no longer opens, as on a chip that was closed, only a
	// person may end the decryption.
	if err := x.proveOpens(ctx, x.s, x.h, x.c); err != nil && (x.o.ResumeOnly || fault.Is(err, fault.KeyWrong)) {
		return err
	}
	if err := x.c.Data.Flush(); err != nil {
		return fault.New(fault.IOFailed, "flush "+x.c.Data.Path(), err)
	}
	want := x.h.Token.Filesystem
	sb, err := fsprobe.Read(x.h.Next.PlainView(x.c.Data), x.c.Data.Size())
	if err != nil || !sb.Verified || sb.Type != want.Type || sb.UUID != want.UUID {
		return fault.New(fault.FilesystemMissing, fmt.Sprintf("%s does not show the %s filesystem %s in plain text; the header stays", x.c.Data.Path(), want.Type, want.UUID), err)
	}
	if x.c.Detached() {
		if err := x.sys.Files.Remove(x.s.Header); err != nil {
			return err
		}
		x.j.did("header removed")
	} else if err := x.endOnStart(ctx, x.c.Data.Path(), x.h, x.beginPuttingBack); err != nil {
		return err
	}
	x.decrypted(x.h)
	return nil
}

// decrypted forgets a volume that no longer exists.
func (x *rotating) decrypted(h *header.Header) {
	x.forget(x.s)
	if h.Token.Source == spec.SourceDev {
		src := source.Dev{Files: x.sys.Files, Dir: x.s.StateDir}
		if err := x.sys.Files.Remove(src.Path(requestOf(h))); err != nil {
			x.j.warn("the file of the key could not be removed: " + err.Error())
		}
	}
}
