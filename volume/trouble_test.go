// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// trouble is a volume with data in it, to which commands are given in any order while its
// header and its key files are damaged, its device is held, grown, shrunk and cloned, its
// key is lost, and its memory for messages is full. What must be true is not predicted
// but looked up: a copy of all that is stored is opened, by unlock, by a repair of the
// header or by a backup of it, and the data in it is read.
type trouble struct {
	t     *testing.T
	s     spec.Volume
	rng   *rand.Rand
	board *volumetest.Board
	disk  *plate
	moves map[string]*tally
	// history is printed when the test fails.
	history []string

	// text is what the user wrote into the volume; empty while there is none.
	text string
	// erased reports that nothing but a backup opens the volume any more.
	erased  bool
	backups []string
	// held makes a holder let go; nil if there is none.
	held func()
	// full reports that nothing can be written to /run.
	full bool
	// advised are the commands that the last error's hint names, in order.
	advised []string
	files   int
}

// tally counts how often a move was made, was completed and was refused.
type tally struct{ given, done, refused int }

// plate is a disk whose size can be changed while power is off.
type plate struct {
	*crashtest.Image
	size int64
}

// Size implements [volumetest.Store].
func (p *plate) Size() int64 { return p.size }

const plateSize = 4 * mib

// Places of the user's text, behind the filesystem that the fake mkfs makes.
var troubleText = []int64{rotationText, rotationText + 320<<10}

func (l *trouble) fail(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s\nerased %v full %v held %v backups %q; after:\n%s\n%s", fmt.Sprintf(format, args...), l.erased, l.full, l.held != nil, l.backups,
		strings.Join(l.history[max(0, len(l.history)-30):], "\n"), l.board.DM.State())
}

func (l *trouble) note(format string, args ...any) {
	l.history = append(l.history, fmt.Sprintf(format, args...))
}

func (l *trouble) manager() *volume.Manager { return volume.New(l.system()) }

func (l *trouble) system() volume.System {
	sys := l.board.System()
	if l.full {
		sys.Unlocks = fullRun{}
	}
	return sys
}

// fullRun is a full /run.
type fullRun struct{}

func (fullRun) Record(string, volume.LastUnlock) error { return unix.ENOSPC }

func (fullRun) RecordFailure(string, *volume.UnlockFailure) error { return unix.ENOSPC }

func (fullRun) LastFailure(string) (volume.UnlockFailure, error) {
	return volume.UnlockFailure{}, unix.EIO
}

func (fullRun) LastUnlock(string) (volume.LastUnlock, error) {
	return volume.LastUnlock{}, unix.EIO
}

// stored returns all that is on the disk and in files.
func (l *trouble) stored() map[string]string {
	all := snapshot(l.t, l.board, l.disk.Image)
	for name := range all {
		// What a killed command did not finish writing has a name that no one looks for.
		if strings.Contains(name, "/.") {
			delete(all, name)
		}
	}
	return all
}

// over returns a board with a chip, over a copy of what is stored.
func (l *trouble) over(chip *caamtest.Chip, stored map[string]string, size int64) (*volumetest.Board, *plate) {
	l.t.Helper()
	disk := &plate{crashtest.NewImage(plateSize), size}
	write(disk, []byte(stored["the device"]), 0)
	b := boardOver(chip, disk, crashtest.NewImage(volumetest.FilesSize))
	for name, data := range stored {
		if name == "the device" {
			continue
		}
		if err := b.Files.Create(name, []byte(data), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	return b, disk
}

// fork returns the same board in the next power cycle, over a copy.
func (l *trouble) fork(stored map[string]string) *volumetest.Board {
	l.t.Helper()
	chip, err := caamtest.Load(l.board.Chip.Save())
	if err != nil {
		l.t.Fatal(err)
	}
	chip.PowerCycle()
	b, _ := l.over(chip, stored, l.disk.size)
	return b
}

// read returns what is in the open volume.
func (l *trouble) read(b *volumetest.Board, mapping string) (string, error) {
	f, err := b.Mapping(mapping, false)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var all []string
	for _, at := range troubleText {
		buf := make([]byte, textBytes)
		if _, err := f.ReadAt(buf, at); err != nil {
			return "", err
		}
		all = append(all, string(buf))
	}
	if all[0] != all[1] {
		return fmt.Sprintf("%q", all), nil
	}
	return all[0], nil
}

func (l *trouble) pick(list ...string) string { return list[l.rng.IntN(len(list))] }

func (l *trouble) some(n int) bool { return l.rng.IntN(n) == 0 }

// begin writes to a new volume, of which there is no backup.
func (l *trouble) begin() {
	l.t.Helper()
	for _, name := range l.board.Files.Names() {
		if strings.HasPrefix(name, "/backup-") || strings.HasPrefix(name, "/kept-") || strings.Contains(name, "/headers/") {
			if err := l.board.Files.Remove(name); err != nil {
				l.fail("remove %s: %v", name, err)
			}
		}
	}
	l.erased, l.backups = false, nil
	if _, err := l.manager().Unlock(context.Background(), l.s, volume.UnlockOptions{}); err != nil {
		l.fail("unlock of a new volume: %v", err)
	}
	l.text = fmt.Sprintf("%-*d", textBytes, l.rng.Int64())
	f, err := l.board.Mapping(l.s.Mapping, true)
	if err != nil {
		l.fail("open: %v", err)
	}
	for _, at := range troubleText {
		if _, err := f.WriteAt([]byte(l.text), at); err != nil {
			l.fail("write: %v", err)
		}
	}
	if err := errors.Join(f.Flush(), f.Close()); err != nil {
		l.fail("%v", err)
	}
}

func (l *trouble) tallyOf(name string) *tally {
	if l.moves[name] == nil {
		l.moves[name] = &tally{}
	}
	return l.moves[name]
}

// step makes one move at random, or follows the last error's advice.
func (l *trouble) step() {
	l.t.Helper()
	commands := l.commands()
	list := commands
	if l.some(3) {
		list = l.worldly()
	}
	m := list[l.rng.IntN(len(list))]
	if len(l.advised) > 0 && l.some(2) {
		if i := slices.IndexFunc(commands, func(c move) bool { return c.name == l.advised[0] }); i >= 0 {
			m = commands[i]
			l.tallyOf("advice followed").given++
		}
	}
	l.advised = nil
	l.note("%s", m.name)
	l.tallyOf(m.name).given++
	l.prune()
	switch {
	case m.world != nil:
		m.world()
	case !m.looks && l.some(8):
		l.killed(m)
	default:
		l.command(m)
	}
}

// prune removes what was kept of old headers, since the files' disk is small. While the
// volume is whole no one needs it.
func (l *trouble) prune() {
	l.t.Helper()
	var kept []string
	for _, name := range l.board.Files.Names() {
		if strings.HasPrefix(name, "/kept-") || strings.Contains(name, "/headers/") {
			kept = append(kept, name)
		}
	}
	if len(kept) < 4 || !l.erased && l.opens(l.fork(l.stored())) != nil {
		return
	}
	for _, name := range kept {
		if err := l.board.Files.Remove(name); err != nil {
			l.fail("remove %s: %v", name, err)
		}
	}
}

// Commands in any order on a volume whose header is damaged, whose device is held, whose
// key is lost: every reported success is true, no refused command changed a byte, no
// advice loses what is there, and nothing is lost.
func TestAnyOrderOfTroubles(t *testing.T) {
	t.Parallel()
	lives, steps := 5, 100
	switch {
	case soak:
		lives, steps = 200, 300
	case slow():
		lives, steps = 1, 20
	}
	var mu sync.Mutex
	total := map[string]*tally{}
	none := rotationSpec(rotationGap)
	none.Filesystem, none.Mount = spec.Filesystem{Type: spec.FilesystemNone}, spec.Mount{}
	inFile := rotationSpec(0)
	detached(&inFile)
	ecb := rotationSpec(rotationGap)
	ecb.Wrap = "ecb"
	for name, s := range map[string]spec.Volume{
		"gap": rotationSpec(rotationGap), "ecb": ecb, "detached": inFile, "journal": rotationSpec(0), "no filesystem": none,
		"dev": rotationCases()["dev"],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range lives {
				l := newTrouble(t, s, name, uint64(seed))
				for range steps {
					l.step()
				}
				mu.Lock()
				for move, n := range l.moves {
					if total[move] == nil {
						total[move] = &tally{}
					}
					total[move].given += n.given
					total[move].done += n.done
					total[move].refused += n.refused
				}
				mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		for _, name := range slices.Sorted(maps.Keys(total)) {
			t.Logf("%-50s %5d, %5d succeeded, %5d refused", name, total[name].given, total[name].done, total[name].refused)
		}
	})
}

func newTrouble(t *testing.T, s spec.Volume, name string, seed uint64) *trouble {
	t.Helper()
	l := &trouble{t: t, s: s, rng: rand.New(rand.NewPCG(seed, uint64(len(name)))), moves: map[string]*tally{}}
	l.note("seed %d", seed)
	l.disk = &plate{crashtest.NewImage(plateSize), rotationDisk(s).Size()}
	l.board = boardOver(caamtest.RandomChip(), l.disk, crashtest.NewImage(volumetest.FilesSize))
	r, err := l.manager().Provision(context.Background(), s, volume.ProvisionOptions{})
	must(t, r, err)
	l.begin()
	return l
}
