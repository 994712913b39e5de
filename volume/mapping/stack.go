// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/reencrypt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// The private mappings of a rotation, from the top. A volume in use is a linear piece
// over the overlay, whose table maps each part of the volume to the side that it is on.
// The zone in transit is mapped to a hot mapping, which is suspended as long as the zone
// is held. Only the overlay's table is swapped, and the overlay is private, so that udev
// does not see an event for each zone.
//
// A flush goes to each part of the overlay, and would wait for the zone just as a write
// to the zone does. Yet it has nothing in the zone to make durable: what waits has not
// been written. If the kernel has dm-delay, flushes are directed past the zone, to the
// device below.
const (
	OverlaySuffix = ":rotate"
	OldSuffix     = ":old"
	NewSuffix     = ":new"
)

// HotSuffixes are the suffixes of the hot mappings. The zones use them alternately: the
// one that the overlay does not lead to can be suspended together with the overlay.
func HotSuffixes() [2]string { return [2]string{":hot", ":hot2"} }

// PrivateSuffixes are the suffixes of all possible private mappings, in the order in
// which they can be removed.
func PrivateSuffixes() []string {
	hot := HotSuffixes()
	return []string{OverlaySuffix, hot[0], hot[1], OldSuffix, NewSuffix, CheckSuffix, MkfsSuffix, TrialSuffix, ErrorSuffix, ClaimSuffix}
}

// Quietly suspends without freezing the filesystem, which would write to the volume and
// wait forever for a zone that is held, and without waiting for requests that can be
// queued.
const Quietly = dmcrypt.SkipLockFS | dmcrypt.NoFlush

// Stack is the private mappings of one volume's rotation.
type Stack struct {
	Kernel
	s      spec.Volume
	uuid   string
	Layout reencrypt.Layout

	Old, New, Overlay dmcrypt.Number
	Hot               [2]dmcrypt.Number
	ReadOnly          bool
	// turn is the index of the hot mapping that the overlay leads to, if any. At the
	// beginning it leads to none, since Settle or Rest has removed what another run left.
	turn int
	// noDelay means that the kernel has no dm-delay, and flushes wait for the zone.
	noDelay bool
	// flagged are the mappings for which this run has given udev its flags.
	flagged map[string]bool
}

// NewStack returns the stack of the rotation that h and its record in c describe. It does
// not look at any mapping yet.
func (k Kernel) NewStack(s spec.Volume, h *header.Header, c *header.Storage) (*Stack, error) {
	l, err := h.Layout(c)
	if err != nil {
		return nil, err
	}
	return &Stack{Kernel: k, s: s, uuid: h.LUKS.UUID, Layout: l, ReadOnly: c.Data.ReadOnly(), flagged: map[string]bool{}}, nil
}

// Name returns the name of one of the mappings.
func (k *Stack) Name(suffix string) string { return k.s.Mapping + suffix }

func (k *Stack) helper(suffix string) (name, uuid string) {
	name = k.Name(suffix)
	return name, dmcrypt.HelperUUID(k.uuid, name)
}

// Look finds a mapping of the stack; the result is zero if it is not there.
func (k *Stack) Look(suffix string) (dmcrypt.Info, error) {
	name, uuid := k.helper(suffix)
	info, err := k.Mapper.Info(name)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return dmcrypt.Info{}, nil
	}
	if err == nil && info.UUID != uuid {
		err = fault.Newf(fault.MappingMismatch, "mapping %s exists and is not imxcrypt's: uuid %q", name, info.UUID)
	}
	return info, err
}

// Attach finds the mappings of a live stack.
func (k *Stack) Attach() error {
	hot := HotSuffixes()
	for _, x := range []struct {
		suffix string
		to     *dmcrypt.Number
		must   bool
	}{{OldSuffix, &k.Old, true}, {NewSuffix, &k.New, true}, {OverlaySuffix, &k.Overlay, true}, {hot[0], &k.Hot[0], false}, {hot[1], &k.Hot[1], false}} {
		info, err := k.Look(x.suffix)
		if err != nil {
			return err
		}
		if x.must && info.Number.IsZero() {
			return fault.Newf(fault.MappingMismatch, "mapping %s is missing below the live volume", k.Name(x.suffix))
		}
		*x.to = info.Number
	}
	return nil
}

// Build makes the mappings of both sides with their keys.
func (k *Stack) Build(ctx context.Context, h *header.Header, c *header.Storage, oldKey, newKey source.Key) (err error) {
	for _, x := range []struct {
		suffix string
		h      *header.Header
		key    source.Key
		to     *dmcrypt.Number
	}{{OldSuffix, h, oldKey, &k.Old}, {NewSuffix, h.Next, newKey, &k.New}} {
		name, uuid := k.helper(x.suffix)
		a, err := k.Activate(ctx, name, uuid, Description(x.h), x.key, k.ReadOnly, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return DataTable(x.h, k.s, c.Data.Number(), ref)
		})
		if err != nil {
			return errors.Join(err, k.Remove(ctx))
		}
		*x.to = a.Num
	}
	return nil
}

// BuildOverlay makes the overlay as a record describes it.
func (k *Stack) BuildOverlay(ctx context.Context, r reencrypt.Record) (err error) {
	k.Overlay, err = k.activatePlain(ctx, OverlaySuffix, k.pieces(k.Layout.Pieces(r.Position, reencrypt.Zone{})))
	return err
}

// activatePlain makes a private mapping that needs no key.
func (k *Stack) activatePlain(ctx context.Context, suffix string, t dmcrypt.Table) (dmcrypt.Number, error) {
	name, uuid := k.helper(suffix)
	if err := k.RemoveLeftover(ctx, name, uuid); err != nil {
		return dmcrypt.Number{}, err
	}
	return k.Mapper.Activate(ctx, name, uuid, t, k.ReadOnly)
}

// pieces returns the overlay's table.
func (k *Stack) pieces(list []reencrypt.Piece) dmcrypt.Table {
	t := make(dmcrypt.Table, 0, len(list))
	for _, p := range list {
		to := k.Old
		switch {
		case p.Hot:
			to = k.Hot[k.turn]
		case p.Side == reencrypt.New:
			to = k.New
		}
		start, length := uint64(p.Start/header.SectorBytes), uint64(p.Length/header.SectorBytes)
		if p.Hot && !k.noDelay {
			t = append(t, dmcrypt.Delay{Start: start, Length: length, Device: to, Offset: start, Flush: k.New, FlushOffset: start})
			continue
		}
		t = append(t, dmcrypt.Linear{Start: start, Length: length, Device: to, Offset: start})
	}
	return t
}

// WholeTable returns a table that shows all of another mapping.
func (k *Stack) WholeTable(n dmcrypt.Number) dmcrypt.Table {
	return dmcrypt.Table{dmcrypt.Linear{Length: uint64(k.Layout.DataSize / header.SectorBytes), Device: n}}
}

// Remove removes all mappings of the stack, even if ctx was cancelled.
func (k *Stack) Remove(ctx context.Context) error {
	_, err := k.RemovePrivate(context.WithoutCancel(ctx), k.s)
	return err
}

// IsTop reports whether a live table is that of a volume over the overlay.
func (k *Stack) IsTop(live dmcrypt.Table) bool {
	return !k.Overlay.IsZero() && k.WholeTable(k.Overlay).Equal(live)
}

// Settle makes a live volume usable that a killed rotation left: a held zone goes to the
// side that the record names, and whatever is suspended is resumed.
//
// Requests held in the hot mapping continue before the overlay is suspended, because that
// suspend waits for them. If the overlay is suspended already, nothing can be in the hot
// mapping, whose table may then be for another zone.
func (k *Stack) Settle(ctx context.Context, e *reencrypt.Engine) error {
	r, err := e.Recover(ctx)
	if err != nil {
		return err
	}
	over, err := k.Look(OverlaySuffix)
	if err != nil {
		return err
	}
	for _, suffix := range HotSuffixes() {
		if err := k.settleHot(ctx, suffix, r, over.Suspended); err != nil {
			return err
		}
	}
	if err := k.ShowRecord(ctx, r); err != nil {
		return err
	}
	top, err := k.Mapper.Info(k.s.Mapping)
	if err != nil || !top.Suspended {
		return err
	}
	if err := k.Mapper.Clear(k.s.Mapping); err != nil {
		return err
	}
	return k.Mapper.Resume(k.s.Mapping, dmcrypt.Public, Quietly)
}

func (k *Stack) settleHot(ctx context.Context, suffix string, r reencrypt.Record, overlaySuspended bool) error {
	hot, err := k.Look(suffix)
	if err != nil || hot.Number.IsZero() || !hot.Suspended {
		return err
	}
	if !overlaySuspended {
		side, err := k.heldSide(hot.Number, r)
		if err != nil {
			return err
		}
		if err := k.Mapper.Load(ctx, k.Name(suffix), k.WholeTable(side), false); err != nil {
			return err
		}
	}
	return k.resume(k.Name(suffix))
}

// heldSide returns the side's mapping for the zone that the overlay's table leads to hot.
func (k *Stack) heldSide(hot dmcrypt.Number, r reencrypt.Record) (dmcrypt.Number, error) {
	live, err := k.Mapper.Table(k.Name(OverlaySuffix))
	if err != nil {
		return dmcrypt.Number{}, err
	}
	at := slices.IndexFunc(live, func(t dmcrypt.Target) bool {
		switch x := t.(type) {
		case dmcrypt.Linear:
			return x.Device == hot
		case dmcrypt.Delay:
			return x.Device == hot
		}
		return false
	})
	if at < 0 {
		if slices.ContainsFunc(live, func(t dmcrypt.Target) bool { _, unknown := t.(dmcrypt.Unknown); return unknown }) {
			return dmcrypt.Number{}, fault.Newf(fault.MappingMismatch, "mapping %s has a part that only a newer program knows", k.Name(OverlaySuffix))
		}
		return k.New, nil // nothing leads to it
	}
	start, length := live[at].Extent()
	for _, p := range k.Layout.Pieces(r.Position, reencrypt.Zone{}) {
		from, to := int64(start)*header.SectorBytes, int64(start+length)*header.SectorBytes
		if p.Start <= from && to <= p.Start+p.Length {
			if p.Side == reencrypt.New {
				return k.New, nil
			}
			return k.Old, nil
		}
	}
	return dmcrypt.Number{}, fault.New(fault.RotationDamaged,
		fmt.Sprintf("the held zone at sector %d is on neither side of position %d", start, r.Position), nil)
}

// show makes the overlay show the pieces, and nothing else.
func (k *Stack) show(ctx context.Context, list []reencrypt.Piece) error {
	name := k.Name(OverlaySuffix)
	if err := k.Mapper.Load(ctx, name, k.pieces(list), false); err != nil {
		return err
	}
	if err := k.Mapper.Suspend(ctx, name, Quietly); err != nil {
		return errors.Join(err, k.Mapper.Clear(name), k.resume(name))
	}
	return k.resume(name)
}

// resume resumes a mapping of the stack, which is private. A rotation of a volume in use
// does that twice for each zone. udev gets the flags only once; otherwise it would run a
// program each time, and whatever waits for udev would wait for minutes.
func (k *Stack) resume(name string) error {
	v := dmcrypt.Private
	if k.flagged[name] {
		v = dmcrypt.Unchanged
	}
	err := k.Mapper.Resume(name, v, Quietly)
	k.flagged[name] = err == nil
	return err
}

// Node returns the kernel's own name of a mapped device.
func Node(n dmcrypt.Number) string { return fmt.Sprintf("/dev/dm-%d", n.Minor) }

// Holds reports whether any part of a volume under rotation is suspended.
func (k Kernel) Holds(s spec.Volume) (bool, error) {
	over, err := k.Mapper.Info(s.Mapping + OverlaySuffix)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	top, err := k.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return false, nil // nothing can wait for what is not there
	}
	if err != nil {
		return false, err
	}
	held := top.Suspended || over.Suspended
	for _, suffix := range HotSuffixes() {
		hot, err := k.Mapper.Info(s.Mapping + suffix)
		if err != nil && !errors.Is(err, dmcrypt.ErrNotFound) {
			return false, err
		}
		held = held || hot.Suspended
	}
	return held, nil
}
