// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// life is a volume in the hands of somebody who gives commands in any order,
// kills them and cuts the power, and a model of what must be true of it.
type life struct {
	t    *testing.T
	s    volume.Spec
	rng  *rand.Rand
	chip *caamtest.Chip
	now  *recording
	// history is for the message of a failure.
	history []string

	// The model. phase is empty where there is no volume.
	phase   volume.Phase
	uuid    string
	recipe  bool   // a volume made by hand, that adopt has not taken over
	text    string // what the user last wrote and flushed
	maybe   string // what the user was writing when the power went
	live    bool
	mounted bool

	formats, cuts, kills int
}

const (
	lifeDisk  = 6 * mib
	textBytes = 32
)

// fail ends the test with everything that led there.
func (l *life) fail(format string, args ...any) {
	l.t.Helper()
	last := l.history[max(0, len(l.history)-25):]
	l.t.Fatalf("%s\nphase %q live %v mounted %v recipe %v; after:\n%s\n%s",
		fmt.Sprintf(format, args...), l.phase, l.live, l.mounted, l.recipe, strings.Join(last, "\n"), l.now.board.DM.State())
}

func (l *life) manager() *volume.Manager { return l.now.board.Manager() }

// start powers the board on over images.
func (l *life) start(disk, files *crashtest.Image) {
	l.chip.PowerCycle()
	l.now = record(l.chip, disk, files)
	l.live, l.mounted = false, false
}

// operation is one command, and what the model says of it: the codes that it may
// end with, the empty one being success.
type operation struct {
	name string
	run  func() error
	want []fault.Code
	// done changes the model after success.
	done func()
}

func (l *life) operations() []operation {
	ctx := context.Background()
	m := l.manager
	absent := []fault.Code{fault.NotProvisioned, fault.ProvisioningStarted}
	whole := func(otherwise ...fault.Code) []fault.Code {
		switch l.phase {
		case volume.PhaseReady:
			return []fault.Code{""}
		case volume.PhaseProvisioning:
			return []fault.Code{fault.ProvisioningStarted}
		case volume.PhaseErasing:
			return []fault.Code{fault.EraseStarted}
		}
		return otherwise
	}
	provision := []fault.Code{""}
	switch {
	case l.phase == volume.PhaseErasing:
		provision = []fault.Code{fault.EraseStarted}
	case l.recipe && l.phase == "":
		provision = []fault.Code{fault.NotEmpty, fault.PlaintextFound, fault.ForeignHeader}
	}
	mounts := l.s.Mount.Path != ""
	ops := []operation{
		{"provision", func() error { _, err := m().Provision(ctx, l.s, volume.ProvisionOptions{}); return err }, provision, func() {
			l.phase, l.live, l.mounted = volume.PhaseReady, true, mounts
		}},
		{"provision without mounting", func() error {
			_, err := m().Provision(ctx, l.s, volume.ProvisionOptions{NoMount: true})
			return err
		}, provision, func() { l.phase = volume.PhaseReady }},
		{"unlock", func() error { _, err := m().Unlock(ctx, l.s, volume.UnlockOptions{}); return err }, whole(absent...), func() { l.live = true }},
		{"unlock and mount", func() error { _, err := m().Unlock(ctx, l.s, volume.UnlockOptions{Mount: mounts}); return err }, whole(absent...), func() {
			l.live, l.mounted = true, mounts
		}},
		{"lock", func() error { _, err := m().Lock(ctx, l.s, volume.LockOptions{}); return err }, []fault.Code{""}, func() { l.live, l.mounted = false, false }},
		{"verify", func() error { _, err := m().Verify(ctx, l.s); return err }, whole(absent...), func() {}},
		{"status", func() error { m().Status(ctx, l.s); return nil }, []fault.Code{""}, func() {}},
	}
	if l.live {
		text := fmt.Sprintf("%-*d", textBytes, l.rng.Int64())
		ops = append(ops, operation{"write", func() error { return l.write(text) }, []fault.Code{""}, func() { l.text = text }})
	}
	if l.recipe {
		ops = append(ops, operation{"adopt", func() error {
			_, err := m().Adopt(ctx, l.s, volume.AdoptOptions{Blob: blobFile})
			return err
		}, []fault.Code{""}, func() { l.phase = volume.PhaseReady }})
	}
	// Erasing is rare, or nothing would ever grow old.
	if l.rng.IntN(6) == 0 && !(l.recipe && l.phase == "") {
		want := []fault.Code{""}
		if l.phase == "" {
			want = append(want, absent...)
		}
		ops = append(ops, operation{"erase", func() error { _, err := m().Erase(ctx, l.s, volume.EraseOptions{}); return err }, want, func() {
			l.phase, l.uuid, l.text, l.maybe, l.live, l.mounted, l.recipe = "", "", "", "", false, false, false
		}})
	}
	return ops
}

func (l *life) write(text string) error {
	f, err := l.now.board.Mapping("data", true)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), userData); err != nil {
		return err
	}
	return f.Flush()
}

// step does one thing at random.
func (l *life) step() {
	l.t.Helper()
	ops := l.operations()
	op := ops[l.rng.IntN(len(ops))]
	switch dice := l.rng.IntN(10); {
	case dice == 0:
		l.note("power cycle")
		l.start(l.now.disk.Live(), l.now.files.Live())
	case dice == 1:
		l.cutDuring(op)
	case dice == 2 && op.name != "write":
		l.killDuring(op)
	default:
		l.note("%s", op.name)
		l.do(op)
	}
	l.check()
}

func (l *life) note(format string, args ...any) {
	l.history = append(l.history, fmt.Sprintf(format, args...))
}

// do runs a command to its end.
func (l *life) do(op operation) {
	l.t.Helper()
	before := len(l.now.board.Made())
	untouchable := l.phase == volume.PhaseReady || l.recipe
	err := op.run()
	if code := fault.CodeOf(err); !slices.Contains(op.want, code) {
		l.fail("%s: code %q, not one of %q: %v", op.name, code, op.want, err)
	}
	l.formatted(op.name, before, untouchable)
	if err == nil {
		op.done()
	}
}

// formatted counts filesystems made, and holds the rule: none on what was ready.
func (l *life) formatted(what string, before int, untouchable bool) {
	l.t.Helper()
	made := len(l.now.board.Made()) - before
	if made > 0 && untouchable {
		l.fail("%s formatted a volume that was ready", what)
	}
	l.formats += made
}

// killDuring kills a command at a random change; the system runs on.
func (l *life) killDuring(op operation) {
	l.t.Helper()
	n := 1 + l.rng.IntN(12)
	l.note("%s, killed at change %d", op.name, n)
	before, untouchable := len(l.now.board.Made()), l.phase == volume.PhaseReady || l.recipe
	var err error
	if !kill(l.now.board, n, func() { err = op.run() }) {
		if code := fault.CodeOf(err); !slices.Contains(op.want, code) {
			l.fail("%s: code %q, not one of %q: %v", op.name, code, op.want, err)
		}
		l.formatted(op.name, before, untouchable)
		if err == nil {
			op.done()
		}
		return
	}
	l.kills++
	l.formatted(op.name, before, untouchable)
	l.settle(op.name)
	f, err := l.now.board.Mapping("data", false)
	if l.live = err == nil; l.live {
		_ = f.Close() // never fails
	}
	l.mounted = l.manager().Status(context.Background(), l.s).Mounted
}

// cutDuring powers the board on anew and loses the power during a command.
func (l *life) cutDuring(op operation) {
	l.t.Helper()
	l.start(l.now.disk.Live(), l.now.files.Live())
	if op.name == "write" {
		// The volume must be open for that, which is not what is cut.
		if _, err := l.manager().Unlock(context.Background(), l.s, volume.UnlockOptions{}); err != nil {
			l.fail("unlock: %v", err)
		}
		l.live = true
		l.check()
	}
	l.note("%s, and the power goes", op.name)
	epoch := l.now.epoch()
	before, untouchable := len(l.now.board.Made()), l.phase == volume.PhaseReady || l.recipe
	old := l.text
	err := op.run()
	if code := fault.CodeOf(err); !slices.Contains(op.want, code) {
		l.fail("%s: code %q, not one of %q: %v", op.name, code, op.want, err)
	}
	l.formatted(op.name, before, untouchable)
	if op.name == "write" {
		op.done()
		l.text, l.maybe = old, l.text
	}
	// One of the states of one of the epochs of this command.
	at := epoch + l.rng.IntN(l.now.epoch()-epoch+1)
	states := slices.Collect(l.now.rec.States(crashtest.Options{
		Exhaustive: 3, Limit: 3, Random: 3, Seed: l.rng.Uint64(), Epochs: func(n int) bool { return n == at },
	}))
	state := states[l.rng.IntN(len(states))]
	l.note("%v", state)
	l.cuts++
	l.start(state.Image(l.now.disk), state.Image(l.now.files))
	l.settle(op.name)
}

// settle finds out which of the states that an interrupted command may leave it
// left.
func (l *life) settle(op string) {
	l.t.Helper()
	st := l.manager().Status(context.Background(), l.s)
	was := l.phase
	now := st.Phase
	if fault.Is(st.Err, fault.EraseStarted) {
		now = volume.PhaseErasing
	}
	possible := []volume.Phase{was}
	switch {
	case strings.HasPrefix(op, "provision") && was != volume.PhaseErasing && !(l.recipe && was == ""):
		possible = append(possible, volume.PhaseProvisioning, volume.PhaseReady)
	case op == "adopt":
		possible = append(possible, volume.PhaseReady)
	case op == "erase":
		possible = append(possible, volume.PhaseErasing, "")
	}
	if was == volume.PhaseReady && op != "erase" {
		possible = []volume.Phase{volume.PhaseReady}
	}
	if !slices.Contains(possible, now) {
		l.fail("%s was interrupted in phase %q and left phase %q: %v", op, was, now, st.Err)
	}
	if op == "erase" && now != was {
		l.text, l.maybe, l.uuid, l.recipe = "", "", "", false
	}
	l.phase = now
}

// check compares what can be seen with the model.
func (l *life) check() {
	l.t.Helper()
	st := l.manager().Status(context.Background(), l.s)
	if l.phase == volume.PhaseReady {
		if st.Phase != volume.PhaseReady || st.Err != nil {
			l.fail("status of a ready volume: %+v", st)
		}
		if l.uuid != "" && st.UUID != l.uuid {
			l.fail("another volume: %s, not %s", st.UUID, l.uuid)
		}
		l.uuid = st.UUID
	}
	if l.now.board.Ring.Left() > 0 {
		l.fail("keys left in a keyring")
	}
	if st.Mounted != l.mounted {
		l.fail("mounted: %v", st.Mounted)
	}
	f, err := l.now.board.Mapping("data", false)
	if (err == nil) != l.live {
		l.fail("announced: %v", err)
	}
	if err != nil {
		return
	}
	defer f.Close()
	if l.text == "" && l.maybe == "" {
		return
	}
	buf := make([]byte, textBytes)
	if _, err := f.ReadAt(buf, userData); err != nil {
		l.fail("read: %v", err)
	}
	// A first write that was torn leaves whatever was there before.
	got := string(buf)
	if got != l.text && got != l.maybe && l.text != "" {
		l.fail("data lost: %q, not %q", got, l.text)
	}
	l.text, l.maybe = got, ""
}

// Commands in any order, each of which may be killed or lose its power: the
// model says what each may answer, and nothing is lost on the way.
func TestAnyOrderOfCommands(t *testing.T) {
	t.Parallel()
	lives, steps := 5, 120
	switch {
	case soak:
		lives, steps = 40, 500
	case slow:
		lives, steps = 1, 60
	}
	var total, formats, cuts, kills atomic.Int64
	for name, s := range map[string]volume.Spec{
		"device":     spec(),
		"ecb":        changed(func(s *volume.Spec) { s.Wrap = "ecb" }),
		"detached":   changed(detached),
		"adopted":    changed(detached),
		"dev source": changed(devSource, func(s *volume.Spec) { s.UUID = "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b" }),
		"no filesystem": changed(func(s *volume.Spec) {
			s.Filesystem, s.Mount = volume.Filesystem{Type: volume.FilesystemNone}, volume.MountSpec{}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range lives {
				l := &life{t: t, s: s, rng: rand.New(rand.NewPCG(uint64(seed), uint64(len(name)))), chip: caamtest.RandomChip()}
				l.note("seed %d", seed)
				disk, files := crashtest.NewImage(lifeDisk), crashtest.NewImage(volumetest.FilesSize)
				if name == "adopted" {
					disk, files = l.byHand()
				}
				l.start(disk, files)
				for range steps {
					l.step()
				}
				total.Add(int64(steps))
				formats.Add(int64(l.formats))
				cuts.Add(int64(l.cuts))
				kills.Add(int64(l.kills))
			}
		})
	}
	t.Cleanup(func() {
		t.Logf("%d commands, %d of them killed and %d with the power lost; %d filesystems made, none on a volume that was ready; nothing lost",
			total.Load(), kills.Load(), cuts.Load(), formats.Load())
	})
}

// byHand makes a volume with the recipe, for adopt.
func (l *life) byHand() (disk, files *crashtest.Image) {
	disk, files = crashtest.NewImage(16*mib), crashtest.NewImage(volumetest.FilesSize)
	h := byHand{cipher: "capi:tk(cbc(aes))-plain64", sectorSize: 4096, wrap: caam.CCM}
	b, blob := h.make(l.t, disk)
	l.chip, l.recipe = b.Chip, true
	if err := volumetest.NewFiles(files).Create(blobFile, blob, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return disk, files
}
