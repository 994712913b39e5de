// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// replaced is a volume whose header is about to be restored or repaired.
type replaced struct {
	s           spec.Volume
	chip        *caamtest.Chip
	disk, files *crashtest.Image
	there       []byte // what is in the header's place
	want        []byte
	do          func(*volumetest.Board) (volume.Result, error)
	// keeps is set if what is there is kept before anything is written.
	keeps bool
}

// header returns what is in the header's place now.
func (r *replaced) header(t *testing.T, b *volumetest.Board, disk interface {
	ReadAt(p []byte, off int64) (int, error)
}) []byte {
	t.Helper()
	if !r.s.Detached() {
		now := make([]byte, len(r.there))
		if _, err := disk.ReadAt(now, 0); err != nil {
			t.Fatal(err)
		}
		return now
	}
	now, err := b.Files.Read(r.s.Header, readAll())
	if err != nil {
		t.Fatalf("the header that was there is gone: %v", err)
	}
	return now
}

// nothingLost checks that what was there is still there, or whole in the file that keeps
// it.
func (r *replaced) nothingLost(t *testing.T, what string, b *volumetest.Board, disk interface {
	ReadAt(p []byte, off int64) (int, error)
}) {
	t.Helper()
	if !r.keeps || bytes.Equal(r.header(t, b, disk), r.there) {
		return
	}
	for _, name := range b.Files.Names() {
		if !strings.HasPrefix(name, r.s.StateDir+"/headers/") {
			continue
		}
		if kept, err := b.Files.Read(name, readAll()); err == nil && bytes.Equal(kept, r.there) {
			return
		}
	}
	t.Fatalf("%s: what was replaced is nowhere", what)
}

// finish runs the command to the end on what an interruption left, and opens the volume.
func (r *replaced) finish(t *testing.T, what string, run *recording) {
	t.Helper()
	run.board.Chip.PowerCycle()
	r.nothingLost(t, what, run.board, run.disk)
	if _, err := r.do(run.board); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	r.nothingLost(t, what, run.board, run.disk)
	if _, err := run.board.Manager().Unlock(context.Background(), r.s, volume.UnlockOptions{}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	same(t, what, content(t, run.board), r.want)
}

func (r *replaced) enumerate(t *testing.T) (states, second, kills int) {
	t.Helper()
	first := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	if _, err := r.do(first.board); err != nil {
		t.Fatal(err)
	}
	for state := range first.rec.States(few(crashtest.Options{Limit: 12, Random: 4, Exhaustive: 6})) {
		states++
		run := record(r.chip, state.Image(first.disk), state.Image(first.files))
		r.finish(t, state.String(), run)
		if states%secondCut() != 0 {
			continue
		}
		for cut := range run.rec.States(crashtest.Options{Limit: 2, Random: 1, Exhaustive: 2, Seed: uint64(states)}) {
			second++
			again := record(r.chip, cut.Image(run.disk), cut.Image(run.files))
			r.finish(t, state.String()+"; then "+cut.String(), again)
		}
	}
	for n := 1; ; n += stride("") {
		run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
		run.board.Chip.PowerCycle()
		var err error
		if !kill(run.board, n, func() { _, err = r.do(run.board) }) {
			if err != nil {
				t.Fatal(err)
			}
			return states, second, kills
		}
		kills++
		what := fmt.Sprintf("killed at change %d", n)
		r.nothingLost(t, what, run.board, run.disk)
		if _, err := r.do(run.board); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		r.nothingLost(t, what, run.board, run.disk)
		if _, err := run.board.Manager().Unlock(context.Background(), r.s, volume.UnlockOptions{}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		same(t, what, content(t, run.board), r.want)
	}
}

// Wherever the power is cut while a header is restored or repaired, while what is there
// is kept, and again while the next run finishes, and wherever the command is killed:
// what was there is still there or kept, the same command succeeds, and the volume opens
// with its data.
func TestEveryCutOfReplacingAHeader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	restore := func(s spec.Volume) func(*volumetest.Board) (volume.Result, error) {
		return func(b *volumetest.Board) (volume.Result, error) {
			return b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
		}
	}
	repair := func(s spec.Volume) func(*volumetest.Board) (volume.Result, error) {
		return func(b *volumetest.Board) (volume.Result, error) {
			return b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
		}
	}
	for name, c := range map[string]struct {
		damage   string
		do       func(spec.Volume) func(*volumetest.Board) (volume.Result, error)
		rotating bool
	}{
		"restored over damage":          {"a byte in each text", restore, false},
		"restored over one good copy":   {"the second text", restore, false},
		"repaired from both":            {"a byte in each text", repair, false},
		"repaired from halves":          {"the first text, the second binary header", repair, false},
		"repaired, both checksums":      {"both checksums", repair, false},
		"repaired from one copy":        {"the first text", repair, false},
		"repaired over noise":           {"the first copy, noise", repair, false},
		"repaired, half-way a rotation": {"a byte in each text", repair, true},
	} {
		for place, s := range sampled(t, name, map[string]spec.Volume{"device": rotationSpec(rotationGap), "detached": rotationCases()["detached"]}, 2) {
			t.Run(name+", "+place, func(t *testing.T) {
				t.Parallel()
				run := prepared(t, s, 1)
				b := boardOver(run.chip, run.disk, run.files)
				p, err := b.Manager().BackupHeader(ctx, s, backupFile)
				must(t, p, err)
				if c.rotating {
					halfRotated(t, b, s)
				}
				changeHeader(t, b, s, run.disk, func(im volumetest.Store) { headerDamage()[c.damage].do(t, im) })
				r := &replaced{s: s, chip: run.chip, disk: run.disk, files: run.files, want: run.want, do: c.do(s)}
				r.keeps = headerDamage()[c.damage].both || strings.HasPrefix(name, "restored") || strings.HasSuffix(name, "noise")
				r.there = make([]byte, rotationHeader)
				r.there = r.header(t, b, run.disk)
				states, second, kills := r.enumerate(t)
				t.Logf("%d power cuts, %d second ones, %d kills, 0 lost", states, second, kills)
			})
		}
	}
}
