// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
)

// prepare does everything that can be done, and refused, while the system runs:
// what is needed later is open and was used once.
func (z *sleeping) prepare(ctx context.Context, specs []Spec) error {
	if !z.o.DryRun {
		// Of the locked ones too: a key that is being made would go stale in the
		// hands of whoever makes it.
		for _, s := range specs {
			release, err := z.sys.Locks.Acquire(ctx, s.Name)
			if err != nil {
				return failed(ctx, "sleep", s, err)
			}
			z.closers = append(z.closers, release)
		}
	}
	for _, s := range specs {
		v, err := z.sleeperOf(ctx, s)
		if err != nil {
			return failed(ctx, "sleep", s, err)
		}
		if v != nil {
			z.sleepers = append(z.sleepers, v)
		}
	}
	if err := z.strangers(); err != nil {
		return err
	}
	z.sort()
	if z.o.DryRun {
		return nil
	}
	for _, v := range z.sleepers {
		if err := v.prove(ctx); err != nil {
			return failed(ctx, "sleep", v.s, fmt.Errorf("its key does not open now, and would not after the sleep: %w", err))
		}
	}
	z.j.did("keys proved")
	return nil
}

// sleeperOf looks at one volume; nil if it is locked.
func (z *sleeping) sleeperOf(ctx context.Context, s Spec) (*sleeper, error) {
	info, err := z.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Suspended {
		z.j.warn(fmt.Sprintf("mapping %s is suspended already, and stays so", s.Mapping))
		return nil, nil
	}
	path, err := z.find(ctx, s, false)
	if err != nil {
		return nil, err
	}
	c, err := z.openContainer(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return nil, err
	}
	z.closers = append(z.closers, c.close)
	h, err := readHeader(c)
	if err != nil {
		return nil, err
	}
	j := z.begin(s, nil)
	if err := z.mayOpen(s, h, j); err != nil {
		return nil, err
	}
	u := &unlocking{Manager: z.Manager, s: s, o: UnlockOptions{DryRun: z.o.DryRun}, j: j, c: c, h: h}
	// This also settles a zone that a killed rotation holds; suspending would
	// wait for it.
	if open, err := u.alreadyOpen(ctx); err != nil || !open {
		return nil, err
	}
	v := &sleeper{unlocking: u, numbers: []blockdev.Number{{Major: info.Number.Major, Minor: info.Number.Minor}}}
	if err := v.findKeys(); err != nil {
		return nil, err
	}
	v.below = z.sys.Devices.Below(v.numbers[0])
	return v, nil
}

// sort puts what lies on another before it. Devices cannot lie on each other in
// a circle.
func (z *sleeping) sort() {
	for _, v := range z.sleepers {
		for _, o := range z.sleepers {
			if v != o && slices.ContainsFunc(o.numbers, func(n blockdev.Number) bool { return slices.Contains(v.below, n) }) {
				v.on = append(v.on, o)
			}
		}
	}
	// The more lies below, the higher it is: below is transitive.
	slices.SortStableFunc(z.sleepers, func(a, b *sleeper) int { return len(b.on) - len(a.on) })
}

// sleeper is an unlocked volume on its way through the sleep.
type sleeper struct {
	*unlocking
	// key is the header of the key that the mapping has; nil during a rotation,
	// which has two, each in a mapping of its own.
	key   *header
	sides []side
	// numbers are of the volume's own mapping, below are of all devices that it
	// stands on.
	numbers, below []blockdev.Number
	on             []*sleeper
	stays          bool
}

// side is one of the two mappings of a rotation.
type side struct {
	name string
	h    *header
}

func (v *sleeper) keyed() bool { return v.s.Source != SourceDev }

// owns tells whether a mapping is the volume's or one of its private ones.
func (v *sleeper) owns(mapping string) bool {
	rest, ok := strings.CutPrefix(mapping, v.s.Mapping)
	return ok && (rest == "" || slices.Contains(privateSuffixes(), rest))
}

func (v *sleeper) shown() SleepVolume {
	s := SleepVolume{
		Volume: v.s.Name, Mapping: "/dev/mapper/" + v.s.Mapping, Source: v.s.Source,
		NewKey: v.keyed(), Rotating: v.key == nil, Suspended: v.stays,
	}
	for _, o := range v.on {
		s.On = append(s.On, o.s.Name)
	}
	return s
}

// findKeys tells which keys are under the volume now.
func (v *sleeper) findKeys() error {
	live, err := v.sys.Mapper.Table(v.s.Mapping)
	if err != nil {
		return err
	}
	if v.h.next == nil {
		v.key = v.h
		return nil
	}
	if len(live) == 1 {
		if crypt, ok := live[0].(dmcrypt.Crypt); ok {
			v.key = v.h
			if crypt.Key.Description == v.h.next.description() {
				v.key = v.h.next
			}
			return nil
		}
	}
	v.sides = []side{{v.s.Mapping + oldSuffix, v.h}, {v.s.Mapping + newSuffix, v.h.next}}
	return nil
}
