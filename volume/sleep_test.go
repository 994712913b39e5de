// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// bed is a machine that loses the chip's keys in its sleep.
type bed struct {
	b *volumetest.Board
	// frozen, thawed and slept count.
	frozen, thawed, slept int
	alarms                []string
	// during is what happens while the system sleeps.
	during    func() error
	freezeErr error
}

func (m *bed) Freeze(context.Context) error {
	if m.freezeErr != nil {
		return m.freezeErr
	}
	m.frozen++
	return nil
}

func (m *bed) Thaw() error       { m.thawed++; return nil }
func (m *bed) Sync()             {}
func (m *bed) Alarm(text string) { m.alarms = append(m.alarms, text) }

func (m *bed) Sleep() error {
	m.b.Chip.PowerCycle()
	m.slept++
	if m.during != nil {
		return m.during()
	}
	return nil
}

// sleepCases are small volumes of each kind, in use.
func sleepCases() map[string]func(*testing.T) (*volumetest.Board, volume.Spec) {
	plain := func(change func(*volume.Spec)) func(*testing.T) (*volumetest.Board, volume.Spec) {
		return func(t *testing.T) (*volumetest.Board, volume.Spec) {
			t.Helper()
			s := rotationSpec(rotationGap)
			change(&s)
			b, _ := filled(t, s, rotationDisk(s))
			return b, s
		}
	}
	return map[string]func(*testing.T) (*volumetest.Board, volume.Spec){
		"ccm":           plain(func(*volume.Spec) {}),
		"ecb":           plain(func(s *volume.Spec) { s.Wrap = "ecb" }),
		"detached":      plain(detached),
		"no filesystem": plain(func(s *volume.Spec) { s.Filesystem.Type, s.Mount.Path = volume.FilesystemNone, "" }),
		"rotation prepared": func(t *testing.T) (*volumetest.Board, volume.Spec) {
			t.Helper()
			b, s := plain(func(s *volume.Spec) { s.Wrap = "ecb" })(t)
			r, err := b.Manager().Rotate(context.Background(), s, volume.RotateOptions{InitOnly: true})
			must(t, r.Result, err)
			return b, s
		},
		"rotating ccm": func(t *testing.T) (*volumetest.Board, volume.Spec) { t.Helper(); return halfway(t, "ccm") },
		"rotating ecb": func(t *testing.T) (*volumetest.Board, volume.Spec) { t.Helper(); return halfway(t, "ecb") },
	}
}

// halfway is a volume in use whose rotation was paused.
func halfway(t *testing.T, wrap string) (*volumetest.Board, volume.Spec) {
	t.Helper()
	s := rotationSpec(rotationGap)
	s.Wrap = wrap
	b, _ := filled(t, s, rotationDisk(s))
	rotateUntil(t, b, s, 2)
	return b, s
}

// The data is there after each sleep, and what was on its way is written with the
// right key.
func TestVolumesSleep(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := open(t)
			want := content(t, b)
			m := &bed{b: b}
			for round := range 3 {
				text := []byte(fmt.Sprintf("written while the system sleeps, round %d", round))
				at := len(want) - 8192
				var writer sync.WaitGroup
				m.during = func() error {
					// A request that nobody froze: it waits for the volume.
					writer.Go(func() { scrawl(t, b, text, int64(at)) })
					return nil
				}
				r, err := b.Manager().Sleep(ctx, []volume.Spec{s}, m, volume.SleepOptions{})
				writer.Wait()
				if err != nil || !r.Slept || len(r.Volumes) != 1 || !r.Volumes[0].NewKey || r.Volumes[0].Suspended {
					t.Fatalf("%+v %v", r, err)
				}
				copy(want[at:], text)
				same(t, "after the sleep", content(t, b), want)
			}
			if m.frozen != 3 || m.thawed != 3 || m.slept != 3 || len(m.alarms) > 0 {
				t.Fatalf("%+v", m)
			}
			if b.Ring.Left() != 0 {
				t.Fatalf("%d keys left", b.Ring.Left())
			}
			st := b.Manager().Status(ctx, s)
			if st.Err != nil {
				t.Fatal(st.Err)
			}
			if st.Rotation != nil {
				rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				must(t, rr.Result, err)
				same(t, "after the rotation", content(t, b), want)
			}
		})
	}
}

// Premise: without it the keys are stale, and ECB does not even say so.
func TestWithoutSleepTheKeysAreStale(t *testing.T) {
	t.Parallel()
	for _, wrap := range []string{"ccm", "ecb"} {
		s := changed(func(s *volume.Spec) { s.Wrap = wrap })
		b := mounted(t, s)
		b.Chip.PowerCycle()
		f, err := b.Mapping("data", false)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(userText))
		_, err = f.ReadAt(buf, userData)
		if wrap == "ccm" && err == nil || wrap == "ecb" && (err != nil || string(buf) == userText) {
			t.Errorf("%s: %q %v", wrap, buf, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A key that is not proved after the sleep: the volume stays suspended, nothing
// passes through it, and unlock goes on when the key opens again.
func TestAVolumeWhoseKeyIsNotProvedStaysSuspended(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := open(t)
			want := content(t, b)
			m := &bed{b: b, during: func() error {
				b.Chip.SetFault(func(string) error { return unix.EBADMSG })
				return nil
			}}
			r, err := b.Manager().Sleep(ctx, []volume.Spec{s}, m, volume.SleepOptions{})
			refused(t, err, fault.StaysSuspended)
			if !r.Slept || !r.Volumes[0].Suspended || m.thawed != 1 {
				t.Fatalf("%+v, thawed %d times", r, m.thawed)
			}
			if len(m.alarms) != 1 || !strings.Contains(m.alarms[0], "imxcrypt unlock data") {
				t.Fatalf("%q", m.alarms)
			}
			if i, err := b.DM.Info("data"); err != nil || !i.Suspended || i.Inactive {
				t.Fatalf("%+v %v", i, err)
			}
			// Of a rotation the status says why it does not go on.
			if st := b.Manager().Status(ctx, s); st.Err == nil || st.Rotation == nil && !fault.Is(st.Err, fault.StaysSuspended) {
				t.Fatalf("status: %v", st.Err)
			}
			// Until the key opens nothing that a person may try lets it go on.
			for range 2 {
				if _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err == nil {
					t.Fatal("unlocked with a key that does not open")
				}
				if _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{}); err == nil && !s.Detached() {
					t.Fatal("rotated with a key that does not open")
				}
				if i, err := b.DM.Info("data"); err != nil || !i.Suspended {
					t.Fatalf("%+v %v", i, err)
				}
			}
			b.Chip.SetFault(nil)
			u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			if must(t, u, err); !u.Already {
				t.Fatalf("%+v", u)
			}
			same(t, "after the repair", content(t, b), want)
		})
	}
}

// Whatever fails on the way, the processes go on in the end, and no volume goes on
// with a key that was not proved.
func TestASleepThatFailsAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var suspended, awake int
			for n, done := 1, false; !done; n++ {
				b, s := open(t)
				want := content(t, b)
				m := &bed{b: b}
				step := 0
				// From the n-th step on three fail, which is how often a wake is tried.
				b.Step = func(string) error {
					if step++; step >= n && step < n+3 {
						return unix.EIO
					}
					return nil
				}
				r, err := b.Manager().Sleep(ctx, []volume.Spec{s}, m, volume.SleepOptions{})
				done = step < n
				b.Step = nil
				if m.frozen != m.thawed {
					t.Fatalf("step %d: frozen %d times, thawed %d times", n, m.frozen, m.thawed)
				}
				i, err1 := b.DM.Info("data")
				if err1 != nil {
					t.Fatal(err1)
				}
				if i.Suspended {
					suspended++
					if err == nil {
						t.Fatalf("step %d: suspended, and nothing says so: %+v", n, r)
					}
					u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
					must(t, u, err)
				} else {
					awake++
				}
				same(t, fmt.Sprintf("step %d, %v", n, err), content(t, b), want)
			}
			if suspended == 0 || awake == 0 {
				t.Fatalf("%d suspended, %d awake", suspended, awake)
			}
		})
	}
}

// pair is two disks, a volume on each, or the second in the first.
func pair(t *testing.T, nested bool) (*volumetest.Board, []volume.Spec) {
	t.Helper()
	outer := changed(func(s *volume.Spec) { s.Filesystem.Type, s.Mount.Path = volume.FilesystemNone, "" })
	inner := changed(func(s *volume.Spec) { s.Name, s.Mapping, s.Device = "inner", "inner", "/dev/sda" })
	if nested {
		inner.Device = "/dev/mapper/data"
	}
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(),
		&volumetest.Disk{Path: "/dev/mmcblk2p3", Store: crashtest.NewImage(24 * mib)},
		&volumetest.Disk{Path: "/dev/sda", Store: crashtest.NewImage(16 * mib)})
	b.Directories = []string{"/data"}
	for _, s := range []volume.Spec{outer, inner} {
		// An encrypted volume that was never written to is full of noise.
		r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{Wipe: nested && s.Name == "inner"})
		must(t, r, err)
	}
	return b, []volume.Spec{outer, inner}
}

func (m *bed) order(t *testing.T, specs []volume.Spec) (volume.SleepResult, []string) {
	t.Helper()
	var steps []string
	m.b.Step = func(what string) error {
		if m.slept+m.frozen > 0 && (strings.HasPrefix(what, "suspend ") || strings.HasPrefix(what, "resume ")) && !strings.Contains(what, ":") {
			steps = append(steps, what)
		}
		return nil
	}
	r, err := m.b.Manager().Sleep(context.Background(), specs, m, volume.SleepOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.b.Step = nil
	return r, steps
}

// What lies on another is suspended before it and resumed after it.
func TestVolumesSleepFromTheTopDown(t *testing.T) {
	t.Parallel()
	b, specs := pair(t, true)
	for range 2 {
		r, steps := (&bed{b: b}).order(t, specs)
		if want := []string{"suspend inner", "suspend data", "resume data", "resume inner"}; !slices.Equal(steps, want) {
			t.Fatalf("%v", steps)
		}
		if r.Volumes[0].Volume != "inner" || !slices.Equal(r.Volumes[0].On, []string{"data"}) || len(r.Volumes[1].On) > 0 {
			t.Fatalf("%+v", r.Volumes)
		}
		slices.Reverse(specs)
	}
}

// One volume's loss is not the other's, unless that lies on it.
func TestOneVolumeStaysSuspended(t *testing.T) {
	t.Parallel()
	for _, nested := range []bool{false, true} {
		b, specs := pair(t, nested)
		m := &bed{b: b}
		m.during = func() error {
			b.Step = func(what string) error {
				if strings.HasPrefix(what, "create data:check") {
					return unix.EIO
				}
				return nil
			}
			return nil
		}
		r, err := b.Manager().Sleep(context.Background(), specs, m, volume.SleepOptions{})
		refused(t, err, fault.StaysSuspended)
		for _, v := range r.Volumes {
			info, err := b.DM.Info(v.Volume)
			if want := v.Volume == "data" || nested; err != nil || info.Suspended != want || v.Suspended != want {
				t.Errorf("nested %v: %+v, %+v, %v", nested, v, info, err)
			}
		}
	}
}

// What nobody would open again keeps the system from sleeping, and so does what
// another command is doing.
func TestSleepIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *volumetest.Board, *bed) []volume.Spec
		code  fault.Code
	}{
		"not in the configuration": {func(*testing.T, *volumetest.Board, *bed) []volume.Spec { return nil }, fault.SleepRefused},
		"the old recipe": {func(t *testing.T, b *volumetest.Board, _ *bed) []volume.Spec {
			t.Helper()
			if err := tkMapping(ctx, b); err != nil {
				t.Fatal(err)
			}
			return []volume.Spec{spec()}
		}, fault.SleepRefused},
		"a key that is lost already": {func(_ *testing.T, b *volumetest.Board, _ *bed) []volume.Spec {
			b.Chip.SetFault(func(string) error { return unix.EBADMSG })
			return []volume.Spec{spec()}
		}, fault.BlobRejected},
		"another command": {func(t *testing.T, b *volumetest.Board, _ *bed) []volume.Spec {
			t.Helper()
			if _, err := b.System().Locks.Acquire(ctx, "data"); err != nil {
				t.Fatal(err)
			}
			return []volume.Spec{spec()}
		}, fault.LockHeld},
		"another configuration": {func(*testing.T, *volumetest.Board, *bed) []volume.Spec {
			return []volume.Spec{changed(func(s *volume.Spec) { s.SectorSize = 512 })}
		}, fault.HeaderMismatch},
		"processes that do not stop": {func(_ *testing.T, _ *volumetest.Board, m *bed) []volume.Spec {
			m.freezeErr = fault.New(fault.NotFrozen, "not all", nil)
			return []volume.Spec{spec()}
		}, fault.NotFrozen},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mounted(t, spec())
			m := &bed{b: b}
			specs := c.spoil(t, b, m)
			before := b.DM.State()
			_, err := b.Manager().Sleep(ctx, specs, m, volume.SleepOptions{})
			refused(t, err, c.code)
			if m.slept+m.frozen+m.thawed > 0 || b.DM.State() != before {
				t.Fatalf("%+v\n%s", m, b.DM.State())
			}
		})
	}
}

// tkMapping is a volume as the recipe of caam-keygen and dmsetup makes it.
func tkMapping(ctx context.Context, b *volumetest.Board) error {
	black, _, err := b.Chip.Create(ctx, "ccm", 32)
	if err != nil {
		return err
	}
	defer black.Wipe()
	options, err := dmcrypt.CryptOptions(512)
	if err != nil {
		return err
	}
	return b.Ring.WithLogonKey("logkey:recipe", black.Bytes(), func() error {
		_, err := b.DM.Activate(ctx, "recipe", "", dmcrypt.Table{dmcrypt.Crypt{
			Length: 2048, Cipher: "capi:tk(cbc(aes))-plain", Key: dmcrypt.KeyRef{Size: len(black.Bytes()), Type: "logon", Description: "logkey:recipe"},
			Device: dmcrypt.Number{Major: 179, Minor: 8}, Offset: 4096, Options: options,
		}}, false)
		return err
	})
}

// A kernel that refuses to sleep, and may have lost the keys on the way.
func TestAKernelThatRefusesToSleep(t *testing.T) {
	t.Parallel()
	b := mounted(t, spec())
	m := &bed{b: b, during: func() error { return fmt.Errorf("write state: %w", unix.EBUSY) }}
	r, err := b.Manager().Sleep(context.Background(), []volume.Spec{spec()}, m, volume.SleepOptions{})
	if !errors.Is(err, unix.EBUSY) || r.Slept || m.thawed != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := get(t, b, len(userText)); got != userText {
		t.Fatalf("%q", got)
	}
}

// A dry run tells the order and changes nothing; locked volumes and those without
// a key of the chip need nothing.
func TestSleepDryRun(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, specs := pair(t, true)
	before, disk := b.DM.State(), b.Disks[0].Store.(*crashtest.Image).Bytes()
	m := &bed{b: b}
	r, err := b.Manager().Sleep(ctx, specs, m, volume.SleepOptions{DryRun: true})
	if err != nil || m.frozen+m.slept > 0 || b.DM.State() != before || !bytes.Equal(disk, b.Disks[0].Store.(*crashtest.Image).Bytes()) {
		t.Fatalf("%+v %v", m, err)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.What)
	}
	want := []string{
		"freeze every other process, write back the filesystems", "suspend inner", "suspend data", "suspend to RAM",
		"open the key of data again, prove it, resume data", "open the key of inner again, prove it, resume inner", "let the processes go on",
	}
	if !slices.Equal(steps, want) {
		t.Fatalf("%q", steps)
	}
	for name, open := range map[string]func() (*volumetest.Board, volume.Spec){
		"locked": func() (*volumetest.Board, volume.Spec) { b, _ := ready(t, spec()); return b, spec() },
		"dev":    func() (*volumetest.Board, volume.Spec) { s := changed(devSource); return mounted(t, s), s },
	} {
		b, s := open()
		m := &bed{b: b}
		r, err := b.Manager().Sleep(ctx, []volume.Spec{s}, m, volume.SleepOptions{})
		if err != nil || !r.Slept || m.frozen > 0 {
			t.Errorf("%s: %+v %+v %v", name, r, m, err)
		}
	}
}
