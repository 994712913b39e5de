// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// worldly returns what happens to the volume without the program.
func (l *trouble) worldly() []move {
	list := []move{
		{name: "power cycle", world: func() { l.powerCycle(l.disk.size) }},
		{name: "device grown", world: func() { l.powerCycle(l.whole() + 512<<10) }},
		{name: "device shrunk", world: func() { l.powerCycle(l.whole() - 64<<10) }},
		{name: "device of its size", world: func() { l.powerCycle(l.whole()) }},
		{name: "/run full or empty", world: func() { l.full = !l.full }},
		{name: "unannounced suspend", world: l.suspend},
		{name: "clone on another chip", world: l.clone},
		{name: "key files damaged", world: l.keyFiles},
		{name: "damage: the header's file cut", world: func() { l.headerFile(int64(l.rng.IntN(rotationHeader))) }},
		{name: "damage: the header's file gone", world: func() { l.headerFile(-1) }},
		{name: "factory step over another board's image", world: l.factory},
		{name: "no room for files", world: l.noRoom},
	}
	if l.held == nil {
		hs := holders(l.s)
		for _, name := range slices.Sorted(maps.Keys(hs)) {
			if name == unseen && l.board.DM.State() != "" {
				continue // a mapping holds it already
			}
			list = append(list, move{name: "held by " + name, world: func() { l.held = hs[name](l.t, l.board) }})
		}
		if f, err := l.board.Mapping(l.s.Mapping, false); err == nil {
			_ = f.Close() // never fails
			list = append(list, move{name: "held open elsewhere", world: func() {
				f, err := l.board.Mapping(l.s.Mapping, false)
				if err != nil {
					l.fail("open: %v", err)
				}
				l.held = func() { _ = f.Close() }
			}})
		}
	} else {
		let := move{name: "holder lets go", world: func() { l.held(); l.held = nil }}
		list = append(list, let, let, let, let)
	}
	damage := headerDamage()
	for _, name := range slices.Sorted(maps.Keys(damage)) {
		list = append(list, move{name: "damage: " + name, world: func() {
			l.change(func(im volumetest.Store) { damage[name].do(l.t, im) })
		}})
	}
	return append(list, move{name: "damage: all of the header", world: func() {
		l.change(func(im volumetest.Store) { write(im, make([]byte, rotationHeader), 0) })
	}})
}

// whole is the size that the device was made with.
func (l *trouble) whole() int64 { return rotationDisk(l.s).Size() }

// powerCycle puts the same disk into the same board again, after a power cycle.
func (l *trouble) powerCycle(size int64) {
	l.t.Helper()
	if l.held != nil {
		l.held()
		l.held = nil
	}
	chip := l.board.Chip
	chip.PowerCycle()
	l.board, l.disk = l.over(chip, l.stored(), size)
	l.full = false
}

// change changes the header on the device, unless nothing would open the volume
// afterwards: the program could not be blamed for that.
func (l *trouble) change(do func(im volumetest.Store)) {
	l.t.Helper()
	if l.s.Detached() && l.stored()[l.s.Header] == "" {
		return
	}
	apply := func(b *volumetest.Board, disk *crashtest.Image) { changeHeader(l.t, b, l.s, disk, do) }
	stored := l.stored()
	chip, err := caamtest.Load(l.board.Chip.Save())
	if err != nil {
		l.fail("%v", err)
	}
	b, disk := l.over(chip, stored, l.disk.size)
	apply(b, disk.Image)
	if how, _ := l.salvage(snapshot(l.t, b, disk.Image), true); how == "" {
		l.note("  … which nothing would undo")
		return
	}
	apply(l.board, l.disk.Image)
}

// suspend is an unannounced sleep of the system, with pages of the mounted filesystem in
// memory that have not been written back.
func (l *trouble) suspend() {
	l.t.Helper()
	if info, err := l.board.DM.Info(l.s.Mapping); err == nil && !info.Suspended && l.some(2) {
		for _, at := range []int64{0, rotationText} {
			data := make([]byte, 4096)
			f, err := l.board.Mapping(l.s.Mapping, false)
			if err != nil {
				break
			}
			_, err = f.ReadAt(data, at)
			_ = f.Close()
			if got, bad := l.read(l.board, l.s.Mapping); err == nil && bad == nil && got == l.text {
				if err := l.board.Dirty(l.s.Mapping, at, data); err != nil {
					l.fail("dirty: %v", err)
				}
			}
		}
	}
	l.board.Sleep(time.Second)
}

// refuseForeign runs commands on a copy of the disk, none of which may succeed or
// change a byte.
func (l *trouble) refuseForeign(b *volumetest.Board, disk *plate, commands map[string]func(*volume.Manager) error) {
	l.t.Helper()
	before := snapshot(l.t, b, disk.Image)
	for _, name := range slices.Sorted(maps.Keys(commands)) {
		err := commands[name](b.Manager())
		if err == nil {
			l.fail("%s succeeds where no key of the volume opens", name)
		}
		if names := differs(before, snapshot(l.t, b, disk.Image)); len(names) > 0 {
			l.fail("%s where no key opens: refused (%v), and changed %q", name, err, names)
		}
		l.hint(err)
	}
}

// clone puts a copy of all that is stored into another board.
func (l *trouble) clone() {
	l.t.Helper()
	// The key files of source dev give access to the volume.
	if !l.erased && l.s.Source != spec.SourceDev {
		b, disk := l.over(caamtest.RandomChip(), l.stored(), l.disk.size)
		l.refuseForeign(b, disk, l.foreignCommands(b))
	}
}

// keyFiles damages the key files of source dev in a copy of all that is stored.
func (l *trouble) keyFiles() {
	l.t.Helper()
	if l.erased || l.s.Source != spec.SourceDev {
		return
	}
	stored := l.stored()
	for name, key := range stored {
		if !strings.HasSuffix(name, ".key") {
			continue
		}
		switch l.rng.IntN(4) {
		case 0:
			delete(stored, name)
		case 1:
			stored[name] = key[:l.rng.IntN(len(key))]
		case 2:
			stored[name] = strings.Repeat("\x00", len(key))
		default:
			at := l.rng.IntN(len(key))
			stored[name] = key[:at] + string([]byte{key[at] ^ 1}) + key[at+1:]
		}
	}
	b, disk := l.over(l.board.Chip, stored, l.disk.size)
	l.refuseForeign(b, disk, l.foreignCommands(b))
}

// headerFile truncates the file of a detached header, or removes it, unless nothing would
// open the volume afterwards.
func (l *trouble) headerFile(size int64) {
	l.t.Helper()
	stored := l.stored()
	was := stored[l.s.Header]
	if was == "" || size >= int64(len(was)) {
		return
	}
	do := func(b *volumetest.Board) {
		err := b.Files.Remove(l.s.Header)
		if err == nil && size >= 0 {
			err = b.Files.Create(l.s.Header, []byte(was[:size]), 0o600)
		}
		if err != nil {
			l.fail("%v", err)
		}
	}
	b, disk := l.over(l.board.Chip, stored, l.disk.size)
	do(b)
	if how, _ := l.salvage(snapshot(l.t, b, disk.Image), true); how == "" {
		l.note("  … which nothing would undo")
		return
	}
	do(l.board)
}

// foreignCommands returns those that fail on a board where no key of the volume opens.
func (l *trouble) foreignCommands(b *volumetest.Board) map[string]func(*volume.Manager) error {
	ctx := context.Background()
	commands := map[string]func(*volume.Manager) error{
		"unlock": func(m *volume.Manager) error { _, err := m.Unlock(ctx, l.s, volume.UnlockOptions{}); return err },
		"for-repair": func(m *volume.Manager) error {
			_, err := m.Unlock(ctx, l.s, volume.UnlockOptions{ForRepair: true})
			return err
		},
		"verify": func(m *volume.Manager) error { _, err := m.Verify(ctx, l.s); return err },
		"rotate": func(m *volume.Manager) error { _, err := m.Rotate(ctx, l.s, volume.RotateOptions{}); return err },
	}
	if b.Manager().Status(ctx, l.s).Rotation != nil {
		commands["rotate --resume-only"] = func(m *volume.Manager) error {
			_, err := m.Rotate(ctx, l.s, volume.RotateOptions{ResumeOnly: true})
			return err
		}
	}
	if r, err := b.Manager().RepairHeader(ctx, l.s, volume.RepairOptions{DryRun: true}); err != nil || !r.Already {
		commands["header repair"] = func(m *volume.Manager) error { _, err := m.RepairHeader(ctx, l.s, volume.RepairOptions{}); return err }
	}
	for _, file := range l.backups {
		r, err := b.Manager().RestoreHeader(ctx, l.s, file, volume.RestoreOptions{DryRun: true, Confirm: confirmed})
		if err == nil && r.Already {
			continue // the header there is that of the backup
		}
		commands["header restore "+file] = func(m *volume.Manager) error {
			_, err := m.RestoreHeader(ctx, l.s, file, volume.RestoreOptions{Confirm: confirmed, Force: true})
			return err
		}
	}
	return commands
}

// factory gives another board the disk without the files and provisions it as a factory
// does, which overwrites what is not a volume of ours if asked to.
func (l *trouble) factory() {
	l.t.Helper()
	if l.erased {
		return
	}
	ctx := context.Background()
	stored := map[string]string{"the device": l.stored()["the device"]}
	b, disk := l.over(caamtest.RandomChip(), stored, l.disk.size)
	commands := map[string]func(*volume.Manager) error{}
	if _, err := b.Manager().Provision(ctx, l.s, volume.ProvisionOptions{NoMount: true, DryRun: true}); err == nil && !l.s.Detached() {
		// The header is a ready one, and provision asks for no more.
		st := b.Manager().Status(ctx, l.s)
		l.note("  … phase %s", st.Phase)
	}
	commands["provision"] = func(m *volume.Manager) error {
		_, err := m.Provision(ctx, l.s, volume.ProvisionOptions{NoMount: true})
		return err
	}
	if !l.s.Detached() && l.stored()["the device"][:6] == "LUKS\xba\xbe" {
		commands["provision --wipe"] = func(m *volume.Manager) error {
			_, err := m.Provision(ctx, l.s, volume.ProvisionOptions{NoMount: true, Wipe: true})
			return err
		}
	}
	l.refuseForeign(b, disk, commands)
}

// noRoom runs the commands that need a file while there is no room for one.
func (l *trouble) noRoom() {
	l.t.Helper()
	l.board.Files.Err = unix.ENOSPC
	defer func() { l.board.Files.Err = nil }()
	for _, c := range l.commands() {
		if c.run == nil || l.rng.IntN(6) > 0 {
			continue
		}
		l.note("  %s", c.name)
		l.command(c)
	}
}

// status checks what a status says.
func (l *trouble) status(st volume.Status) error {
	l.t.Helper()
	if st.Err != nil {
		return st.Err
	}
	if st.Mounted != (st.State == volume.Mounted) {
		l.fail("status: %s, mounted %v", st.State, st.Mounted)
	}
	if entries, _ := l.board.List(); st.Mounted && len(entries) == 0 {
		l.fail("status says mounted")
	}
	if st.Up() && l.text != "" && l.board.DM.State() != "" {
		if got, err := l.read(l.board, l.s.Mapping); err != nil || got != l.text {
			l.fail("status %s without a word, and the volume reads %q, not %q: %v", st.State, got, l.text, err)
		}
	}
	return nil
}
