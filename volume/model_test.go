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

	"filippo.io/age"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// life is a volume to which commands are given in any order, which are killed and lose
// power, and a model of what must be true of it.
type life struct {
	t    *testing.T
	s    spec.Volume
	rng  *rand.Rand
	chip *caamtest.Chip
	now  *recording
	// history is printed when the test fails.
	history []string

	volumetest.Model
	text  string // what the user last wrote and flushed
	maybe string // what the user was writing when power was cut
	// killed reports that the last command that changes something was killed. It may have
	// left a mapping suspended until the next one.
	killed bool

	// identity opens the recovery copy; nil for a volume without one.
	identity *age.X25519Identity

	formats, cuts, kills, rotations, boards int
}

const (
	lifeDisk  = 6 * mib
	textBytes = 32
)

// fail ends the test and shows everything that led there.
func (l *life) fail(format string, args ...any) {
	l.t.Helper()
	last := l.history[max(0, len(l.history)-25):]
	l.t.Fatalf("%s\nphase %q live %v mounted %v recipe %v; after:\n%s\n%s",
		fmt.Sprintf(format, args...), l.Phase, l.Live, l.Mounted, l.Recipe, strings.Join(last, "\n"), l.now.board.DM.State())
}

func (l *life) manager() *volume.Manager { return l.now.board.Manager() }

// start powers the board on over images.
func (l *life) start(disk, files *crashtest.Image) {
	l.chip.PowerCycle()
	l.now = record(l.chip, disk, files)
	l.Live, l.Mounted = false, false
}

// operation is one command, how it is given, and what the model says about it.
type operation struct {
	volumetest.Command
	run func() error
}

func (l *life) operations() []operation {
	rotate, erase := l.rng.IntN(3) == 0, l.rng.IntN(6) == 0
	var ops []operation
	for _, c := range l.Commands() {
		if strings.HasPrefix(c.Name, volumetest.Rotate) && !rotate || c.Name == volumetest.Erase && !erase {
			continue
		}
		ops = append(ops, operation{c, l.command(c.Name)})
	}
	ops = append(ops, operation{volumetest.Command{Name: "status", Want: []fault.Code{""}, Done: func() {}}, func() error {
		l.manager().Status(context.Background(), l.s)
		return nil
	}})
	if l.Live {
		text := fmt.Sprintf("%-*d", textBytes, l.rng.Int64())
		ops = append(ops, operation{volumetest.Command{Name: "write", Want: []fault.Code{""}, Done: func() { l.text = text }},
			func() error { return l.write(text) }})
	}
	return ops
}

// command returns how one of the model's commands is given.
func (l *life) command(name string) func() error {
	ctx := context.Background()
	provision := func(o volume.ProvisionOptions) error {
		o.Recipients = l.recipients()
		_, err := l.manager().Provision(ctx, l.s, o)
		return err
	}
	unlock := func(o volume.UnlockOptions) error { _, err := l.manager().Unlock(ctx, l.s, o); return err }
	rotate := func(o volume.RotateOptions) error { _, err := l.manager().Rotate(ctx, l.s, o); return err }
	return map[string]func() error{
		volumetest.Provision:        func() error { return provision(volume.ProvisionOptions{}) },
		volumetest.ProvisionNoMount: func() error { return provision(volume.ProvisionOptions{NoMount: true}) },
		volumetest.Unlock:           func() error { return unlock(volume.UnlockOptions{}) },
		volumetest.UnlockAndMount:   func() error { return unlock(volume.UnlockOptions{Mount: l.Mounts}) },
		volumetest.Lock:             func() error { _, err := l.manager().Lock(ctx, l.s, volume.LockOptions{}); return err },
		volumetest.Verify:           func() error { _, err := l.manager().Verify(ctx, l.s); return err },
		volumetest.Rotate:           func() error { return rotate(volume.RotateOptions{}) },
		volumetest.RotateKeyOnly:    func() error { return rotate(volume.RotateOptions{InitOnly: true}) },
		volumetest.RotateResume:     func() error { return rotate(volume.RotateOptions{ResumeOnly: true}) },
		volumetest.Adopt: func() error {
			_, err := l.manager().Adopt(ctx, l.s, volume.AdoptOptions{Blob: blobFile})
			return err
		},
		volumetest.Erase: func() error { _, err := l.manager().Erase(ctx, l.s, volume.EraseOptions{}); return err },
	}[name]
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
	case dice == 1 && l.identity != nil && l.Phase == header.PhaseReady && !l.Rotating:
		l.otherBoard()
	case dice == 1:
		l.cutDuring(op)
	case dice == 2 && op.Name != "write":
		l.killDuring(op)
	default:
		l.note("%s", op.Name)
		l.do(op)
	}
	l.check()
}

func (l *life) recipients() []string {
	if l.identity == nil {
		return nil
	}
	return []string{l.identity.Recipient().String()}
}

// otherBoard puts the disk into another board, which opens it once it has been given the
// key.
func (l *life) otherBoard() {
	l.t.Helper()
	ctx := context.Background()
	l.note("another board")
	l.chip = caamtest.RandomChip()
	l.start(l.now.disk.Live(), l.now.files.Live())
	if _, err := l.manager().Unlock(ctx, l.s, volume.UnlockOptions{}); !fault.Is(err, fault.BlobRejected) {
		l.fail("another chip opens the volume: %v", err)
	}
	if _, err := l.manager().Recover(ctx, volume.RecoverOptions{Path: "/dev/mmcblk2p3", Opener: volume.Opener{Identities: identityFile(l.identity)}}); err != nil {
		l.fail("recover: %v", err)
	}
	if err := l.now.board.DM.Remove(ctx, "recovered-data"); err != nil {
		l.fail("remove what was recovered: %v", err)
	}
	if _, err := l.manager().Reseal(ctx, l.s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(l.identity)}, Fingerprint: known(l.manager().Status(ctx, l.s).RecoveryFingerprint)}); err != nil {
		l.fail("reseal: %v", err)
	}
	l.boards++
	if _, err := l.manager().Unlock(ctx, l.s, volume.UnlockOptions{}); err != nil {
		l.fail("unlock on the other board: %v", err)
	}
	l.Live = true
}

func (l *life) note(format string, args ...any) {
	l.history = append(l.history, fmt.Sprintf(format, args...))
}

// do runs a command to its end.
func (l *life) do(op operation) {
	l.t.Helper()
	before := len(l.now.board.Made())
	untouchable := l.Precious()
	err := op.run()
	if code := fault.CodeOf(err); !slices.Contains(op.Want, code) {
		l.fail("%s: code %q, not one of %q: %v", op.Name, code, op.Want, err)
	}
	l.formatted(op.Name, before, untouchable)
	if err == nil {
		l.done(op)
	}
}

// done changes the model after a command that succeeded.
func (l *life) done(op operation) {
	op.Done()
	if op.Name != "status" && op.Name != volumetest.Verify {
		l.killed = false
	}
	switch {
	case op.Name == volumetest.Erase:
		l.text, l.maybe = "", ""
	case strings.HasPrefix(op.Name, volumetest.Rotate):
		l.rotations++
	}
}

// formatted counts the filesystems made and enforces the rule: none on a ready volume.
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
	l.note("%s, killed at change %d", op.Name, n)
	before, untouchable := len(l.now.board.Made()), l.Precious()
	var err error
	if !kill(l.now.board, n, func() { err = op.run() }) {
		if code := fault.CodeOf(err); !slices.Contains(op.Want, code) {
			l.fail("%s: code %q, not one of %q: %v", op.Name, code, op.Want, err)
		}
		l.formatted(op.Name, before, untouchable)
		if err == nil {
			l.done(op)
		}
		return
	}
	l.kills++
	l.killed = true
	l.formatted(op.Name, before, untouchable)
	l.settle(op.Name)
	f, err := l.now.board.Mapping("data", false)
	if l.Live = err == nil; l.Live {
		_ = f.Close() // never fails
	}
	l.Mounted = l.manager().Status(context.Background(), l.s).Mounted
}

// cutDuring powers the board on again and cuts power during a command.
func (l *life) cutDuring(op operation) {
	l.t.Helper()
	l.start(l.now.disk.Live(), l.now.files.Live())
	if op.Name == "write" {
		// The volume must be open to be written. That is not what is cut.
		if _, err := l.manager().Unlock(context.Background(), l.s, volume.UnlockOptions{}); err != nil {
			l.fail("unlock: %v", err)
		}
		l.Live = true
		l.check()
	}
	l.note("%s, and the power goes", op.Name)
	epoch := l.now.epoch()
	before, untouchable := len(l.now.board.Made()), l.Precious()
	old := l.text
	err := op.run()
	if code := fault.CodeOf(err); !slices.Contains(op.Want, code) {
		l.fail("%s: code %q, not one of %q: %v", op.Name, code, op.Want, err)
	}
	l.formatted(op.Name, before, untouchable)
	if op.Name == "write" {
		op.Done()
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
	l.settle(op.Name)
}

// settle finds out in which of the possible states an interrupted command left the
// volume.
func (l *life) settle(op string) {
	l.t.Helper()
	st := l.manager().Status(context.Background(), l.s)
	now := phaseOf(st)
	if fault.Is(st.Err, fault.EraseStarted) {
		now = header.PhaseErasing
	}
	was := l.Phase
	if err := l.Interrupted(op, now); err != nil {
		l.fail("%v: %v", err, st.Err)
	}
	if op == volumetest.Erase && now != was {
		l.text, l.maybe = "", ""
	}
}

// phaseOf is ready also while the key is being changed.
func phaseOf(st volume.Status) header.Phase {
	if st.Phase == header.PhaseRotating {
		return header.PhaseReady
	}
	return st.Phase
}

// check compares what can be seen with the model.
func (l *life) check() {
	l.t.Helper()
	st := l.manager().Status(context.Background(), l.s)
	held := l.killed && fault.Is(st.Err, fault.StaysSuspended)
	if l.Phase == header.PhaseReady && st.Err != nil && !held {
		l.fail("status of a ready volume: %+v", st)
	}
	if err := l.Seen(st.Phase, st.UUID, st.Generation, st.Rotation != nil, st.Mounted); err != nil {
		l.fail("%v", err)
	}
	if l.now.board.Ring.Left() > 0 {
		l.fail("keys left in a keyring")
	}
	f, err := l.now.board.Mapping("data", false)
	if (err == nil) != l.Live {
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

// Commands in any order, each of which may be killed or lose power: the model says what
// each may answer, and nothing is lost.
func TestAnyOrderOfCommands(t *testing.T) {
	t.Parallel()
	lives, steps := 5, 120
	switch {
	case soak:
		lives, steps = 40, 500
	case slow():
		lives, steps = 1, 60
	}
	var total, formats, cuts, kills, rotations, boards atomic.Int64
	for name, s := range map[string]spec.Volume{
		"device":     newSpec(),
		"ecb":        changed(func(s *spec.Volume) { s.Wrap = "ecb" }),
		"detached":   changed(detached),
		"recovery":   newSpec(),
		"adopted":    changed(detached),
		"dev source": changed(devSource, func(s *spec.Volume) { s.UUID = "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b" }),
		"no filesystem": changed(func(s *spec.Volume) {
			s.Filesystem, s.Mount = spec.Filesystem{Type: spec.FilesystemNone}, spec.Mount{}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range lives {
				l := &life{t: t, s: s, rng: rand.New(rand.NewPCG(uint64(seed), uint64(len(name)))), chip: caamtest.RandomChip()}
				l.Mounts = s.Mount.Path != ""
				l.note("seed %d", seed)
				disk, files := crashtest.NewImage(lifeDisk), crashtest.NewImage(volumetest.FilesSize)
				switch name {
				case "adopted":
					disk, files = l.byHand()
				case "recovery":
					l.identity = newIdentity(t)
				}
				l.start(disk, files)
				for range steps {
					l.step()
				}
				total.Add(int64(steps))
				formats.Add(int64(l.formats))
				cuts.Add(int64(l.cuts))
				kills.Add(int64(l.kills))
				rotations.Add(int64(l.rotations))
				boards.Add(int64(l.boards))
			}
		})
	}
	t.Cleanup(func() {
		t.Logf("%d commands, %d of them killed and %d with the power lost; %d filesystems made, none on a volume that was ready; %d rotations; %d times on another board; nothing lost",
			total.Load(), kills.Load(), cuts.Load(), formats.Load(), rotations.Load(), boards.Load())
	})
}

// byHand makes a volume by the recipe, for adopt.
func (l *life) byHand() (disk, files *crashtest.Image) {
	disk, files = crashtest.NewImage(16*mib), crashtest.NewImage(volumetest.FilesSize)
	h := byHand{cipher: "capi:tk(cbc(aes))-plain64", sectorSize: 4096, wrap: caam.CCM}
	b, blob := h.make(l.t, disk)
	l.chip, l.Recipe = b.Chip, true
	if err := volumetest.NewFiles(files).Create(blobFile, blob, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return disk, files
}
