// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/caam"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// mayEncrypt reports whether an unlock that failed with err found a device that
// on_plaintext: encrypt may be meant for: one in plain text, one that a power cut left
// partly made smaller, or one with the file of a header whose key was never proved.
func (m *Manager) mayEncrypt(s spec.Volume, path string, err error) bool {
	switch {
	case !s.EncryptPlain || s.Ephemeral():
		return false
	case fault.Is(err, fault.ShrinkStarted):
		made, _ := m.madeBefore(s)
		return !made && !s.Detached()
	case !s.Detached():
		return fault.Is(err, fault.PlaintextFound)
	case !fault.Is(err, fault.NotProvisioned) && !fault.Is(err, fault.EncryptionStarted):
		return false
	}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return false
	}
	err = header.Plaintext(dev)
	return dev.Close() == nil && fault.Is(err, fault.PlaintextFound)
}

// encryptFound makes a device in plain text the volume, unattended. It does what Encrypt
// does until the volume can be opened, and no more. Any objection leaves the device as it
// is, and the volume closed.
//
// A filesystem that someone puts in the volume's place must not be taken for the volume
// later. So this is done once: a record that the volume was made, of whatever kind and
// however old, refuses it, and so does a state directory that cannot keep one.
func (m *Manager) encryptFound(ctx context.Context, s spec.Volume, path string, o UnlockOptions, j *runLog) error {
	heedSignals(ctx)
	err := inPlaceable(s)
	if err == nil {
		err = m.requireNotMadeBefore(s, path)
	}
	if err == nil {
		x := &rotating{
			Manager: m, s: s, j: j, unattended: true,
			o: RotateOptions{InitOnly: true, Mount: o.Mount, DryRun: o.DryRun},
		}
		err = x.onFound(path, func(x *rotating, path string) error { return x.encryptHere(ctx, path) })
	}
	if err != nil {
		return fmt.Errorf("on_plaintext: encrypt: %w", err)
	}
	return nil
}

// requireNotMadeBefore enforces that no record says that the volume existed. Someone may
// have made a filesystem over it, and then a backup of its header still opens what is
// left.
func (m *Manager) requireNotMadeBefore(s spec.Volume, path string) error {
	made, err := m.madeBefore(s)
	if !made {
		return nil
	}
	return fault.New(fault.PlaintextRefused, fmt.Sprintf("%s holds a filesystem in plain text, which is encrypted only the first time: volume %q was made before, as %s says", path, s.Name, rememberedPath(s)), err)
}

// madeBefore reports whether there is a record under the volume's name, for any device. A
// record that cannot be read may say that the volume existed; err is the reason.
func (m *Manager) madeBefore(s spec.Volume) (made bool, err error) {
	_, err = m.sys.Files.Read(rememberedPath(s), atomicfile.ReadOptions{MaxSize: header.BlockAlign})
	return !errors.Is(err, fs.ErrNotExist), err
}

// recordable enforces that the volume will be remembered after the next start.
func (x *rotating) recordable(path string) error {
	refused := func(why string, err error) error {
		return fault.New(fault.PlaintextRefused, fmt.Sprintf("%s holds a filesystem in plain text, which is encrypted only if that can be recorded: state_dir %s %s", path, x.s.StateDir, why), err)
	}
	if !x.o.DryRun {
		trial := rememberedPath(x.s) + ".trial"
		if err := errors.Join(x.sys.Files.Replace(trial, nil, 0o600), x.sys.Files.Remove(trial)); err != nil {
			return refused("cannot be written", err)
		}
	}
	if why := x.sys.Fleeting(x.s.StateDir); why != "" {
		return refused(why, nil)
	}
	return nil
}

// beforeUnattended is the last check that may refuse before a key is made. A filesystem
// that was not unmounted because power was cut, as just before the update's restart, goes
// to its checker, as at every start.
func (x *rotating) beforeUnattended(ctx context.Context, h *header.Header, path string, state caam.SecurityState) (*header.Header, error) {
	x.lenient = false
	if err := x.recordable(path); err != nil || !x.unclean {
		return h, err
	}
	if x.o.DryRun {
		x.j.would("check the filesystem, which was not unmounted cleanly")
		return h, nil
	}
	repaired, err := x.sys.Filesystems.Check(ctx, x.s.Filesystem.Type, path)
	if err != nil {
		return nil, fault.New(fault.FilesystemUnclean, fmt.Sprintf("the %s filesystem on %s was not unmounted cleanly, or has recorded errors, and was not checked", x.s.Filesystem.Type, path), err)
	}
	if repaired {
		x.j.warn(fmt.Sprintf("the %s filesystem was damaged and has been repaired", x.s.Filesystem.Type))
	}
	x.j.did("filesystem checked")
	x.unclean = false
	if h, err = x.surveyPlain(path, state, true); err == nil && x.shrinkTo > 0 {
		err = x.mayShrink(path)
	}
	return h, err
}

// rememberPlain keeps the record by which plain text is refused from now on, as is the
// header of an encryption that has ended. It makes up for an earlier run that did not get
// that far.
func (m *Manager) rememberPlain(s spec.Volume, h *header.Header, j *runLog) {
	var ok bool
	if h.Encrypting() {
		ok = m.rememberBegan(s, h)
	} else {
		ok = m.remember(s, h.LUKS.UUID) && (h.Next != nil || m.rememberEnded(s, h))
	}
	if !ok {
		j.warn("with on_plaintext: encrypt a filesystem in plain text would be taken for the volume, since " + rememberedPath(s) + " cannot be written: remove on_plaintext from the configuration")
	}
}

// rememberBegan records which encryption made the volume, and reports whether the record
// says so.
func (m *Manager) rememberBegan(s spec.Volume, h *header.Header) bool {
	ok := m.remember(s, h.LUKS.UUID)
	if r, known := m.recall(s); ok && known && r.Began != encryptionMark(h) {
		r.Began = encryptionMark(h)
		ok = m.record(s, r)
	}
	return ok
}

// rememberEnded makes up for the record that an encryption has ended, if power was cut
// right after the header that ends it. It reports whether nothing is left to record.
func (m *Manager) rememberEnded(s spec.Volume, h *header.Header) bool {
	if !bytes.Contains(m.rememberedNow(s), []byte(`"began"`)) {
		return true // of most volumes, at each start
	}
	r, known := m.recall(s)
	if !known || r.UUID != h.LUKS.UUID || r.Ended == r.Began {
		return true
	}
	r.Ended = r.Began
	return m.record(s, r)
}

// encryptionMark distinguishes one encryption of a device from all others.
func encryptionMark(h *header.Header) string { return hex.EncodeToString(h.Next.Check.Digest[:]) }

// rememberEnd records that all of the volume is encrypted. h is the header before that.
func (m *Manager) rememberEnd(s spec.Volume, h *header.Header, j *runLog) {
	ok := m.remember(s, h.LUKS.UUID)
	if r, known := m.recall(s); ok && known {
		r.Began, r.Ended = encryptionMark(h), encryptionMark(h)
		ok = m.record(s, r)
	}
	if !ok {
		j.warn("could not record in " + rememberedPath(s) + " that all data is encrypted: an older copy of the header, if put back, would not be refused")
	}
}

// refuseEnded refuses a header from the middle of an encryption that has ended. Someone put
// it back, and what it calls the rest in plain text may be anyone's.
func (m *Manager) refuseEnded(s spec.Volume, h *header.Header) error {
	if r, ok := m.recall(s); ok && r.Ended == encryptionMark(h) {
		return fault.Newf(fault.HeaderRolledBack, "the header says that the volume is being encrypted, but %s says that this has ended: the header is an old copy", rememberedPath(s))
	}
	return nil
}
