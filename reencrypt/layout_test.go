// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"imxcrypt/internal/fault"
)

func TestLayoutThatCannotWorkIsRefused(t *testing.T) {
	t.Parallel()
	gap := setup{mode: Gap, direction: Forward, oldSector: 512, newSector: 4096, zone: 8192, data: 40960}.layout()
	journal := setup{mode: Journal, direction: Backward, oldSector: 512, newSector: 4096, zone: 8192, data: 40960}.layout()
	for _, l := range []Layout{gap, journal} {
		if err := l.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, field string
		from        Layout
		change      func(*Layout)
	}{
		{"no data", "data size", gap, func(l *Layout) { l.DataSize = 0 }},
		{"data no multiple of the new sector", "data size", gap, func(l *Layout) { l.DataSize -= 512 }},
		{"zone no multiple of the new sector", "zone size", gap, func(l *Layout) { l.ZoneSize = 512 }},
		{"zone no multiple of the logical block", "zone size", gap, func(l *Layout) { l.NewSector, l.LogicalBlock, l.ZoneSize = 512, 4096, 2048 }},
		{"negative zone", "zone size", gap, func(l *Layout) { l.ZoneSize = -4096 }},
		{"zone larger than the gap", "zone size", gap, func(l *Layout) { l.ZoneSize += 4096 }},
		{"zone larger than the journal", "zone size", journal, func(l *Layout) { l.JournalSize -= 512 }},
		{"crypt sector 1536", "old sector size", gap, func(l *Layout) { l.OldSector = 1536 }},
		{"crypt sector 8192", "new sector size", gap, func(l *Layout) { l.NewSector = 8192 }},
		{"logical block 256", "logical block", gap, func(l *Layout) { l.LogicalBlock = 256 }},
		{"new place not aligned", "new offset", gap, func(l *Layout) { l.NewOffset += 512 }},
		{"new place outside", "new offset", gap, func(l *Layout) { l.NewOffset = 0 }},
		{"new place above the end", "new offset", gap, func(l *Layout) { l.NewOffset, l.Direction = 1<<40, Backward }},
		{"data too long for its place", "old offset", gap, func(l *Layout) { l.DataSize = math.MaxInt64 &^ 4095 }},
		{"no gap", "new offset", gap, func(l *Layout) { l.NewOffset = l.OldOffset }},
		{"wrong way", "direction", gap, func(l *Layout) { l.Direction = Backward }},
		{"no direction", "direction", journal, func(l *Layout) { l.Direction = 0 }},
		{"no mode", "mode", gap, func(l *Layout) { l.Mode = 0 }},
		{"journal that moves", "new offset", journal, func(l *Layout) { l.DataSize -= 8192; l.NewOffset += 8192 }},
		{"journal out of range", "journal offset", journal, func(l *Layout) { l.JournalOffset = math.MaxInt64 - 100 }},
		{"journal not aligned", "journal offset", journal, func(l *Layout) { l.JournalOffset += 512 }},
		{"records in the journal", "record offset", journal, func(l *Layout) { l.RecordOffset = l.JournalOffset + 4096 }},
		{"records not aligned", "record offset", gap, func(l *Layout) { l.RecordOffset = 100 }},
		{"records out of range", "record offset", gap, func(l *Layout) { l.RecordOffset = math.MaxInt64 }},
		{"empty range", "range", gap, func(l *Layout) { l.End = l.Start }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := c.from
			c.change(&l)
			var e *LayoutError
			if err := l.Validate(); !errors.As(err, &e) || e.Field != c.field || fault.CodeOf(err) != fault.DeviceUnsuitable {
				t.Errorf("got %v, want the field %q", err, c.field)
			}
		})
	}
}

func TestPlanUsesTheGapThereIs(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	base := Placement{
		Start: mib, End: 18 * mib, Offset: 2 * mib, Size: 16 * mib, OldSector: 4096, NewSector: 4096, LogicalBlock: 512,
		RecordOffset: 64 << 10, JournalOffset: 128 << 10, JournalSize: 512 << 10,
	}
	for _, c := range []struct {
		name   string
		change func(*Placement)
		mode   Mode
		dir    Direction
		to     int64
		zone   int64
	}{
		{"gap before", func(*Placement) {}, Gap, Forward, mib, mib},
		{"gap after", func(p *Placement) { p.Offset = mib }, Gap, Backward, 2 * mib, mib},
		{"larger one of two", func(p *Placement) { p.End = 20 * mib }, Gap, Backward, 4 * mib, 2 * mib},
		{"capped zone", func(p *Placement) { p.MaxZone = 300000 }, Gap, Forward, mib, 299008},
		{"gap with an odd rest", func(p *Placement) { p.Start += 512 }, Gap, Forward, mib + 4096, mib - 4096},
		{"no gap", func(p *Placement) { p.Start, p.End = p.Offset, p.Offset+p.Size }, Journal, Forward, 2 * mib, 512 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := base
			c.change(&p)
			l, err := Plan(p)
			if err != nil {
				t.Fatal(err)
			}
			if l.Mode != c.mode || l.Direction != c.dir || l.NewOffset != c.to || l.ZoneSize != c.zone {
				t.Errorf("got %s %s to %d by %d", l.Mode, l.Direction, l.NewOffset, l.ZoneSize)
			}
			// A later run finds the same layout in the record.
			r := Record{
				Mode: l.Mode, Direction: l.Direction, DataSize: l.DataSize, OldOffset: l.OldOffset, NewOffset: l.NewOffset,
				OldSector: l.OldSector, NewSector: l.NewSector, JournalOffset: l.JournalOffset,
			}
			later := p
			later.Offset, later.Size, later.OldSector = 0, 0, 0
			if again, err := Resume(r, later); err != nil || again != l {
				t.Errorf("resumed with %+v, %v", again, err)
			}
			// The next rotation goes back to where this one came from.
			p.Offset = l.NewOffset
			if back, err := Plan(p); err != nil || c.name != "larger one of two" && back.NewOffset != l.OldOffset {
				t.Errorf("the next one goes to %d, %v", back.NewOffset, err)
			}
		})
	}
	for name, change := range map[string]func(*Placement){
		"neither gap nor journal": func(p *Placement) { p.Start, p.End, p.JournalSize = p.Offset, p.Offset+p.Size, 512 },
		"data outside":            func(p *Placement) { p.End = 17 * mib },
		"512-byte rest":           func(p *Placement) { p.Size -= 512 },
		"sector of 0":             func(p *Placement) { p.NewSector = 0 },
	} {
		p := base
		change(&p)
		var e *LayoutError
		if l, err := Plan(p); !errors.As(err, &e) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// Whatever the size of the zones, going through all of them touches every byte once and
// copies only into free space, and the pieces always cover the volume.
func TestZonesCoverTheVolumeAndFitTheGap(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(8, 8))
	for range 2000 {
		sectors := []int{512, 1024, 2048, 4096}
		s := setup{
			mode: Gap, direction: Direction(1 + rng.IntN(2)),
			oldSector: sectors[rng.IntN(4)], newSector: sectors[rng.IntN(4)],
		}
		a := int64(max(s.oldSector, s.newSector))
		s.zone, s.data = a*(1+rng.Int64N(9)), a*(1+rng.Int64N(40))
		l := s.layout()
		if err := l.Validate(); err != nil {
			t.Fatalf("%+v: %v", l, err)
		}
		moved := int64(0)
		for pos := l.begin(); pos != l.end(); {
			z := l.zoneAt(pos, a*(1+rng.Int64N(s.zone/a)))
			if z.Length <= 0 || z.Length > s.zone || z.Start < 0 || z.End() > s.data || z.Length%a != 0 || z.Start%a != 0 {
				t.Fatalf("%+v: zone %v at %d", l, z, pos)
			}
			next := int64(0)
			for _, p := range l.Pieces(pos, z) {
				if p.Start != next || p.Length <= 0 || p.Offset != p.Start+l.offset(p.Side) || p.Hot != (p.Start == z.Start) {
					t.Fatalf("%+v at %d: %+v", l, pos, p)
				}
				next += p.Length
				// The copy overwrites no piece except the hot one's new place.
				if to := l.NewOffset + z.Start; !p.Hot && p.Offset < to+z.Length && to < p.Offset+p.Length {
					t.Fatalf("%+v at %d: the copy of %v overwrites %+v", l, pos, z, p)
				}
			}
			if from, to := l.OldOffset+z.Start, l.NewOffset+z.Start; from < to+z.Length && to < from+z.Length {
				t.Fatalf("%+v at %d: %v overwrites itself", l, pos, z)
			}
			if next != s.data {
				t.Fatalf("%+v at %d: pieces end at %d", l, pos, next)
			}
			moved += z.Length
			pos = l.after(z)
			if l.done(pos) != moved {
				t.Fatalf("%+v: %d of %d moved", l, l.done(pos), moved)
			}
		}
		if moved != s.data {
			t.Fatalf("%+v: %d moved", l, moved)
		}
	}
}
