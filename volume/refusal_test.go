// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/bench"
	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// state is a board before a command, with the command.
type state struct {
	board *volumetest.Board
	disk  *crashtest.Image
	run   func(*volume.Manager) error
	// dry is its dry run; nil if it has none.
	dry func(*volume.Manager) error
	// shares reports that the command may succeed beside other users, since it only reads
	// the device.
	shares bool
}

// commands are all that write to a device or to a header's file, each on a board on which
// it would succeed.
func commands(s spec.Volume) map[string]func(*testing.T) state {
	ctx := context.Background()
	provision := func(o volume.ProvisionOptions) func(*volume.Manager) error {
		return func(m *volume.Manager) error {
			_, err := m.Provision(ctx, s, o)
			return err
		}
	}
	erase := func(dry bool) func(*volume.Manager) error {
		return func(m *volume.Manager) error {
			_, err := m.Erase(ctx, s, volume.EraseOptions{DryRun: dry})
			return err
		}
	}
	rotate := func(o volume.RotateOptions) func(*volume.Manager) error {
		return func(m *volume.Manager) error {
			_, err := m.Rotate(ctx, s, o)
			return err
		}
	}
	encrypt := func(o volume.RotateOptions) func(*volume.Manager) error {
		return func(m *volume.Manager) error {
			_, err := m.Encrypt(ctx, s, o)
			return err
		}
	}
	decrypt := func(o volume.RotateOptions) func(*volume.Manager) error {
		return func(m *volume.Manager) error {
			_, err := m.Decrypt(ctx, s, o)
			return err
		}
	}
	unlock := func(m *volume.Manager) error {
		_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
		return err
	}
	newDisk := func() *crashtest.Image { return crashtest.NewImage(16 * mib) }
	locked := func(t *testing.T) state {
		disk := newDisk()
		return state{board: provisioned(t, s, disk), disk: disk}
	}
	damaged := func(t *testing.T, st state) {
		if s.Detached() {
			damageFile(t, st.board, s.Header, 20<<10)
		} else {
			scribble(t, st.disk, 20<<10)
		}
	}
	return map[string]func(*testing.T) state{
		"provision": func(*testing.T) state {
			disk := newDisk()
			return state{board: newBoard(disk), disk: disk, run: provision(volume.ProvisionOptions{}), dry: provision(volume.ProvisionOptions{DryRun: true})}
		},
		"provision --wipe": func(t *testing.T) state {
			disk := newDisk()
			scribble(t, disk, 4711)
			return state{board: newBoard(disk), disk: disk, run: provision(volume.ProvisionOptions{Wipe: true})}
		},
		"provision, continued": func(t *testing.T) state {
			disk := newDisk()
			b := newBoard(disk)
			b.Mkfs = func(string, string) error { return errors.New("no") }
			if provision(volume.ProvisionOptions{})(b.Manager()) == nil {
				t.Fatal("not interrupted")
			}
			b.Mkfs = nil
			return state{board: b, disk: disk, run: provision(volume.ProvisionOptions{})}
		},
		"provision of what is ready": func(t *testing.T) state {
			st := locked(t)
			damaged(t, st)
			st.run, st.dry = provision(volume.ProvisionOptions{}), provision(volume.ProvisionOptions{DryRun: true})
			return st
		},
		"erase": func(t *testing.T) state {
			st := locked(t)
			st.run, st.dry = erase(false), erase(true)
			return st
		},
		"rotate": func(t *testing.T) state {
			st := locked(t)
			st.run, st.dry = rotate(volume.RotateOptions{}), rotate(volume.RotateOptions{DryRun: true})
			return st
		},
		"rotate, resumed": func(t *testing.T) state {
			st := locked(t)
			if err := rotate(volume.RotateOptions{InitOnly: true})(st.board.Manager()); err != nil {
				t.Fatal(err)
			}
			st.run, st.dry = rotate(volume.RotateOptions{ResumeOnly: true}), rotate(volume.RotateOptions{ResumeOnly: true, DryRun: true})
			return st
		},
		"resize": func(t *testing.T) state {
			small := crashtest.NewImage(16*mib - resizeBy)
			disk := onLarger(t, small)
			b := provisioned(t, s, small)
			b.Disks[0].Store = disk
			if _, err := disk.WriteAt(small.Bytes(), 0); err != nil {
				t.Fatal(err)
			}
			resize := func(dry bool) func(*volume.Manager) error {
				return func(m *volume.Manager) error {
					r, err := m.Resize(ctx, s, volume.ResizeOptions{DryRun: dry})
					if err == nil && r.To == r.From {
						err = errors.New("it has not grown")
					}
					return err
				}
			}
			return state{board: b, disk: disk, run: resize(false), dry: resize(true)}
		},
		"rename": func(t *testing.T) state {
			disk := newDisk()
			was := s
			was.Name, was.Mapping = "before", "before"
			rename := func(dry bool) func(*volume.Manager) error {
				return func(m *volume.Manager) error {
					_, err := m.Rename(ctx, s, was.Name, volume.RenameOptions{DryRun: dry})
					return err
				}
			}
			return state{board: provisioned(t, was, disk), disk: disk, run: rename(false), dry: rename(true)}
		},
		"unlock, with a damaged copy": func(t *testing.T) state {
			st := locked(t)
			damaged(t, st)
			st.run = unlock
			return st
		},
		"unlock, half-way through a rotation": func(t *testing.T) state {
			st := locked(t)
			rotateUntil(t, st.board, s, 1)
			st.run = unlock
			return st
		},
		"reseal": func(t *testing.T) state {
			id := newIdentity(t)
			disk := newDisk()
			b := withRecovery(t, s, disk, id)
			next := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			reseal := func(dry bool) func(*volume.Manager) error {
				return func(m *volume.Manager) error {
					_, err := m.Reseal(ctx, s, noted(next, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, DryRun: dry}))
					return err
				}
			}
			return state{board: next, disk: disk, run: reseal(false), dry: reseal(true)}
		},
		"header restore": func(t *testing.T) state {
			st := locked(t)
			r, err := st.board.Manager().BackupHeader(ctx, s, "/backup")
			must(t, r, err)
			damaged(t, st)
			st.run = func(m *volume.Manager) error {
				_, err := m.RestoreHeader(ctx, s, "/backup", volume.RestoreOptions{Confirm: func(string) error { return nil }})
				return err
			}
			return st
		},
		"header repair": func(t *testing.T) state {
			st := locked(t)
			damaged(t, st)
			repair := func(dry bool) func(*volume.Manager) error {
				return func(m *volume.Manager) error {
					_, err := m.RepairHeader(ctx, s, volume.RepairOptions{DryRun: dry})
					return err
				}
			}
			st.run, st.dry = repair(false), repair(true)
			return st
		},
		"adopt": func(t *testing.T) state {
			disk := newDisk()
			h := byHand{cipher: plainTK, sectorSize: 512, wrap: caam.CCM}
			b, _ := h.make(t, disk)
			return state{board: b, disk: disk, shares: true, run: func(m *volume.Manager) error {
				_, err := m.Adopt(ctx, adoptedSpec(h), volume.AdoptOptions{Blob: blobFile})
				return err
			}}
		},
		"encrypt": func(*testing.T) state {
			disk := plainDiskFor(s)
			return state{board: newBoard(disk), disk: disk, run: encrypt(volume.RotateOptions{}), dry: encrypt(volume.RotateOptions{DryRun: true})}
		},
		"encrypt, resumed": func(t *testing.T) state {
			disk := plainDiskFor(s)
			st := state{board: newBoard(disk), disk: disk, run: encrypt(volume.RotateOptions{ResumeOnly: true}), dry: encrypt(volume.RotateOptions{ResumeOnly: true, DryRun: true})}
			if err := encrypt(volume.RotateOptions{InitOnly: true})(st.board.Manager()); err != nil {
				t.Fatal(err)
			}
			return st
		},
		"decrypt": func(t *testing.T) state {
			disk := plainDiskFor(s)
			st := state{board: newBoard(disk), disk: disk, run: decrypt(volume.RotateOptions{}), dry: decrypt(volume.RotateOptions{DryRun: true})}
			if err := encrypt(volume.RotateOptions{})(st.board.Manager()); err != nil {
				t.Fatal(err)
			}
			return st
		},
		"bench": func(*testing.T) state {
			disk := newDisk()
			b := newBoard(disk)
			return state{board: b, disk: disk, run: func(*volume.Manager) error {
				_, err := bench.Run(ctx, b.System(), bench.Options{Device: s.Device, Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Microsecond, Keys: 1})
				return err
			}}
		},
	}
}

func damageFile(t *testing.T, b *volumetest.Board, path string, at int64) {
	t.Helper()
	f, err := b.System().Devices.Open(path, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff, 0xfe}, at); err != nil {
		t.Fatal(err)
	}
}

// holders make each possible user of a volume's device hold it, and return a function
// that lets it go. Only an exclusive open by a program cannot be seen.
func holders(s spec.Volume) map[string]func(*testing.T, *volumetest.Board) (release func()) {
	ctx := context.Background()
	named := func(users blockdev.Users) func(*testing.T, *volumetest.Board) func() {
		return func(_ *testing.T, b *volumetest.Board) func() {
			b.Disks[0].Users = users
			return func() { b.Disks[0].Users = blockdev.Users{} }
		}
	}
	return map[string]func(*testing.T, *volumetest.Board) func(){
		"another mapping": func(t *testing.T, b *volumetest.Board) func() {
			table := dmcrypt.Table{dmcrypt.Linear{Length: 8, Device: dmcrypt.Number{Major: 179, Minor: 8}}}
			if _, err := b.DM.Activate(ctx, "hold", "", table, false); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := b.DM.Remove(ctx, "hold"); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a loop device": named(blockdev.Users{Holders: []blockdev.Holder{{Device: "loop3", Name: "loop3"}}}),
		"a mount":       named(blockdev.Users{Mounts: []blockdev.Mounted{{Device: "mmcblk2p3", Target: "/mnt", Type: "ext4"}}}),
		"swap":          named(blockdev.Users{Swap: []string{"mmcblk2p3"}}),
		unseen: func(t *testing.T, b *volumetest.Board) func() {
			dev, err := b.System().Devices.Open(s.Device, blockdev.Flags{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = dev.Close() }
		},
	}
}

const unseen = "an exclusive open elsewhere"

// snapshot returns all that is stored.
func snapshot(t *testing.T, b *volumetest.Board, disk *crashtest.Image) map[string]string {
	t.Helper()
	var device strings.Builder
	copyTo(t, &device, disk)
	all := map[string]string{"the device": device.String()}
	for _, name := range b.Files.Names() {
		data, err := b.Files.Read(name, atomicfile.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(data)
	}
	return all
}

// copyTo copies a disk. Making its bytes a string would copy them once more.
func copyTo(t *testing.T, to *strings.Builder, disk *crashtest.Image) {
	t.Helper()
	to.Grow(int(disk.Size()))
	if _, err := io.Copy(to, io.NewSectionReader(disk, 0, disk.Size())); err != nil {
		t.Fatal(err)
	}
}

func differs(a, b map[string]string) (names []string) {
	for name := range a {
		if a[name] != b[name] {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, "new: "+name)
		}
	}
	return names
}

// Every user of the device is found before the first byte is written: a refusal
// changes nothing, and the same command succeeds once the device is free.
func TestARefusedCommandHasChangedNothing(t *testing.T) {
	t.Parallel()
	for placement, s := range bothPlacements() {
		for command, prepare := range commands(s) {
			if apart := []string{"adopt", "decrypt"}; !s.Detached() && slices.Contains(apart, command) {
				continue
			}
			for holder, hold := range sampled(t, placement+command, holders(s), 3) {
				t.Run(placement+"/"+command+"/"+holder, func(t *testing.T) {
					t.Parallel()
					st := prepare(t)
					release := hold(t, st.board)
					before := snapshot(t, st.board, st.disk)
					if st.dry != nil && holder != unseen {
						busy(t, "its dry run", st.dry(st.board.Manager()))
					}
					err := st.run(st.board.Manager())
					if err == nil && st.shares {
						return
					}
					busy(t, command, err)
					if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
						t.Fatalf("refused (%v), and changed: %q", err, names)
					}
					release()
					if err := st.run(st.board.Manager()); err != nil {
						t.Fatalf("with the device free again: %v (code %s)", err, fault.CodeOf(err))
					}
				})
			}
		}
	}
}

func busy(t *testing.T, what string, err error) {
	t.Helper()
	if code := fault.CodeOf(err); !slices.Contains([]fault.Code{fault.DeviceInUse, fault.Busy}, code) {
		t.Fatalf("%s: expected to be refused as busy, got %v (code %s)", what, err, code)
	}
}

// A volume that is open under another configuration's name is in use, whatever its UUID:
// every command that writes leaves it alone.
func TestAnotherConfigurationsMappingIsAHolder(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		for _, rotating := range []bool{false, true} {
			for _, name := range []string{"erase", "rotate", "provision of what is ready", "unlock, with a damaged copy"} {
				if rotating && name == "provision of what is ready" {
					continue
				}
				t.Run(placement+"/"+name, func(t *testing.T) {
					t.Parallel()
					st := commands(s)[name](t)
					other := s
					other.Mapping = "p2-data"
					if rotating {
						rotateUntil(t, st.board, other, 1)
					}
					r, err := st.board.Manager().Unlock(ctx, other, volume.UnlockOptions{Mount: true})
					must(t, r, err)
					before := snapshot(t, st.board, st.disk)
					if st.dry != nil {
						busy(t, "its dry run", st.dry(st.board.Manager()))
					}
					busy(t, name, st.run(st.board.Manager()))
					if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
						t.Fatalf("changed: %q", names)
					}
					if _, err := st.board.DM.Info("p2-data"); err != nil {
						t.Fatal("the mapping of the other configuration is gone")
					}
				})
			}
		}
	}
}

// Someone else's mapping is on the device beside a volume in use.
func TestAVolumeInUseWithAnotherHolderIsLeftInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		for _, name := range []string{"erase", "rotate"} {
			t.Run(placement+"/"+name, func(t *testing.T) {
				t.Parallel()
				st := commands(s)[name](t)
				r, err := st.board.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				release := holders(s)["another mapping"](t, st.board)
				before := snapshot(t, st.board, st.disk)
				busy(t, "its dry run", st.dry(st.board.Manager()))
				busy(t, name, st.run(st.board.Manager()))
				if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
					t.Fatalf("changed: %q", names)
				}
				if st := st.board.Manager().Status(ctx, s); st.State != volume.Mounted {
					t.Fatalf("the volume is %s", st.State)
				}
				release()
				if err := st.run(st.board.Manager()); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// Another process has locked the file of a detached header.
func TestALockedHeaderFileIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := bothPlacements()["detached"]
	for _, name := range []string{"erase", "rotate", "rotate, resumed", "reseal", "rename", "header repair", "encrypt, resumed", "decrypt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := commands(s)[name](t)
			file, err := st.board.System().Devices.Open(s.Header, blockdev.Flags{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, st.board, st.disk)
			busy(t, name, st.run(st.board.Manager()))
			if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
				t.Fatalf("changed: %q", names)
			}
			if err := errors.Join(file.Close(), st.run(st.board.Manager())); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The name of a detached header is a link. What would remove or replace only the link,
// and leave the header with the key where it is, is refused before anything is changed.
func TestALinkToAHeaderIsNeitherRemovedNorReplaced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := bothPlacements()["detached"]
	half := func(t *testing.T) (state, func(o volume.RotateOptions) error) {
		st := commands(s)["decrypt"](t)
		decryptPart(t, st.board, s)
		return st, func(o volume.RotateOptions) error { _, err := st.board.Manager().Decrypt(ctx, s, o); return err }
	}
	for name, make := range map[string]func(*testing.T) (st state, run func() error){
		"decrypt": func(t *testing.T) (state, func() error) {
			st := commands(s)["decrypt"](t)
			return st, func() error { return st.run(st.board.Manager()) }
		},
		"decrypt, dry": func(t *testing.T) (state, func() error) {
			st := commands(s)["decrypt"](t)
			return st, func() error { return st.dry(st.board.Manager()) }
		},
		"decrypt, resumed": func(t *testing.T) (state, func() error) {
			st, run := half(t)
			return st, func() error { return run(volume.RotateOptions{}) }
		},
		"rotate --resume-only": func(t *testing.T) (state, func() error) {
			st, _ := half(t)
			return st, func() error {
				_, err := st.board.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				return err
			}
		},
		"header restore": func(t *testing.T) (state, func() error) {
			st := commands(s)["rotate"](t)
			r, err := st.board.Manager().BackupHeader(ctx, s, backupFile)
			must(t, r, err)
			damageFile(t, st.board, s.Header, 5000)
			return st, func() error {
				_, err := st.board.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed})
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, run := make(t)
			st.board.Files.Link = s.Header
			before := snapshot(t, st.board, st.disk)
			err := run()
			if refused(t, err, fault.FileUnsafe); !strings.Contains(err.Error(), s.Header+": is a symbolic link") {
				t.Error(err)
			}
			if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 {
				t.Fatalf("changed: %q", names)
			}
			if st.board.Files.Link = ""; run() != nil {
				t.Fatal(run())
			}
		})
	}
}

// Erase needs a file beside a detached header. Without room for it the volume stays as it
// was.
func TestEraseWithoutRoomForItsRecordChangesNothing(t *testing.T) {
	t.Parallel()
	s := bothPlacements()["detached"]
	st := commands(s)["erase"](t)
	before := snapshot(t, st.board, st.disk)
	st.board.Files.Err = unix.ENOSPC
	refused(t, st.run(st.board.Manager()), fault.StorageFull)
	st.board.Files.Err = nil
	if !maps.Equal(before, snapshot(t, st.board, st.disk)) {
		t.Fatal("something was changed")
	}
	hasItsData(t, st.board, s)
}

// Provisioning with --wipe makes the key, and the file of a detached header, before
// it overwrites anything.
func TestAWipeThatCannotBeFollowedChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		st := commands(s)["provision --wipe"](t)
		before := bytes.Clone(st.disk.Bytes())
		if s.Detached() {
			st.board.Files.Err = unix.ENOSPC
		} else {
			sys := st.board.System()
			sys.Chip = func() (source.Chip, error) { return chipWithoutKeys{st.board.Chip}, nil }
			if _, err := volume.New(sys).Provision(ctx, s, volume.ProvisionOptions{Wipe: true}); err == nil {
				t.Fatal("provisioned without a key")
			}
		}
		if s.Detached() {
			refused(t, st.run(st.board.Manager()), fault.StorageFull)
		}
		if !bytes.Equal(before, st.disk.Bytes()) {
			t.Errorf("%s: the device was overwritten for nothing", placement)
		}
	}
}

type chipWithoutKeys struct{ source.Chip }

func (chipWithoutKeys) Create(context.Context, caam.Wrap, int) (*caam.BlackKey, caam.Blob, error) {
	return nil, nil, fault.New(fault.CAAMFailed, "create", nil)
}
