// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const imagePath = "/var/lib/volume.img"

func imageSpecs() map[string]spec.Volume {
	all := bothPlacements()
	for name, s := range all {
		s.Device = imagePath
		all[name] = s
	}
	return all
}

// imageBoard returns a board with a file of zeros.
func imageBoard() (*volumetest.Board, *volumetest.Disk) {
	file := &volumetest.Disk{Path: imagePath, Image: true, Store: crashtest.NewImage(16 * mib)}
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), file)
	b.Directories = []string{"/data"}
	return b, file
}

// process runs one command as a process that exits after it.
func process(t *testing.T, b *volumetest.Board, run func(*volume.Manager) error) {
	t.Helper()
	if err := errors.Join(run(b.Manager()), b.Exit()); err != nil {
		t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
	}
}

func loops(t *testing.T, b *volumetest.Board, what string, want ...string) {
	t.Helper()
	if got := b.Loops(); !slices.Equal(got, want) {
		t.Fatalf("%s: loop devices %q, expected %q", what, got, want)
	}
}

// Every command works on a volume in a file. While the volume is locked, no loop device
// is left between two commands.
func TestAVolumeInAFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range imageSpecs() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			b, _ := imageBoard()
			unlock := func(m *volume.Manager) error {
				_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				return err
			}
			lock := func(m *volume.Manager) error {
				_, err := m.Lock(ctx, s, volume.LockOptions{})
				return err
			}
			status := func(want volume.State) {
				t.Helper()
				before := b.Loops()
				process(t, b, func(m *volume.Manager) error {
					st := m.Status(ctx, s)
					if st.State != want {
						return fmt.Errorf("the state is %s: %w", st.State, st.Err)
					}
					return st.Err
				})
				loops(t, b, "status", before...)
			}
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Provision(ctx, s, volume.ProvisionOptions{})
				return err
			})
			loops(t, b, "provisioned and mounted", "/dev/loop0")
			status(volume.Mounted)
			scrawl(t, b, []byte(userText), 4<<20)
			m := b.Manager()
			r, err := m.Lock(ctx, s, volume.LockOptions{})
			must(t, r, err)
			loops(t, b, "locked, and the process is there still")
			status(volume.Locked)
			for name, run := range map[string]func(*volume.Manager) error{
				"unlock --dry-run": func(m *volume.Manager) error {
					_, err := m.Unlock(ctx, s, volume.UnlockOptions{DryRun: true})
					return err
				},
				"verify": func(m *volume.Manager) error {
					_, err := m.Verify(ctx, s)
					return err
				},
				"rotate": func(m *volume.Manager) error {
					_, err := m.Rotate(ctx, s, volume.RotateOptions{})
					return err
				},
				"resize": func(m *volume.Manager) error {
					_, err := m.Resize(ctx, s, volume.ResizeOptions{})
					return err
				},
				"rename": func(m *volume.Manager) error {
					_, err := m.Rename(ctx, renamedSpec(s, "records"), "data", volume.RenameOptions{})
					if err == nil {
						_, err = m.Rename(ctx, s, "records", volume.RenameOptions{})
					}
					return err
				},
				"header repair": func(m *volume.Manager) error {
					_, err := m.RepairHeader(ctx, s, volume.RepairOptions{})
					return err
				},
				"lock": lock,
			} {
				process(t, b, run)
				loops(t, b, name)
			}
			process(t, b, unlock)
			loops(t, b, "unlocked", "/dev/loop0")
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Rotate(ctx, s, volume.RotateOptions{})
				return err
			})
			loops(t, b, "rotated in use", "/dev/loop0")
			if all := content(t, b); string(all[4<<20:4<<20+len(userText)]) != userText {
				t.Fatal("the data is not there")
			}
			process(t, b, unlock)
			loops(t, b, "unlocked already", "/dev/loop0")
			b = powerCycle(b)
			loops(t, b, "after a power cycle")
			process(t, b, unlock)
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Erase(ctx, s, volume.EraseOptions{})
				return err
			})
			loops(t, b, "erased")
			if st := b.Manager().Status(ctx, s); st.State != volume.Unprovisioned {
				t.Fatalf("erased: %s, %v", st.State, st.Err)
			}
		})
	}
}

// Killed anywhere, a command leaves a loop device only under a mapping, and the next
// command copes with that.
func TestKilledOnAVolumeInAFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range imageSpecs() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for _, what := range []string{"unlock", "lock"} {
				for at := 1; ; at++ {
					b, _ := imageBoard()
					process(t, b, func(m *volume.Manager) error {
						_, err := m.Provision(ctx, s, volume.ProvisionOptions{})
						if err == nil && what == "unlock" {
							_, err = m.Lock(ctx, s, volume.LockOptions{})
						}
						return err
					})
					dead := kill(b, at, func() {
						if what == "unlock" {
							_, _ = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						} else {
							_, _ = b.Manager().Lock(ctx, s, volume.LockOptions{})
						}
					})
					if err := b.Exit(); err != nil {
						t.Fatal(err)
					}
					if !dead {
						break
					}
					killed++
					infos, err := b.DM.List()
					if err != nil {
						t.Fatal(err)
					}
					if len(b.Loops()) > 0 && len(infos) == 0 {
						t.Fatalf("%s killed at %d: loop devices %q under\n%s", what, at, b.Loops(), b.DM.State())
					}
					process(t, b, func(m *volume.Manager) error {
						_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						if err == nil {
							_, err = m.Lock(ctx, s, volume.LockOptions{})
						}
						return err
					})
					loops(t, b, "locked")
				}
			}
			if killed == 0 {
				t.Fatal("never killed")
			}
			t.Logf("killed %d times", killed)
		})
	}
}

// If something is already over the image, or others can write it, the volume does not
// open and nothing is written.
func TestRefusedImages(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := imageSpecs()["on the device"]
	for name, c := range map[string]struct {
		prepare func(*volumetest.Board, *volumetest.Disk)
		code    fault.Code
	}{
		"anybody's": {func(b *volumetest.Board, _ *volumetest.Disk) {
			b.Files.Distrust = fault.Newf(fault.FileUnsafe, "%s: permissions too wide", imagePath)
		}, fault.FileUnsafe},
		"several loop devices": {func(b *volumetest.Board, d *volumetest.Disk) {
			b.LoopErr = fault.Newf(fault.DeviceInUse, "%s lies under several loop devices", imagePath)
		}, fault.DeviceInUse},
		"read-only": {func(_ *volumetest.Board, d *volumetest.Disk) { d.ReadOnly = true }, fault.DeviceReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, file := imageBoard()
			c.prepare(b, file)
			_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			refused(t, err, c.code)
			same(t, "refused", file.Store.(*crashtest.Image).Bytes(), make([]byte, 16*mib))
		})
	}
	b, _ := imageBoard()
	sys := b.System()
	sys.Images = nil
	_, err := volume.New(sys).Provision(ctx, s, volume.ProvisionOptions{})
	refused(t, err, fault.DeviceUnsuitable)
}

// When the file grows under a volume in use, the loop device keeps its old size until
// resize asks for the new one.
func TestAnImageGrows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range imageSpecs() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			b, file := imageBoard()
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Provision(ctx, s, volume.ProvisionOptions{})
				return err
			})
			file.Store = &grownStore{file.Store, 4 * mib, make([]byte, 4*mib)}
			process(t, b, func(m *volume.Manager) error {
				r, err := m.Resize(ctx, s, volume.ResizeOptions{})
				if err == nil && r.To != r.From+4*mib {
					err = fmt.Errorf("grown from %d to %d", r.From, r.To)
				}
				return err
			})
			loops(t, b, "grown in use", "/dev/loop0")
		})
	}
}

// grownStore is a store followed by zeros.
type grownStore struct {
	volumetest.Store
	by   int64
	tail []byte
}

func (g *grownStore) Size() int64 { return g.Store.Size() + g.by }

func (g *grownStore) ReadAt(p []byte, off int64) (int, error) {
	if at := off - g.Store.Size(); at >= 0 {
		return copy(p, g.tail[at:]), nil
	}
	first := min(int64(len(p)), g.Store.Size()-off)
	n, err := g.Store.ReadAt(p[:first], off)
	return n + copy(p[first:], g.tail), err
}

func (g *grownStore) WriteAt(p []byte, off int64) (int, error) {
	if at := off - g.Store.Size(); at >= 0 {
		return copy(g.tail[at:], p), nil
	}
	return g.Store.WriteAt(p, off)
}

// sizedBoard returns a board without the file, and a volume that is to have one.
func sizedBoard(s spec.Volume) (*volumetest.Board, spec.Volume) {
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles())
	b.Directories = []string{"/data", "/srv"}
	b.ImageRoom = 20 * mib
	s.Size, s.Timeout = 16*mib, 0
	return b, s
}

// Provisioning makes the file, if the configuration gives its size, once, and may be
// interrupted anywhere without harm.
func TestProvisioningMakesTheFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	all := imageSpecs()
	chosen := all["on the device"]
	chosen.Source, chosen.Wrap, chosen.Cipher, chosen.KeySize = spec.SourceAuto, "", "", 0
	all["source auto"] = chosen
	for placement, s := range all {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for at := 1; ; at++ {
				b, s := sizedBoard(s)
				provision := func(m *volume.Manager) error {
					_, err := m.Provision(ctx, s, volume.ProvisionOptions{})
					return err
				}
				dead := kill(b, at, func() { _ = provision(b.Manager()) })
				if err := b.Exit(); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					process(t, b, provision)
				}
				if len(b.Disks) != 1 || b.Disks[0].Path != imagePath || b.Disks[0].Store.Size() != s.Size {
					t.Fatalf("killed at %d: files %+v", at, b.Disks)
				}
				if !dead {
					break
				}
				killed++
			}
			if killed == 0 {
				t.Fatal("never killed")
			}
		})
	}
}

// A dry run says that it would make the file; a refused run makes none.
func TestNoFileIsMade(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, s := sizedBoard(imageSpecs()["on the device"])
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: true})
	if err != nil || len(r.Steps) < 4 || r.Steps[0].What != "make the file "+imagePath+" of 16777216 bytes" || len(b.Disks) > 0 {
		t.Fatalf("%+v, %v, files %+v", r, err, b.Disks)
	}
	for name, c := range map[string]struct {
		prepare func(*volumetest.Board, *spec.Volume)
		code    fault.Code
	}{
		"no size":                       {func(_ *volumetest.Board, s *spec.Volume) { s.Size = 0 }, fault.DeviceMissing},
		"no room":                       {func(b *volumetest.Board, _ *spec.Volume) { b.ImageRoom = 15 * mib }, fault.StorageFull},
		"too small":                     {func(_ *volumetest.Board, s *spec.Volume) { s.Size = 2 * mib }, fault.DeviceUnsuitable},
		"an open chip":                  {func(b *volumetest.Board, s *spec.Volume) { b.State, s.AllowOpenState = caam.Open, false }, fault.OpenStateRefused},
		"no mount point":                {func(b *volumetest.Board, _ *spec.Volume) { b.Directories = nil }, fault.MountPointMissing},
		"its filesystem is not mounted": {func(_ *volumetest.Board, s *spec.Volume) { s.Under = "/srv" }, fault.VolumeNotUp},
		"that of fstab is not":          {func(b *volumetest.Board, _ *spec.Volume) { b.Mounts.Fstab = "/var" }, fault.VolumeNotUp},
		"a record of another place": {func(b *volumetest.Board, s *spec.Volume) {
			other := *s
			other.Device = "/srv/before.img"
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Provision(ctx, other, volume.ProvisionOptions{NoMount: true})
				return err
			})
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Lock(ctx, other, volume.LockOptions{})
				return err
			})
			b.Disks = nil
		}, fault.DeviceMissing},
		"a record that cannot be read": {func(b *volumetest.Board, s *spec.Volume) {
			if err := b.Files.Replace(s.StateDir+"/volumes/data.json", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, fault.DeviceMissing},
		"there was one": {func(b *volumetest.Board, s *spec.Volume) {
			process(t, b, func(m *volume.Manager) error {
				_, err := m.Provision(ctx, *s, volume.ProvisionOptions{NoMount: true})
				return err
			})
			b.Disks = nil
		}, fault.DeviceMissing},
		"its header is there": {func(b *volumetest.Board, s *spec.Volume) {
			s.Header, s.Gap = "/etc/data.header", 0
			if err := b.Files.Create(s.Header, make([]byte, mib), 0o600); err != nil {
				t.Fatal(err)
			}
		}, fault.FileExists},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, s := sizedBoard(s)
			c.prepare(b, &s)
			for _, dry := range []bool{true, false} {
				_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: dry})
				refused(t, err, c.code)
				if len(b.Disks) > 0 {
					t.Fatalf("refused, and made %+v", b.Disks)
				}
			}
		})
	}
}

// Once fstab's filesystem is mounted, the file is made in it.
func TestAFileInAMountOfFstab(t *testing.T) {
	t.Parallel()
	b, s := sizedBoard(imageSpecs()["on the device"])
	b.Mounts.Fstab = "/var"
	b.Cover("/var")
	process(t, b, func(m *volume.Manager) error {
		_, err := m.Provision(context.Background(), s, volume.ProvisionOptions{})
		return err
	})
	if len(b.Disks) != 1 || b.Disks[0].Path != imagePath {
		t.Fatalf("files %+v", b.Disks)
	}
}

// A file of another size is not what the configuration means, unless it already is a
// volume, which may have grown.
func TestAFileOfAnotherSize(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range imageSpecs() {
		t.Run(placement, func(t *testing.T) {
			t.Parallel()
			b, file := imageBoard()
			other := s
			other.Size = 15 * mib
			_, err := b.Manager().Provision(ctx, other, volume.ProvisionOptions{Wipe: true})
			refused(t, err, fault.FileExists)
			same(t, "refused", file.Store.(*crashtest.Image).Bytes(), make([]byte, 16*mib))
			// An interrupted run with the right size.
			b.Mkfs = func(string, string) error { return errKilled }
			_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			b.Mkfs = nil
			if !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			if st := b.Manager().Status(ctx, s); st.State != volume.Unprovisioned || st.Generation != 1 {
				t.Fatalf("%s, %v", st.State, st.Err)
			}
			before := file.Store.(*crashtest.Image).Bytes()
			_, err = b.Manager().Provision(ctx, other, volume.ProvisionOptions{})
			refused(t, err, fault.FileExists)
			same(t, "refused", file.Store.(*crashtest.Image).Bytes(), before)
			for _, s := range []spec.Volume{s, other} {
				process(t, b, func(m *volume.Manager) error {
					_, err := m.Provision(ctx, s, volume.ProvisionOptions{})
					return err
				})
			}
		})
	}
}
