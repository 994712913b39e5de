// SPDX-License-Identifier: Apache-2.0

package sleep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
)

// prepare does everything that can be done, and can be refused, while the system still
// runs. Afterwards everything that is needed later is open and was used once.
func (z *sleeping) prepare(ctx context.Context, specs []spec.Volume) error {
	if !z.o.DryRun {
		// Lock the locked volumes too: a key that is being made would go stale before it
		// is used.
		for _, s := range specs {
			release, err := z.sys.Locks.Acquire(ctx, s.Name)
			if err != nil {
				return volume.Failed(ctx, "sleep", s, err)
			}
			z.closers = append(z.closers, release)
		}
	}
	for _, s := range specs {
		if err := z.add(ctx, s); err != nil {
			return volume.Failed(ctx, "sleep", s, err)
		}
	}
	if err := z.refuseUnknownKeys(); err != nil {
		return err
	}
	z.sort()
	if z.o.DryRun {
		return nil
	}
	for _, v := range z.volumes {
		if !v.HasBlackKey() {
			continue
		}
		if err := v.Prove(ctx); err != nil {
			return volume.Failed(ctx, "sleep", v.s, fmt.Errorf("its key does not open now, and would not after the sleep: %w", err))
		}
	}
	z.did("keys proved")
	return nil
}

// add looks at one volume, and adds it if it is in use.
func (z *sleeping) add(ctx context.Context, s spec.Volume) error {
	info, err := z.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Suspended {
		return fault.Newf(fault.SleepRefused, "mapping %s is suspended, and writing back would wait for it for ever: imxcrypt unlock %s resumes it", s.Mapping, s.Name)
	}
	if live, err := z.sys.Mapper.Table(s.Mapping); err != nil || live.IsCut() {
		z.warn(fmt.Sprintf("mapping %s is cut off from its device, and stays so", s.Mapping))
		return err
	}
	if s.Ephemeral() {
		return z.throwAway(s)
	}
	u, err := volume.New(z.sys).OpenInUse(ctx, s, z.o.DryRun)
	if err != nil || u == nil {
		return err
	}
	z.closers = append(z.closers, u.Close)
	if u.Revived && z.o.DryRun {
		z.would("give " + s.Name + " its key again, which was lost in a suspend or is in doubt")
	}
	for _, w := range u.Warnings {
		z.warn(w)
	}
	number := blockdev.Number{Major: info.Number.Major, Minor: info.Number.Minor}
	below := z.sys.Devices.Below(number)
	// A detached header may be on another volume.
	if on := u.HeaderOn(); !slices.Contains(below, on) {
		below = append(append(below, on), z.sys.Devices.Below(on)...)
	}
	z.volumes = append(z.volumes, &sleepingVolume{InUse: u, s: s, number: number, below: below})
	return nil
}

// throwAway refuses to sleep if the key cannot be opened a second time and the chip would
// forget it. Any other key stays in the kernel.
func (z *sleeping) throwAway(s spec.Volume) error {
	t, err := z.sys.Mapper.Table(s.Mapping)
	if err == nil && t.HasBlackKey() {
		err = fault.Newf(fault.SleepRefused, "its key is thrown away (key: ephemeral), and the chip loses it in suspend-to-RAM: lock it first, imxcrypt lock %s", s.Name)
	}
	return err
}

// refuseUnknownKeys refuses to sleep while a mapping has a key of the chip that nothing
// would open again.
func (z *sleeping) refuseUnknownKeys() error {
	infos, err := z.sys.Mapper.List()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if !i.Live || i.Suspended || slices.ContainsFunc(z.volumes, func(v *sleepingVolume) bool { return v.owns(i.Name) }) {
			continue
		}
		t, err := z.sys.Mapper.Table(i.Name)
		if err != nil {
			return err
		}
		if t.HasBlackKey() {
			return fault.Newf(fault.SleepRefused, "mapping %s has a key that the chip loses in suspend-to-RAM, and is not an unlocked volume of this configuration", i.Name)
		}
	}
	return nil
}

// sort puts each volume before those it needs.
func (z *sleeping) sort() {
	for _, v := range z.volumes {
		for _, o := range z.volumes {
			if v != o && slices.Contains(v.below, o.number) {
				v.on = append(v.on, o)
			}
		}
	}
	// What is needed needs others in turn: a volume that holds a header, and that
	// volume's own header.
	for range z.volumes {
		for _, v := range z.volumes {
			for _, o := range v.on {
				for _, further := range o.on {
					if further != v && !slices.Contains(v.on, further) {
						v.on = append(v.on, further)
					}
				}
			}
		}
	}
	sort.SliceStable(z.volumes, func(i, j int) bool { return len(z.volumes[i].on) > len(z.volumes[j].on) })
}

// sleepingVolume is a volume in use on its way through the sleep.
type sleepingVolume struct {
	*volume.InUse
	s spec.Volume
	// number is that of the volume's own mapping; below are those of all devices that it
	// and its header are on.
	number blockdev.Number
	below  []blockdev.Number
	on     []*sleepingVolume
	stays  bool
}

// owns reports whether a mapping is the volume's or one of its private ones.
func (v *sleepingVolume) owns(name string) bool {
	rest, ok := strings.CutPrefix(name, v.s.Mapping)
	return ok && (rest == "" || slices.Contains(mapping.PrivateSuffixes(), rest))
}

func (v *sleepingVolume) shown() Volume {
	s := Volume{
		Volume: v.s.Name, Mapping: "/dev/mapper/" + v.s.Mapping, Source: v.Source(),
		NewKey: v.HasBlackKey(), Rotating: v.Rotating(), Revived: v.Revived, Suspended: v.stays,
	}
	for _, o := range v.on {
		s.On = append(s.On, o.s.Name)
	}
	return s
}

// wake resumes the volume after the sleep, unless one below it stays suspended.
func (v *sleepingVolume) wake(ctx context.Context) error {
	for _, o := range v.on {
		if o.stays {
			return fmt.Errorf("it or its header is on %s, which stays suspended", o.s.Name)
		}
	}
	return v.Wake(ctx, v.HasBlackKey())
}
