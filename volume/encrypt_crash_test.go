// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// inPlaceRun is an encryption or decryption to be interrupted.
type inPlaceRun struct {
	spec spec.Volume
	back bool
	chip *caamtest.Chip
	// disk and files are as before; plain is the data.
	disk, files *crashtest.Image
	plain       []byte
}

func (r inPlaceRun) command(b *volumetest.Board, o volume.RotateOptions) (volume.RotateResult, error) {
	if r.back {
		return b.Manager().Decrypt(context.Background(), r.spec, o)
	}
	return b.Manager().Encrypt(context.Background(), r.spec, o)
}

func toBeMoved(t *testing.T, s spec.Volume, back bool) inPlaceRun {
	t.Helper()
	disk := plainDiskFor(s)
	r := inPlaceRun{spec: s, back: back, chip: caamtest.RandomChip(), disk: disk, files: crashtest.NewImage(volumetest.FilesSize), plain: bytes.Clone(disk.Bytes()[:rotationData])}
	if back {
		e, err := boardOver(r.chip, r.disk, r.files).Manager().Encrypt(context.Background(), s, volume.RotateOptions{})
		must(t, e.Result, err)
	}
	return r
}

// Wherever the power is cut while a device is encrypted or decrypted in place, and again
// while that is continued, either the device is the plain filesystem, bit for bit, or the
// volume opens at once with all its data; and the same command finishes what was begun.
func TestEveryPowerCutInPlace(t *testing.T) {
	t.Parallel()
	var cuts cutCount
	for name, s := range allPlainCases() {
		for _, back := range []bool{false, true} {
			what := map[bool]string{false: "encrypt", true: "decrypt"}[back]
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				n, m := toBeMoved(t, s, back).enumerate(t)
				cuts.count(t, n, m)
			})
		}
	}
	cuts.logWhenDone(t)
}

func (r inPlaceRun) enumerate(t *testing.T) (first, second int) {
	run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	rr, err := r.command(run.board, volume.RotateOptions{})
	must(t, rr.Result, err)
	return cutTwice(t, run, r.resume)
}

// resume is what happens after the power cycle.
func (r inPlaceRun) resume(t *testing.T, run *recording, what string) {
	t.Helper()
	ctx := context.Background()
	run.board.Chip.PowerCycle()
	m := run.board.Manager()
	if len(what)%3 > 0 {
		r.plainOrOpens(t, run, what)
	}
	if len(what)%2 == 0 {
		if _, err := m.Lock(ctx, r.spec, volume.LockOptions{}); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if _, err := r.command(run.board, volume.RotateOptions{}); err != nil {
		t.Fatalf("%s: not ended: %v", what, err)
	}
	if _, err := m.Lock(ctx, r.spec, volume.LockOptions{}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if r.back {
		// While the volume is in use, the header stays.
		if _, err := r.command(run.board, volume.RotateOptions{}); err != nil {
			t.Fatalf("%s: not ended: %v", what, err)
		}
	}
	last := boardOver(run.board.Chip, run.disk.Live(), run.files.Live())
	last.Chip.PowerCycle()
	if r.back {
		same(t, what+", then decrypted", run.disk.Live().Bytes()[:len(r.plain)], r.plain)
		// A cut after the header is removed may leave the key file of source dev, which
		// no longer opens anything.
		names := slices.DeleteFunc(last.Files.Names(), func(name string) bool { return strings.HasPrefix(name, r.spec.StateDir+"/dev/") })
		if len(names) != 0 {
			t.Fatalf("%s: left: %q", what, names)
		}
	} else {
		if _, err := last.Manager().Unlock(ctx, r.spec, volume.UnlockOptions{Mount: true}); err != nil {
			t.Fatalf("%s, then encrypted: does not open: %v", what, err)
		}
		same(t, what+", then encrypted", content(t, last), r.plain)
		nowhereInPlain(t, last, r.spec, run.disk.Live(), r.plain)
	}
	if run.board.Ring.Left()+last.Ring.Left() != 0 {
		t.Fatalf("%s: a key was left in a keyring", what)
	}
}

// plainOrOpens fails unless either the volume opens with its data, or nothing opens it
// and the device is in plaintext, and status knows which before anything is repaired. At
// the end of a decryption the first bytes may still be where they were kept.
func (r inPlaceRun) plainOrOpens(t *testing.T, run *recording, what string) {
	t.Helper()
	st := run.board.Manager().Status(context.Background(), r.spec)
	_, err := run.board.Manager().Unlock(context.Background(), r.spec, volume.UnlockOptions{Mount: true})
	opens := st.Err == nil || !r.spec.Detached() && fault.Is(st.Err, fault.EncryptionStarted)
	if opens != (err == nil) {
		t.Fatalf("%s: status says %v, unlock %v", what, st.Err, err)
	}
	switch fault.CodeOf(err) {
	case "":
		same(t, what, content(t, run.board), r.plain)
	case fault.NotProvisioned, fault.PlaintextFound, fault.EncryptionStarted:
		raw := make([]byte, len(r.plain))
		if _, err := run.disk.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		same(t, what+": in plain text", raw, r.plain)
	case fault.DecryptionEnding:
		raw := make([]byte, len(r.plain))
		start, state, err := header.FindStart(openedDevice(t, run.board, r.spec))
		if err != nil || state != header.StartBegun || !r.back {
			t.Fatalf("%s: state %v of the start, %v", what, state, err)
		}
		if _, err := run.disk.ReadAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := run.disk.ReadAt(raw[:start.Area], start.Saved); err != nil {
			t.Fatal(err)
		}
		same(t, what+": in plain text, but for its start", raw, r.plain)
	default:
		t.Fatalf("%s: neither in plain text nor a volume that opens: %v (code %s)", what, err, fault.CodeOf(err))
	}
}

// The command is killed before any of its steps with the volume in use, including while
// readers wait for a held zone: the next command, whichever it is, releases them, and the
// next run finishes.
func TestInPlaceKilledInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	next := map[string]func(*volume.Manager, spec.Volume) error{
		"unlock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		},
		"status": func(m *volume.Manager, s spec.Volume) error { return m.Status(ctx, s).Err },
		"verify": func(m *volume.Manager, s spec.Volume) error { _, err := m.Verify(ctx, s); return err },
		"rotate": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			return err
		},
	}
	for kind, c := range map[string]struct {
		spec spec.Volume
		back bool
	}{"encrypt": {encryptSpec(), false}, "decrypt": {encryptSpec(), true}, "on the device": {rotationSpec(rotationGap), false}, "decrypt on the device": {rotationSpec(rotationGap), true}} {
		for name, command := range next {
			back := c.back
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				killed, waited := 0, 0
				for at := 1; ; at += 1 + rand.IntN(someStates()) {
					r := toBeMoved(t, c.spec, back)
					b := boardOver(r.chip, r.disk, r.files)
					if !back {
						e, err := r.command(b, volume.RotateOptions{InitOnly: true})
						must(t, e.Result, err)
					}
					u, err := b.Manager().Unlock(ctx, r.spec, volume.UnlockOptions{Mount: true})
					must(t, u, err)
					if !kill(b, at, func() { _, _ = r.command(b, volume.RotateOptions{}) }) {
						break
					}
					killed++
					if r.usedAfterKill(t, b, fmt.Sprintf("killed at step %d, then %s", at, name), command) {
						waited++
					}
				}
				t.Logf("killed %d times, %d of them with readers waiting", killed, waited)
			})
		}
	}
}

// usedAfterKill reports whether a reader had to wait for the next command.
func (r inPlaceRun) usedAfterKill(t *testing.T, b *volumetest.Board, what string, command func(*volume.Manager, spec.Volume) error) (waited bool) {
	t.Helper()
	ctx := context.Background()
	waited = readDuring(t, b, what, r.plain, func() error { return command(b.Manager(), r.spec) })
	if _, err := r.command(b, volume.RotateOptions{}); err != nil {
		t.Fatalf("%s, then continued: %v\n%s", what, err, b.DM.State())
	}
	same(t, what+", then moved", content(t, b), r.plain)
	if _, err := b.Manager().Lock(ctx, r.spec, volume.LockOptions{}); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, b.DM.State())
	}
	if _, err := r.command(b, volume.RotateOptions{}); err != nil {
		t.Fatalf("%s, then ended: %v\n%s", what, err, b.DM.State())
	}
	nothingPrivate(t, b, 0)
	if r.back {
		same(t, what+", then decrypted", b.Disks[0].Store.(*crashtest.Image).Bytes()[:len(r.plain)], r.plain)
	} else if st := b.Manager().Status(ctx, r.spec); st.Err != nil || st.Phase != header.PhaseReady {
		t.Fatalf("%s: %+v", what, st)
	}
	return waited
}

// The system is suspended before each change that an encryption or decryption makes in
// the kernel or on storage: either the device is in plaintext, or the whole volume is
// there with new keys in the kernel.
func TestASuspendAnywhereInPlace(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for kind, c := range map[string]struct {
		spec spec.Volume
		back bool
	}{"encrypt": {encryptSpec(), false}, "decrypt": {encryptSpec(), true}, "on the device": {rotationSpec(rotationGap), false}, "decrypt on the device": {rotationSpec(rotationGap), true}} {
		s, back := c.spec, c.back
		s.Wrap = "ecb" // a dead CCM key fails, a dead ECB key makes noise
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %v", kind, live), func(t *testing.T) {
				t.Parallel()
				suspends, stopped := 0, 0
				for at := 1; ; at += stride("rotate") {
					r := toBeMoved(t, s, back)
					run := record(r.chip, r.disk, r.files)
					b := run.board
					if live && !back {
						e, err := r.command(b, volume.RotateOptions{InitOnly: true})
						must(t, e.Result, err)
					}
					if live {
						u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						must(t, u, err)
					}
					changes := 0
					b.Step = func(string) error {
						if changes++; changes == at {
							b.Sleep(time.Second)
						}
						return nil
					}
					_, err := r.command(b, volume.RotateOptions{})
					if changes < at {
						break
					}
					if suspends++; err != nil {
						stopped++
					}
					b.Step = nil
					run.board = powerCycle(b)
					what := fmt.Sprintf("suspended before change %d", at)
					r.resume(t, run, what)
				}
				t.Logf("%d suspends, %d of them stopped it, nothing lost", suspends, stopped)
				if stopped == 0 {
					t.Error("none stopped it: nothing was shown")
				}
			})
		}
	}
}
