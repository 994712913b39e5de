// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// condition is the state of the key in the kernel under a live mapping. A black key is
// dead when the chip has lost the key that it is encrypted with, which most chips do in
// suspend to RAM: with CCM every request fails; with ECB, reads return noise and writes
// store noise. Data written with a dead key is worse than data not written.
type condition int

const (
	// unsuspected: nothing indicates that the key is lost.
	unsuspected condition = iota
	// alive: the filesystem was just seen through it.
	alive
	// doubtful: the system was suspended since the key was proved, and nothing can be
	// read that would show whether it is dead, or the volume has two sides.
	doubtful
	// dead: what is read through it is not the filesystem.
	dead
	// cutOff: the mapping's table is `error`; there is no key in it.
	cutOff
)

// lost reports whether nothing may be written through the mapping.
func (c condition) lost() bool { return c >= doubtful }

// errDoubtful distinguishes a key in doubt from one that is dead.
var errDoubtful = errors.New("the system was suspended since the key was proved")

// lostKey returns the error for a mapping whose key is lost.
func lostKey(s spec.Volume, c condition, why error) error {
	switch c {
	case doubtful:
		return fault.New(fault.KeysLost, fmt.Sprintf("whether the key under mapping %s outlived a suspend is not known", s.Mapping), errors.Join(errDoubtful, why))
	case cutOff:
		return fault.Newf(fault.KeysLost, "mapping %s has no key any more: it was cut off from its device, and every request fails", s.Mapping)
	}
	return fault.New(fault.KeysLost, fmt.Sprintf("mapping %s shows no %s filesystem: its key was lost in a suspend", s.Mapping, s.Filesystem.Type), why)
}

// condition looks through a live mapping. It opens no key and writes nothing. The
// error says why nothing was seen.
func (m *Manager) condition(s spec.Volume, info dmcrypt.Info) (condition, error) {
	if !info.Live {
		return unsuspected, nil
	}
	if info.Suspended {
		// Nothing passes through it, and it gets its key again before anything does. That
		// is not so for the mappings under a rotation.
		if _, err := m.sys.Mapper.Info(s.Mapping + mapping.OverlaySuffix); err != nil || !m.sleptSince(s, info) {
			return unsuspected, nil
		}
		return doubtful, nil
	}
	keys, err := m.keysUnder(s)
	switch {
	case err != nil:
		return unsuspected, err
	case keys.cut:
		return cutOff, nil
	case !keys.mortal:
		return unsuspected, nil
	}
	suspect := m.sleptSince(s, info)
	seen, err := m.seeThrough(s, info)
	switch {
	case seen && suspect && keys.twoSides:
		return doubtful, nil // it was seen on one of the sides
	case seen:
		return alive, nil
	case err == nil:
		// It may be damaged and open for repair, or half-written by an updater. But a
		// mounted filesystem was there.
		if !suspect || !s.Filesystem.ProvesKey() {
			if targets, err := m.mountPoints(info); err != nil || len(targets) == 0 {
				if suspect {
					return doubtful, err
				}
				return unsuspected, err
			}
		}
		return dead, nil
	case errors.Is(err, unix.EILSEQ), errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EIO) && m.storageReads(s):
		return dead, err
	case suspect:
		return doubtful, err
	}
	return unsuspected, nil
}

// keys is what the tables of a volume show. mortal: a suspend kills a key in them.
// twoSides: the volume has two sides, as during a rotation, and one may be seen while the
// key of the other is dead. cut: one of the tables is `error`.
type keys struct{ mortal, twoSides, cut bool }

// keysUnder looks at the tables of a volume.
func (m *Manager) keysUnder(s spec.Volume) (k keys, err error) {
	sides := 0
	for _, suffix := range []string{"", mapping.OldSuffix, mapping.NewSuffix} {
		t, err := m.sys.Mapper.Table(s.Mapping + suffix)
		if errors.Is(err, dmcrypt.ErrNotFound) {
			continue
		}
		if err != nil {
			return keys{}, err
		}
		if suffix != "" {
			sides++
		}
		k.mortal = k.mortal || t.HasBlackKey()
		k.cut = k.cut || t.IsCut()
	}
	k.twoSides = sides > 1
	return k, nil
}

// sleptSince reports whether the system was suspended since the key under the mapping was
// last proved, or since boot if that is not recorded, on a chip that loses its keys in a
// suspend.
func (m *Manager) sleptSince(s spec.Volume, info dmcrypt.Info) bool {
	now := m.sys.Slept()
	if !now.Since(Slept{}) {
		return false
	}
	if m.sys.Unlocks != nil {
		u, err := m.sys.Unlocks.LastUnlock(s.Name)
		if err == nil && dmcrypt.VolumeUUID(u.UUID, s.Mapping) == info.UUID && !now.Since(u.Slept) {
			return false
		}
	}
	return m.sys.KeepsKeys == nil || !m.sys.KeepsKeys()
}

// seeThrough reports whether the filesystem is seen through a mapping. An error means
// that nothing could be read; it wraps [blockdev.ErrDirty] if reading would write.
func (m *Manager) seeThrough(s spec.Volume, info dmcrypt.Info) (bool, error) {
	if !fsprobe.Known(s.Filesystem.Type) {
		return false, fault.Newf(fault.KeysLost, "there is no filesystem to test the key with")
	}
	for _, suffix := range mapping.PrivateSuffixes() {
		if i, err := m.sys.Mapper.Info(s.Mapping + suffix); err == nil && i.Suspended {
			return false, fault.Newf(fault.Busy, "mapping %s under it is suspended", i.Name)
		}
	}
	var seen bool
	m.looks.Add(1)
	err := within(m.sys.Patience, func() error {
		defer m.looks.Add(-1)
		d, err := m.sys.Devices.Open(mapping.Node(info.Number), blockdev.Flags{Direct: true})
		if err != nil {
			return err
		}
		seen, err = fsprobe.Seen(cleanReader{d}, d.Size(), s.Filesystem.Type)
		return errors.Join(err, d.Close())
	})
	if err != nil {
		return false, err
	}
	return seen, nil
}

// within calls do, and returns an error if it takes longer than patience. do then still
// runs.
func within(patience time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fault.Newf(fault.IOFailed, "no answer within %v", patience)
	}
}

// cleanReader reads from a device that may be mounted, without causing writes. Before a
// read past the page cache, the kernel writes back what it has in memory of the range,
// here through a key that may be dead.
type cleanReader struct{ header.Device }

func (r cleanReader) ReadAt(p []byte, off int64) (int, error) {
	if d, ok := r.Device.(interface {
		ReadClean(p []byte, off int64) (int, error)
	}); ok {
		return d.ReadClean(p, off)
	}
	return r.Device.ReadAt(p, off)
}

// storageReads reports whether the storage under the first block of a volume can be read.
// If so, an I/O error comes from the key.
func (m *Manager) storageReads(s spec.Volume) bool {
	t, err := m.sys.Mapper.Table(s.Mapping)
	if err != nil || len(t) != 1 {
		return false
	}
	crypt, ok := t[0].(dmcrypt.Crypt)
	if !ok {
		return false
	}
	path, err := m.locateUnattached(context.Background(), s)
	if err != nil {
		return false
	}
	d, err := m.sys.Devices.Open(path, blockdev.Flags{Direct: true})
	if err != nil {
		return false
	}
	defer d.Close()
	n := d.Number()
	_, err = d.ReadAt(make([]byte, header.BlockAlign), int64(crypt.Offset)*header.SectorBytes)
	return err == nil && n.Major == crypt.Device.Major && n.Minor == crypt.Device.Minor
}

// cut makes every request to a volume fail, at once and without freezing its filesystem,
// which would write. During a rotation the mappings of both sides are cut, and what is
// held above them continues, and fails. The hot mappings are cut after the sides, since a
// request in them may wait for a side. They stay cut when the sides work again: only the
// record says which side the zone of a killed rotation is on.
func (m *Manager) cut(ctx context.Context, s spec.Volume, info dmcrypt.Info) error {
	ctx = context.WithoutCancel(ctx)
	sides := false
	for _, suffix := range []string{mapping.OldSuffix, mapping.NewSuffix} {
		err := m.cutOne(ctx, s.Mapping+suffix, dmcrypt.Private, info.ReadOnly)
		if errors.Is(err, dmcrypt.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		sides = true
	}
	if !sides {
		return m.cutOne(ctx, s.Mapping, dmcrypt.Public, info.ReadOnly)
	}
	hot := mapping.HotSuffixes()
	for _, suffix := range hot {
		if err := m.cutOne(ctx, s.Mapping+suffix, dmcrypt.Private, info.ReadOnly); err != nil && !errors.Is(err, dmcrypt.ErrNotFound) {
			return err
		}
	}
	for _, x := range []struct {
		suffix string
		v      dmcrypt.Visibility
	}{{hot[0], dmcrypt.Private}, {hot[1], dmcrypt.Private}, {mapping.OverlaySuffix, dmcrypt.Private}, {"", dmcrypt.Public}} {
		now, err := m.sys.Mapper.Info(s.Mapping + x.suffix)
		if errors.Is(err, dmcrypt.ErrNotFound) || err == nil && !now.Suspended {
			continue
		}
		if err == nil {
			err = m.sys.Mapper.Resume(s.Mapping+x.suffix, x.v, mapping.Quietly)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) cutOne(ctx context.Context, name string, v dmcrypt.Visibility, readOnly bool) error {
	t, err := m.sys.Mapper.Table(name)
	if err != nil || len(t) == 0 || t.IsCut() {
		return err
	}
	return m.sys.Mapper.Swap(ctx, name, dmcrypt.Table{dmcrypt.Fail{Length: t.Sectors()}}, readOnly, v, mapping.Quietly)
}
