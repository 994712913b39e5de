// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
)

// The private mappings of a rotation, from the top: a volume in use is a linear
// piece over the overlay, whose table shows each part of it on the side that it
// is on; the zone in transit, over the hot mapping, which is suspended as long
// as the zone is held. Only the overlay's table is swapped, and nobody but us
// knows the overlay, so that udev is not told of every zone.
const (
	overlaySuffix = ":rotate"
	hotSuffix     = ":hot"
	oldSuffix     = ":old"
	newSuffix     = ":new"
)

// privateSuffixes are those of all private mappings there can be, in the order in
// which they can be removed.
func privateSuffixes() []string {
	return []string{overlaySuffix, hotSuffix, oldSuffix, newSuffix, checkSuffix, mkfsSuffix}
}

// quietly suspends without freezing the filesystem, which would write to it
// and wait for ever for a zone that is held, and without waiting for requests
// that can be queued.
const quietly = dmcrypt.SkipLockFS | dmcrypt.NoFlush

// stack is the private mappings of one volume's rotation.
type stack struct {
	*Manager
	s      Spec
	uuid   string
	layout reencrypt.Layout

	old, new, overlay, hot dmcrypt.Number
	readOnly               bool
}

func (m *Manager) newStack(s Spec, h *header, c *container) (*stack, error) {
	l, err := h.layout(c)
	if err != nil {
		return nil, err
	}
	return &stack{Manager: m, s: s, uuid: h.luks.UUID, layout: l, readOnly: c.data.ReadOnly()}, nil
}

func (k *stack) name(suffix string) string { return k.s.Mapping + suffix }

func (k *stack) helper(suffix string) (name, uuid string) {
	name = k.name(suffix)
	return name, dmcrypt.HelperUUID(k.uuid, name)
}

// look finds a mapping of the stack; zero if it is not there.
func (k *stack) look(suffix string) (dmcrypt.Info, error) {
	name, uuid := k.helper(suffix)
	info, err := k.sys.Mapper.Info(name)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return dmcrypt.Info{}, nil
	}
	if err == nil && info.UUID != uuid {
		err = refuse(fault.MappingMismatch, "mapping %s exists and is not ours: uuid %q", name, info.UUID)
	}
	return info, err
}

// attach finds the mappings of a stack that is live.
func (k *stack) attach() error {
	for _, x := range []struct {
		suffix string
		to     *dmcrypt.Number
		must   bool
	}{{oldSuffix, &k.old, true}, {newSuffix, &k.new, true}, {overlaySuffix, &k.overlay, true}, {hotSuffix, &k.hot, false}} {
		info, err := k.look(x.suffix)
		if err != nil {
			return err
		}
		if x.must && info.Number.IsZero() {
			return refuse(fault.MappingMismatch, "mapping %s is missing below the live volume", k.name(x.suffix))
		}
		*x.to = info.Number
	}
	return nil
}

// build makes the mappings of both sides with their keys.
func (k *stack) build(ctx context.Context, h *header, c *container, oldKey, newKey liveKey) (err error) {
	for _, x := range []struct {
		suffix string
		h      *header
		key    liveKey
		to     *dmcrypt.Number
	}{{oldSuffix, h, oldKey, &k.old}, {newSuffix, h.next, newKey, &k.new}} {
		name, uuid := k.helper(x.suffix)
		a, err := k.activate(ctx, name, uuid, x.h.description(), x.key, k.readOnly, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return x.h.dataTable(k.s, c.data.Number(), ref)
		})
		if err != nil {
			return errors.Join(err, k.remove(ctx))
		}
		*x.to = a.num
	}
	return nil
}

// buildOverlay makes the overlay as a record has it.
func (k *stack) buildOverlay(ctx context.Context, r reencrypt.Record) (err error) {
	k.overlay, err = k.activatePlain(ctx, overlaySuffix, k.pieces(k.layout.Pieces(r.Position, reencrypt.Zone{})))
	return err
}

// activatePlain makes a private mapping that needs no key.
func (k *stack) activatePlain(ctx context.Context, suffix string, t dmcrypt.Table) (dmcrypt.Number, error) {
	name, uuid := k.helper(suffix)
	if err := k.removeLeftover(ctx, name, uuid); err != nil {
		return dmcrypt.Number{}, err
	}
	return k.sys.Mapper.Activate(ctx, name, uuid, t, k.readOnly)
}

// pieces is the overlay's table.
func (k *stack) pieces(list []reencrypt.Piece) dmcrypt.Table {
	t := make(dmcrypt.Table, 0, len(list))
	for _, p := range list {
		to := k.old
		switch {
		case p.Hot:
			to = k.hot
		case p.Side == reencrypt.New:
			to = k.new
		}
		start := uint64(p.Start / sectorBytes)
		t = append(t, dmcrypt.Linear{Start: start, Length: uint64(p.Length / sectorBytes), Device: to, Offset: start})
	}
	return t
}

// whole is a table that shows all of another mapping.
func (k *stack) whole(n dmcrypt.Number) dmcrypt.Table {
	return dmcrypt.Table{dmcrypt.Linear{Length: uint64(k.layout.DataSize / sectorBytes), Device: n}}
}

// remove takes away all mappings of the stack, also after ctx was cancelled.
func (k *stack) remove(ctx context.Context) error {
	_, err := k.removePrivate(context.WithoutCancel(ctx), k.s)
	return err
}

// isTop tells whether a live table is that of a volume over the overlay.
func (k *stack) isTop(live dmcrypt.Table) bool {
	return !k.overlay.IsZero() && k.whole(k.overlay).Equal(live)
}

// settle makes a live volume that a killed rotation left usable: the zone that
// is held goes to the side that the record names, and whatever is suspended is
// resumed.
//
// What is held in the hot mapping goes on before the overlay is suspended,
// which waits for it. With the overlay suspended nothing can be in the hot
// mapping, whose table may then be of another zone.
func (k *stack) settle(ctx context.Context, e *reencrypt.Engine) error {
	r, err := e.Recover(ctx)
	if err != nil {
		return err
	}
	over, err := k.look(overlaySuffix)
	if err != nil {
		return err
	}
	if err := k.settleHot(ctx, r, over.Suspended); err != nil {
		return err
	}
	if err := k.rest(ctx, r); err != nil {
		return err
	}
	top, err := k.sys.Mapper.Info(k.s.Mapping)
	if err != nil || !top.Suspended {
		return err
	}
	if err := k.sys.Mapper.Clear(k.s.Mapping); err != nil {
		return err
	}
	return k.sys.Mapper.Resume(k.s.Mapping, dmcrypt.Public, quietly)
}

func (k *stack) settleHot(ctx context.Context, r reencrypt.Record, overlaySuspended bool) error {
	hot, err := k.look(hotSuffix)
	if err != nil || hot.Number.IsZero() || !hot.Suspended {
		return err
	}
	if !overlaySuspended {
		side, err := k.heldSide(r)
		if err != nil {
			return err
		}
		if err := k.sys.Mapper.Load(ctx, k.name(hotSuffix), k.whole(side), false); err != nil {
			return err
		}
	}
	return k.sys.Mapper.Resume(k.name(hotSuffix), dmcrypt.Private, quietly)
}

// heldSide is the mapping that the zone in the overlay's table belongs to.
func (k *stack) heldSide(r reencrypt.Record) (dmcrypt.Number, error) {
	live, err := k.sys.Mapper.Table(k.name(overlaySuffix))
	if err != nil {
		return dmcrypt.Number{}, err
	}
	at := slices.IndexFunc(live, func(t dmcrypt.Target) bool {
		l, ok := t.(dmcrypt.Linear)
		return ok && l.Device == k.hot
	})
	if at < 0 {
		return k.new, nil // nothing leads to it
	}
	start, length := live[at].Extent()
	for _, p := range k.layout.Pieces(r.Position, reencrypt.Zone{}) {
		from, to := int64(start)*sectorBytes, int64(start+length)*sectorBytes
		if p.Start <= from && to <= p.Start+p.Length {
			if p.Side == reencrypt.New {
				return k.new, nil
			}
			return k.old, nil
		}
	}
	return dmcrypt.Number{}, fault.New(fault.RotationDamaged,
		fmt.Sprintf("the held zone at sector %d is on neither side of position %d", start, r.Position), nil)
}

// show makes the overlay show the pieces, and nothing else.
func (k *stack) show(ctx context.Context, list []reencrypt.Piece) error {
	name := k.name(overlaySuffix)
	if err := k.sys.Mapper.Load(ctx, name, k.pieces(list), false); err != nil {
		return err
	}
	if err := k.sys.Mapper.Suspend(ctx, name, quietly); err != nil {
		return errors.Join(err, k.sys.Mapper.Clear(name), k.sys.Mapper.Resume(name, dmcrypt.Private, quietly))
	}
	return k.sys.Mapper.Resume(name, dmcrypt.Private, quietly)
}
