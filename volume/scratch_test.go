// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// scratchSpecs are volumes with a throw-away key.
func scratchSpecs() map[string]spec.Volume {
	tmp, swap := newSpec(), newSpec()
	tmp.Key = spec.KeyEphemeral
	swap.Key, swap.Mount.Path, swap.Filesystem = spec.KeyEphemeral, "", spec.Filesystem{Type: spec.FilesystemSwap}
	auto := swap
	auto.Source, auto.Wrap, auto.Cipher, auto.KeySize = spec.SourceAuto, "", "", 0
	return map[string]spec.Volume{"ext4": tmp, "swap": swap, "swap, source auto": auto}
}

func scratchUnlock(b *volumetest.Board, s spec.Volume) (volume.Result, error) {
	return b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
}

func scratchState(t *testing.T, b *volumetest.Board, s spec.Volume, want volume.State) {
	t.Helper()
	if st := b.Manager().Status(context.Background(), s); st.State != want || want != volume.Unprovisioned && st.Problem() != nil || st.Up() != (want == volume.Mounted) {
		t.Fatalf("%s, not %s: %v", st.State, want, st.Problem())
	}
}

// Once provisioned, the volume is there at each boot, with another key and without its
// earlier content. Nothing of the key is stored.
func TestAThrowAwayKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	specs := scratchSpecs()
	specs["protected"] = protectedFrom(specs["ext4"])
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			scratchState(t, b, s, volume.Unprovisioned)
			for range 2 {
				r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
				must(t, r, err)
				scratchState(t, b, s, volume.Mounted)
			}
			marked := disk.Bytes()[:mib]
			if names := b.Files.Names(); len(names) != 0 {
				t.Fatalf("files: %q", names)
			}
			var stored [][]byte
			for range 3 {
				scrawl(t, b, []byte("the quick brown fox"), 5*mib)
				stored = append(stored, disk.Bytes()[6*mib:6*mib+4096])
				if b.Ring.Left() != 0 {
					t.Fatal("keys left in a keyring")
				}
				r, err := scratchUnlock(b, s)
				if must(t, r, err); !r.Already {
					t.Fatalf("formatted while in use: %+v", r)
				}
				if r, err := b.Manager().Verify(ctx, s); err != nil {
					t.Fatalf("%+v, %v", r, err)
				}
				b = powerCycle(b)
				scratchState(t, b, s, volume.Locked)
				r, err = scratchUnlock(b, s)
				must(t, r, err)
				scratchState(t, b, s, volume.Mounted)
				if all := content(t, b); bytes.Contains(all, []byte("quick brown")) {
					t.Fatal("the data of before the power cycle is there")
				}
			}
			if bytes.Equal(stored[0], stored[1]) || bytes.Equal(stored[1], stored[2]) {
				t.Fatal("the same text is stored as the same bytes: the key is an old one")
			}
			r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
			scratchState(t, b, s, volume.Locked)
			if infos, _ := b.DM.List(); len(infos) != 0 {
				t.Fatalf("mappings: %v", infos)
			}
			if !bytes.Equal(disk.Bytes()[:mib], marked) {
				t.Fatal("something was written in front of the data")
			}
			e, err := b.Manager().Erase(ctx, s, volume.EraseOptions{})
			must(t, e.Result, err)
			_, err = scratchUnlock(b, s)
			refused(t, err, fault.NotProvisioned)
		})
	}
}

// No command writes to a device that is not, beyond doubt, the volume's own.
func TestNoDeviceButTheMarkedOneIsFormatted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	plain := crashtest.NewImage(16 * mib)
	plainExt4(plain)
	image := plain.Bytes()
	marked := func(t *testing.T, s spec.Volume, size int64) []byte {
		t.Helper()
		disk := crashtest.NewImage(size)
		r, err := newBoard(disk).Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
		must(t, r, err)
		return disk.Bytes()
	}
	for kind, s := range scratchSpecs() {
		for name, c := range map[string]struct {
			prepare func(*testing.T, *volumetest.Board, *crashtest.Image)
			code    fault.Code // of unlock
			// accepted reports that provision may take it, and wipe that provision --wipe
			// may.
			accepted, wipe bool
		}{
			"empty": {func(*testing.T, *volumetest.Board, *crashtest.Image) {}, fault.NotProvisioned, true, true},
			"a filesystem": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				write(d, image, 0)
			}, fault.PlaintextFound, false, true},
			"data that nobody knows": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				scribble(t, d, 9*mib)
				scribble(t, d, 0)
			}, fault.NotProvisioned, false, true},
			"a volume of ours": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				stored := newSpec()
				r, err := newBoard(d).Manager().Provision(ctx, stored, volume.ProvisionOptions{NoMount: true})
				must(t, r, err)
			}, fault.ForeignHeader, false, false},
			"another volume's mark": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				other := s
				other.Name, other.Mapping = "other", "other"
				write(d, marked(t, other, 16*mib), 0)
			}, fault.HeaderMismatch, false, true},
			"the mark of another size": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				write(d, marked(t, s, 12*mib), 0)
			}, fault.HeaderMismatch, false, true},
			"a filesystem over the mark": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				write(d, marked(t, s, 16*mib), 0)
				write(d, image[1024:], 1024) // mkfs may leave the first sectors
			}, fault.NotEmpty, false, true},
			"something behind the mark": {func(t *testing.T, _ *volumetest.Board, d *crashtest.Image) {
				write(d, marked(t, s, 16*mib), 0)
				scribble(t, d, 64<<10)
			}, fault.NotEmpty, false, true},
			"a suspend-to-disk goes there": {func(t *testing.T, b *volumetest.Board, d *crashtest.Image) {
				write(d, marked(t, s, 16*mib), 0)
				b.Hibernates = []string{s.Device}
			}, fault.SleepRefused, false, false},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				disk := crashtest.NewImage(16 * mib)
				b := newBoard(disk)
				c.prepare(t, b, disk)
				before := disk.Bytes()
				unchanged := func(what string, err error) {
					t.Helper()
					if err == nil {
						t.Errorf("%s: not refused", what)
					}
					same(t, what, disk.Bytes(), before)
				}
				_, err := scratchUnlock(b, s)
				refused(t, err, c.code)
				unchanged("unlock", err)
				_, err = b.Manager().Verify(ctx, s)
				unchanged("verify", err)
				_ = b.Manager().Status(ctx, s)
				same(t, "status", disk.Bytes(), before)
				if c.code != fault.SleepRefused {
					_, err = b.Manager().Erase(ctx, s, volume.EraseOptions{})
					unchanged("erase", err)
				}
				for _, o := range []volume.ProvisionOptions{{DryRun: true}, {DryRun: true, Wipe: true}, {}} {
					_, err = b.Manager().Provision(ctx, s, o)
					if accepted := c.accepted || o.Wipe && c.wipe; !accepted {
						unchanged("provision", err)
					} else if o.DryRun {
						must(t, volume.Result{}, err)
						same(t, "dry run", disk.Bytes(), before)
					}
				}
				if c.wipe {
					r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Wipe: true})
					must(t, r, err)
					scratchState(t, b, s, volume.Mounted)
				}
			})
		}
	}
}

// Wherever a provisioning, an unlock or a lock is killed, the next command makes and
// mounts the volume.
func TestKilledWithAThrowAwayKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range scratchSpecs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, what := range []string{"provision", "unlock", "lock"} {
				for at := 1; ; at++ {
					disk := crashtest.NewImage(16 * mib)
					b := newBoard(disk)
					provision := func() {
						_, _ = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
					}
					lock := func() { _, _ = b.Manager().Lock(ctx, s, volume.LockOptions{}) }
					run := provision
					switch what {
					case "unlock":
						provision()
						lock()
						run = func() { _, _ = scratchUnlock(b, s) }
					case "lock":
						provision()
						run = lock
					}
					dead := kill(b, at, run)
					for range 2 {
						r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
						must(t, r, err)
						scratchState(t, b, s, volume.Mounted)
					}
					if !dead {
						break
					}
				}
			}
		})
	}
}

// What needs a header, or a key that is kept, is refused and changes nothing.
func TestWhatAThrowAwayKeyCannot(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range scratchSpecs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			before := disk.Bytes()
			old := s
			old.Name, old.Mapping = "new", "new"
			for name, run := range map[string]func(m *volume.Manager) error{
				"rotate":  func(m *volume.Manager) error { _, err := m.Rotate(ctx, s, volume.RotateOptions{}); return err },
				"encrypt": func(m *volume.Manager) error { _, err := m.Encrypt(ctx, s, volume.RotateOptions{}); return err },
				"decrypt": func(m *volume.Manager) error { _, err := m.Decrypt(ctx, s, volume.RotateOptions{}); return err },
				"resize":  func(m *volume.Manager) error { _, err := m.Resize(ctx, s, volume.ResizeOptions{}); return err },
				"rename": func(m *volume.Manager) error {
					_, err := m.Rename(ctx, old, s.Name, volume.RenameOptions{})
					return err
				},
				"adopt":  func(m *volume.Manager) error { _, err := m.Adopt(ctx, s, volume.AdoptOptions{}); return err },
				"reseal": func(m *volume.Manager) error { _, err := m.Reseal(ctx, s, volume.ResealOptions{}); return err },
				"backup": func(m *volume.Manager) error { _, err := m.BackupHeader(ctx, s, "/backup"); return err },
				"repair": func(m *volume.Manager) error { _, err := m.RepairHeader(ctx, s, volume.RepairOptions{}); return err },
				"restore": func(m *volume.Manager) error {
					_, err := m.RestoreHeader(ctx, s, "/backup", volume.RestoreOptions{Confirm: func(string) error { return nil }})
					return err
				},
				"provision with a recovery copy": func(m *volume.Manager) error {
					_, err := m.Provision(ctx, s, volume.ProvisionOptions{Recipients: []string{"age1"}})
					return err
				},
				"unlock --for-repair": func(m *volume.Manager) error {
					_, err := m.Unlock(ctx, s, volume.UnlockOptions{ForRepair: true})
					return err
				},
			} {
				if err := run(b.Manager()); err == nil {
					t.Errorf("%s: not refused", name)
				} else if code := fault.CodeOf(err); code != fault.Usage {
					t.Errorf("%s: %v (code %s)", name, err, code)
				}
				same(t, name, disk.Bytes(), before)
			}
			if names := b.Files.Names(); len(names) != 0 {
				t.Fatalf("files: %q", names)
			}
		})
	}
}

// A key of the chip that no one can open a second time prevents a sleep.
func TestNoSleepWithAThrowAwayKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := scratchSpecs()["swap"]
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	_, err = sleep.Run(ctx, b.System(), []spec.Volume{s}, nil, sleep.Options{DryRun: true})
	refused(t, err, fault.SleepRefused)
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	if _, err := sleep.Run(ctx, b.System(), []spec.Volume{s}, nil, sleep.Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Manager().Revive(ctx, s, volume.ReviveOptions{}); err != nil {
		t.Fatal(err)
	}
}

// What was not made is neither mounted nor swapped on.
func TestAFailedFormatLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := scratchSpecs()["ext4"]
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
	must(t, r, err)
	b.Mkfs = func(string, string) error { return errors.New("no") }
	if _, err := scratchUnlock(b, s); err == nil {
		t.Fatal("unlocked")
	}
	if infos, _ := b.DM.List(); len(infos) != 0 {
		t.Fatalf("mappings: %v", infos)
	}
	b.Mkfs = nil
	r, err = scratchUnlock(b, s)
	must(t, r, err)
}
