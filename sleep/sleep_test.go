// SPDX-License-Identifier: Apache-2.0

package sleep_test

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
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// sleepCases are small volumes of each kind, in use.
func sleepCases() map[string]func(*testing.T) (*volumetest.Board, spec.Volume) {
	plain := func(change func(*spec.Volume)) func(*testing.T) (*volumetest.Board, spec.Volume) {
		return func(t *testing.T) (*volumetest.Board, spec.Volume) {
			t.Helper()
			s := volumetest.Small(volumetest.SmallGap)
			change(&s)
			b, _ := volumetest.Filled(t, s, volumetest.SmallDisk(s))
			return b, s
		}
	}
	return map[string]func(*testing.T) (*volumetest.Board, spec.Volume){
		"ccm":           plain(func(*spec.Volume) {}),
		"ecb":           plain(func(s *spec.Volume) { s.Wrap = "ecb" }),
		"detached":      plain(volumetest.Detached),
		"no filesystem": plain(func(s *spec.Volume) { s.Filesystem.Type, s.Mount.Path = spec.FilesystemNone, "" }),
		"rotation prepared": func(t *testing.T) (*volumetest.Board, spec.Volume) {
			t.Helper()
			b, s := plain(func(s *spec.Volume) { s.Wrap = "ecb" })(t)
			r, err := b.Manager().Rotate(context.Background(), s, volume.RotateOptions{InitOnly: true})
			volumetest.Must(t, r.Result, err)
			return b, s
		},
		"encrypting":   func(t *testing.T) (*volumetest.Board, spec.Volume) { t.Helper(); return halfInPlace(t, false) },
		"decrypting":   func(t *testing.T) (*volumetest.Board, spec.Volume) { t.Helper(); return halfInPlace(t, true) },
		"rotating ccm": func(t *testing.T) (*volumetest.Board, spec.Volume) { t.Helper(); return halfway(t, "ccm") },
		"rotating ecb": func(t *testing.T) (*volumetest.Board, spec.Volume) { t.Helper(); return halfway(t, "ecb") },
	}
}

// halfway is a volume in use whose rotation was paused.
func halfway(t *testing.T, wrap string) (*volumetest.Board, spec.Volume) {
	t.Helper()
	s := volumetest.Small(volumetest.SmallGap)
	s.Wrap = wrap
	b, _ := volumetest.Filled(t, s, volumetest.SmallDisk(s))
	volumetest.RotateUntil(t, b, s, 2)
	return b, s
}

// halfInPlace is a volume in use of which a part is in plaintext.
func halfInPlace(t *testing.T, back bool) (*volumetest.Board, spec.Volume) {
	t.Helper()
	s := volumetest.Small(0)
	volumetest.Detached(&s)
	s.Wrap = "ecb"
	b := volumetest.BoardOf(volumetest.PlainDisk())
	if back {
		e, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{})
		volumetest.Must(t, e.Result, err)
	}
	volumetest.InPlaceUntil(t, 1, func(ctx context.Context, o volume.RotateOptions) error {
		var err error
		if back {
			_, err = b.Manager().Decrypt(ctx, s, o)
		} else {
			_, err = b.Manager().Encrypt(ctx, s, o)
		}
		return err
	})
	u, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	volumetest.Must(t, u, err)
	return b, s
}

// The data is there after each sleep, and requests in flight are written with the right
// key.
func TestVolumesSleep(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := open(t)
			want := volumetest.Content(t, b)
			m := &volumetest.Machine{Board: b}
			for round := range 3 {
				text := []byte(fmt.Sprintf("written while the system sleeps, round %d", round))
				at := len(want) - 8192
				var writer sync.WaitGroup
				m.During = func() error {
					// A request of a process that was not frozen: it waits for the
					// volume.
					writer.Go(func() { volumetest.Write(t, b, text, int64(at)) })
					return nil
				}
				r, err := sleep.Run(ctx, b.System(), []spec.Volume{s}, m, sleep.Options{})
				writer.Wait()
				if err != nil || !r.Slept || len(r.Volumes) != 1 || !r.Volumes[0].NewKey || r.Volumes[0].Suspended {
					t.Fatalf("%+v %v", r, err)
				}
				copy(want[at:], text)
				volumetest.Same(t, "after the sleep", volumetest.Content(t, b), want)
			}
			if m.Frozen != 3 || m.Thawed != 3 || m.Slept != 3 || len(m.Alarms) > 0 {
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
				volumetest.Must(t, rr.Result, err)
				volumetest.Same(t, "after the rotation", volumetest.Content(t, b), want)
			}
		})
	}
}

// Premise: without package sleep the keys are stale, and ECB does not even report it.
func TestWithoutSleepTheKeysAreStale(t *testing.T) {
	t.Parallel()
	for _, wrap := range []string{"ccm", "ecb"} {
		s := volumetest.Changed(func(s *spec.Volume) { s.Wrap = wrap })
		b := volumetest.Mounted(t, s)
		b.Chip.PowerCycle()
		f, err := b.Mapping("data", false)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(volumetest.UserText))
		_, err = f.ReadAt(buf, volumetest.UserData)
		if wrap == "ccm" && err == nil || wrap == "ecb" && (err != nil || string(buf) == volumetest.UserText) {
			t.Errorf("%s: %q %v", wrap, buf, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// If a key is not proved after the sleep, the volume stays suspended and nothing passes
// through it. unlock resumes it once the key opens again.
func TestAVolumeWhoseKeyIsNotProvedStaysSuspended(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := open(t)
			want := volumetest.Content(t, b)
			m := &volumetest.Machine{Board: b, During: func() error {
				b.Chip.SetFault(func(string) error { return unix.EBADMSG })
				return nil
			}}
			r, err := sleep.Run(ctx, b.System(), []spec.Volume{s}, m, sleep.Options{})
			volumetest.Refused(t, err, fault.StaysSuspended)
			if !r.Slept || !r.Volumes[0].Suspended || m.Thawed != 1 {
				t.Fatalf("%+v, thawed %d times", r, m.Thawed)
			}
			if len(m.Alarms) != 1 || !strings.Contains(m.Alarms[0], "imxcrypt unlock data") {
				t.Fatalf("%q", m.Alarms)
			}
			if i, err := b.DM.Info("data"); err != nil || !i.Suspended || i.Inactive {
				t.Fatalf("%+v %v", i, err)
			}
			// If a rotation is under way, the status says why it does not continue.
			if st := b.Manager().Status(ctx, s); st.Err == nil || st.Rotation == nil && !fault.Is(st.Err, fault.StaysSuspended) {
				t.Fatalf("status: %v", st.Err)
			}
			// Until the key opens, nothing that a person may try resumes the volume.
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
			// Writing back would wait for the volume, with every process frozen.
			m.During, m.Thawed = nil, 0
			r, err = sleep.Run(ctx, b.System(), []spec.Volume{s}, m, sleep.Options{})
			if volumetest.Refused(t, err, fault.SleepRefused); r.Slept || m.Thawed != 0 {
				t.Fatalf("%+v", r)
			}
			b.Chip.SetFault(nil)
			u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			if volumetest.Must(t, u, err); !u.Already {
				t.Fatalf("%+v", u)
			}
			volumetest.Same(t, "after the repair", volumetest.Content(t, b), want)
		})
	}
}

// Whatever fails on the way, the processes continue in the end, and no volume continues
// with a key that was not proved.
func TestASleepThatFailsAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, open := range sleepCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var suspended, awake int
			for n, done := 1, false; !done; n += volumetest.Every(3) {
				b, s := open(t)
				want := volumetest.Content(t, b)
				m := &volumetest.Machine{Board: b}
				step := 0
				// From the n-th step on, three steps fail, because a wake is tried that
				// often.
				b.Step = func(string) error {
					if step++; step >= n && step < n+3 {
						return unix.EIO
					}
					return nil
				}
				r, err := sleep.Run(ctx, b.System(), []spec.Volume{s}, m, sleep.Options{})
				done = step < n
				b.Step = nil
				if m.Frozen != m.Thawed {
					t.Fatalf("step %d: frozen %d times, thawed %d times", n, m.Frozen, m.Thawed)
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
					volumetest.Must(t, u, err)
				} else {
					awake++
				}
				volumetest.Same(t, fmt.Sprintf("step %d, %v", n, err), volumetest.Content(t, b), want)
			}
			if suspended == 0 || awake == 0 {
				t.Fatalf("%d suspended, %d awake", suspended, awake)
			}
		})
	}
}

// pair returns two disks with a volume on each, or with the second volume in the first.
func pair(t *testing.T, nested bool) (*volumetest.Board, []spec.Volume) {
	t.Helper()
	outer := volumetest.Changed(func(s *spec.Volume) { s.Filesystem.Type, s.Mount.Path = spec.FilesystemNone, "" })
	inner := volumetest.Changed(func(s *spec.Volume) { s.Name, s.Mapping, s.Device = "inner", "inner", "/dev/sda" })
	if nested {
		inner.Device = "/dev/mapper/data"
	}
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(),
		&volumetest.Disk{Path: "/dev/mmcblk2p3", Store: crashtest.NewImage(24 << 20)},
		&volumetest.Disk{Path: "/dev/sda", Store: crashtest.NewImage(16 << 20)})
	b.Directories = []string{"/data"}
	for _, s := range []spec.Volume{outer, inner} {
		// An encrypted volume that was never written to is full of noise.
		r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{Wipe: nested && s.Name == "inner"})
		volumetest.Must(t, r, err)
	}
	return b, []spec.Volume{outer, inner}
}

// order returns the order in which the volumes were suspended and resumed.
func order(t *testing.T, m *volumetest.Machine, specs []spec.Volume) (sleep.Result, []string) {
	t.Helper()
	var steps []string
	m.Board.Step = func(what string) error {
		if m.Slept+m.Frozen > 0 && (strings.HasPrefix(what, "suspend ") || strings.HasPrefix(what, "resume ")) && !strings.Contains(what, ":") {
			steps = append(steps, what)
		}
		return nil
	}
	r, err := sleep.Run(context.Background(), m.Board.System(), specs, m, sleep.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Board.Step = nil
	return r, steps
}

// A volume on another is suspended before it and resumed after it.
func TestVolumesSleepFromTheTopDown(t *testing.T) {
	t.Parallel()
	b, specs := pair(t, true)
	for range 2 {
		r, steps := order(t, &volumetest.Machine{Board: b}, specs)
		if want := []string{"suspend inner", "suspend data", "resume data", "resume inner"}; !slices.Equal(steps, want) {
			t.Fatalf("%v", steps)
		}
		if r.Volumes[0].Volume != "inner" || !slices.Equal(r.Volumes[0].On, []string{"data"}) || len(r.Volumes[1].On) > 0 {
			t.Fatalf("%+v", r.Volumes)
		}
		slices.Reverse(specs)
	}
}

// A volume whose header is on another volume is suspended before that one and resumed
// after it, because the header is read when the volume wakes. The same holds along a
// chain of volumes.
func TestAHeaderOnAnotherVolume(t *testing.T) {
	t.Parallel()
	var disks []*volumetest.Disk
	var specs []spec.Volume
	for i, name := range []string{"c", "b", "data"} {
		device := fmt.Sprint("/dev/sd", i)
		disks = append(disks, &volumetest.Disk{Path: device, Store: crashtest.NewImage(16 << 20)})
		specs = append(specs, volumetest.Changed(func(s *spec.Volume) {
			s.Name, s.Mapping, s.Device = name, name, device
			s.Mount.Path = ""
			if name != "data" {
				s.Header = "/var/lib/" + name + ".luks"
			}
		}))
	}
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), disks...)
	for _, s := range specs {
		r, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{})
		volumetest.Must(t, r, err)
	}
	b.FilesOn = map[string]blockdev.Number{}
	for name, on := range map[string]string{"b": "data", "c": "b"} {
		info, err := b.DM.Info(on)
		if err != nil {
			t.Fatal(err)
		}
		b.FilesOn["/var/lib/"+name+".luks"] = info.Number
	}
	for range 2 {
		r, steps := order(t, &volumetest.Machine{Board: b}, specs)
		if want := []string{"suspend c", "suspend b", "suspend data", "resume data", "resume b", "resume c"}; !slices.Equal(steps, want) {
			t.Fatalf("%v", steps)
		}
		if !slices.Equal(r.Volumes[1].On, []string{"data"}) {
			t.Fatalf("%+v", r.Volumes)
		}
		slices.Reverse(specs)
	}
}

// The loss of one volume does not affect the other, unless the other is on it.
func TestOneVolumeStaysSuspended(t *testing.T) {
	t.Parallel()
	for _, nested := range []bool{false, true} {
		b, specs := pair(t, nested)
		m := &volumetest.Machine{Board: b}
		m.During = func() error {
			b.Step = func(what string) error {
				if strings.HasPrefix(what, "create data:check") {
					return unix.EIO
				}
				return nil
			}
			return nil
		}
		r, err := sleep.Run(context.Background(), b.System(), specs, m, sleep.Options{})
		volumetest.Refused(t, err, fault.StaysSuspended)
		for _, v := range r.Volumes {
			info, err := b.DM.Info(v.Volume)
			if want := v.Volume == "data" || nested; err != nil || info.Suspended != want || v.Suspended != want {
				t.Errorf("nested %v: %+v, %+v, %v", nested, v, info, err)
			}
		}
	}
}

// A key that nothing would open again keeps the system from sleeping, and so does another
// command at work.
func TestSleepIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		spoil func(*testing.T, *volumetest.Board, *volumetest.Machine) []spec.Volume
		code  fault.Code
	}{
		"not in the configuration": {func(*testing.T, *volumetest.Board, *volumetest.Machine) []spec.Volume { return nil }, fault.SleepRefused},
		"the old recipe": {func(t *testing.T, b *volumetest.Board, _ *volumetest.Machine) []spec.Volume {
			t.Helper()
			if err := tkMapping(ctx, b); err != nil {
				t.Fatal(err)
			}
			return []spec.Volume{volumetest.Spec()}
		}, fault.SleepRefused},
		"a key that is lost already": {func(_ *testing.T, b *volumetest.Board, _ *volumetest.Machine) []spec.Volume {
			b.Chip.SetFault(func(string) error { return unix.EBADMSG })
			return []spec.Volume{volumetest.Spec()}
		}, fault.BlobRejected},
		"another command": {func(t *testing.T, b *volumetest.Board, _ *volumetest.Machine) []spec.Volume {
			t.Helper()
			if _, err := b.System().Locks.Acquire(ctx, "data"); err != nil {
				t.Fatal(err)
			}
			return []spec.Volume{volumetest.Spec()}
		}, fault.LockHeld},
		"another configuration": {func(*testing.T, *volumetest.Board, *volumetest.Machine) []spec.Volume {
			return []spec.Volume{volumetest.Changed(func(s *spec.Volume) { s.SectorSize = 512 })}
		}, fault.HeaderMismatch},
		"processes that do not stop": {func(_ *testing.T, _ *volumetest.Board, m *volumetest.Machine) []spec.Volume {
			m.FreezeErr = fault.New(fault.NotFrozen, "not all", nil)
			return []spec.Volume{volumetest.Spec()}
		}, fault.NotFrozen},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := volumetest.Mounted(t, volumetest.Spec())
			m := &volumetest.Machine{Board: b}
			specs := c.spoil(t, b, m)
			before := b.DM.State()
			_, err := sleep.Run(ctx, b.System(), specs, m, sleep.Options{})
			volumetest.Refused(t, err, c.code)
			if m.Slept+m.Frozen+m.Thawed > 0 || b.DM.State() != before {
				t.Fatalf("%+v\n%s", m, b.DM.State())
			}
		})
	}
}

// tkMapping makes a volume as the caam-keygen and dmsetup recipe does.
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

// A kernel refuses to sleep, and may have lost the keys on the way.
func TestAKernelThatRefusesToSleep(t *testing.T) {
	t.Parallel()
	b := volumetest.Mounted(t, volumetest.Spec())
	m := &volumetest.Machine{Board: b, During: func() error { return fmt.Errorf("write state: %w", unix.EBUSY) }}
	r, err := sleep.Run(context.Background(), b.System(), []spec.Volume{volumetest.Spec()}, m, sleep.Options{})
	if !errors.Is(err, unix.EBUSY) || r.Slept || m.Thawed != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := volumetest.Get(t, b, len(volumetest.UserText)); got != volumetest.UserText {
		t.Fatalf("%q", got)
	}
}

// A dry run reports the order and changes nothing. Locked volumes and those without a key
// of the chip need nothing.
func TestSleepDryRun(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, specs := pair(t, true)
	before, disk := b.DM.State(), b.Disks[0].Store.(*crashtest.Image).Bytes()
	m := &volumetest.Machine{Board: b}
	r, err := sleep.Run(ctx, b.System(), specs, m, sleep.Options{DryRun: true})
	if err != nil || m.Frozen+m.Slept > 0 || b.DM.State() != before || !bytes.Equal(disk, b.Disks[0].Store.(*crashtest.Image).Bytes()) {
		t.Fatalf("%+v %v", m, err)
	}
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.What)
	}
	want := []string{
		"freeze every other process, write back the filesystems", "suspend inner", "suspend data", "suspend to RAM",
		"open the key of data again, prove it, resume data", "open the key of inner again, prove it, resume inner", "let the processes continue",
	}
	if !slices.Equal(steps, want) {
		t.Fatalf("%q", steps)
	}
	for name, open := range map[string]func() (*volumetest.Board, spec.Volume){
		"locked": func() (*volumetest.Board, spec.Volume) {
			b, _ := volumetest.Ready(t, volumetest.Spec())
			return b, volumetest.Spec()
		},
		"dev": func() (*volumetest.Board, spec.Volume) {
			s := volumetest.Changed(volumetest.DevSource)
			return volumetest.Mounted(t, s), s
		},
	} {
		b, s := open()
		m := &volumetest.Machine{Board: b}
		r, err := sleep.Run(ctx, b.System(), []spec.Volume{s}, m, sleep.Options{})
		if err != nil || !r.Slept || m.Frozen > 0 {
			t.Errorf("%s: %+v %+v %v", name, r, m, err)
		}
	}
}
