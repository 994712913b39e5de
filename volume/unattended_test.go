// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// unattended is a volume whose configuration has on_plaintext: encrypt.
func unattended(s spec.Volume) spec.Volume {
	s.EncryptPlain = true
	return s
}

const recordOfData = "/var/lib/imxcrypt/volumes/data.json"

// opened unlocks and mounts a volume, as a start of the system does.
func opened(t *testing.T, b *volumetest.Board, s spec.Volume) volume.Result {
	t.Helper()
	r, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	return r
}

// A start of the system makes a device in plain text the volume and mounts it. A run in
// the background finishes the encryption. With the setting left in, the next start finds
// the volume, and plain text in its place is refused from the first moment on.
func TestPlaintextIsEncryptedUnattended(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range allPlainCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			today := s
			s := unattended(s)
			disk := plainDiskFor(s)
			before, want := plainDiskFor(s), bytes.Clone(disk.Bytes()[:rotationData])
			b := newBoard(disk)
			_, err := b.Manager().Unlock(ctx, today, volume.UnlockOptions{Mount: true})
			if !fault.Is(err, fault.PlaintextFound) && !fault.Is(err, fault.NotProvisioned) {
				t.Fatalf("without the setting: %v", err)
			}
			state := snapshot(t, b, disk)
			dry, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true, DryRun: true})
			must(t, dry, err)
			if names := differs(state, snapshot(t, b, disk)); len(names) > 0 || len(dry.Steps) < 2 {
				t.Fatalf("a dry run changed %q and says %+v", names, dry.Steps)
			}

			r := opened(t, b, s)
			if !r.Rotating || r.Already || r.Mounted != "/data" || len(r.Warnings) > 0 {
				t.Fatalf("%+v", r)
			}
			same(t, "opened", content(t, b), want)
			refusedPlain(t, b, s, before)
			rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			must(t, rr.Result, err)
			nothingPrivate(t, b, 1)
			same(t, "encrypted in use", content(t, b), want)
			nowhereInPlain(t, b, s, disk, want)

			b = powerCycle(b)
			state = snapshot(t, b, disk)
			if r := opened(t, b, s); r.Rotating || len(r.Warnings) > 0 {
				t.Fatalf("%+v", r)
			}
			same(t, "after a power cycle", content(t, b), want)
			if names := differs(state, snapshot(t, b, disk)); len(names) > 0 {
				t.Fatalf("opening the volume with the setting left in changed %q", names)
			}
			refusedPlain(t, b, s, before)
		})
	}
}

// refusedPlain fails if a board takes a filesystem in plain text for the volume, or
// changes a byte of it.
func refusedPlain(t *testing.T, b *volumetest.Board, s spec.Volume, plain *crashtest.Image) {
	t.Helper()
	files := crashtest.NewImage(volumetest.FilesSize)
	other := boardOver(b.Chip, plain, files)
	data, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{})
	if err == nil {
		err = other.Files.Replace(recordOfData, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, other, plain)
	for _, dry := range []bool{true, false} {
		_, err := other.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true, DryRun: dry})
		refused(t, err, fault.PlaintextRefused)
	}
	if names := differs(before, snapshot(t, other, plain)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
	nothingPrivate(t, other, 0)
	if list, err := other.System().Mounts.List(); err != nil || len(list) > 0 {
		t.Fatalf("mounted: %v, %v", list, err)
	}
	if st := other.Manager().Status(context.Background(), s); st.LastFailure == nil || st.LastFailure.Code != fault.PlaintextRefused || !strings.Contains(st.LastFailure.Message, recordOfData) {
		t.Fatalf("status does not say why: %+v", st.LastFailure)
	}
}

// A reason against it leaves the device, and the plain text on it, as it is: nothing is
// mounted, and status says why.
func TestUnattendedRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	record := func(text string) func(*volumetest.Board, *crashtest.Image, *spec.Volume) {
		return func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
			if err := b.Files.Replace(recordOfData, []byte(text), 0o600); err != nil {
				panic(err)
			}
		}
	}
	for name, c := range map[string]struct {
		prepare func(*volumetest.Board, *crashtest.Image, *spec.Volume)
		code    fault.Code
		// fleeting says which paths are on storage that does not survive a power cut.
		fleeting map[string]string
	}{
		"not asked for": {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) { s.EncryptPlain = false }, fault.PlaintextFound, nil},
		"mounted": {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) {
			b.Disks[0].Users = blockdev.Users{Mounts: []blockdev.Mounted{{Device: "mmcblk2p3", Target: "/old", Type: "ext4"}}}
		}, fault.DeviceInUse, nil},
		"empty":       {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { write(disk, make([]byte, mib), 0) }, fault.HeaderMissing, nil},
		"somebody's":  {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { foreignLUKS2small(disk) }, fault.ForeignHeader, nil},
		"another one": {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) { s.Filesystem.Type = "xfs" }, fault.FilesystemWrong, nil},
		"cannot be checked": {func(b *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) {
			needsRecovery(disk)
			b.Fsck = func(string, string) (bool, error) { return false, errors.New("damaged beyond repair") }
		}, fault.FilesystemUnclean, nil},
		"not clean after its check": {func(_ *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) { needsRecovery(disk) }, fault.FilesystemUnclean, nil},
		"open chip":                 {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) { b.State = caam.Open }, fault.OpenStateRefused, nil},
		"not clean, and an open chip": {func(b *volumetest.Board, disk *crashtest.Image, _ *spec.Volume) {
			needsRecovery(disk)
			b.Fsck = func(string, string) (bool, error) { panic("checked before all else was looked at") }
			b.State = caam.Open
		}, fault.OpenStateRefused, nil},
		"no filesystem":  {func(_ *volumetest.Board, _ *crashtest.Image, s *spec.Volume) { s.Filesystem.Type = spec.FilesystemNone }, fault.ConfigInvalid, nil},
		"no mount point": {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) { b.Directories = nil }, fault.MountPointMissing, nil},
		"no cipher":      {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) { b.NoCiphers = []string{"tk(cbc(aes))"} }, fault.CipherMissing, nil},
		"made before":    {record(`{"uuid":"0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11"}`), fault.PlaintextRefused, nil},
		"made before, on another device": {record(`{"uuid":"0a4b3cf5-52f8-4fb4-8a0f-6d6f2a4a3c11","device":"/dev/sda","header":"device"}`),
			fault.PlaintextRefused, nil},
		"a record that makes no sense": {record("\x00\x00"), fault.PlaintextRefused, nil},
		"a state directory that is full": {func(b *volumetest.Board, _ *crashtest.Image, _ *spec.Volume) { b.Files.Err = unix.ENOSPC },
			fault.PlaintextRefused, nil},
		"a state directory in memory": {func(*volumetest.Board, *crashtest.Image, *spec.Volume) {}, fault.PlaintextRefused,
			map[string]string{"/var/lib/imxcrypt": "is in memory"}},
		"a state directory on an overlay": {func(*volumetest.Board, *crashtest.Image, *spec.Volume) {}, fault.PlaintextRefused,
			map[string]string{"/var/lib/imxcrypt": "is an overlay, of which the upper layer may be in memory"}},
	} {
		for kind, s := range map[string]spec.Volume{"in a file": unattended(encryptSpec()), "on the device": unattended(rotationSpec(rotationGap))} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				disk := plainDiskFor(s)
				b := newBoard(disk)
				c.prepare(b, disk, &s)
				sys := b.System()
				sys.Fleeting = func(path string) string { return c.fleeting[path] }
				m := volume.New(sys)
				before := snapshot(t, b, disk)
				code := c.code
				switch {
				case code == fault.ForeignHeader && !s.Detached():
					code = fault.HeaderDamaged // it is where our header would be
				case s.Detached() && code == fault.ForeignHeader:
					code = fault.HeaderMissing
				case s.Detached() && code == fault.PlaintextFound:
					code = fault.NotProvisioned
				}
				_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				refused(t, err, code)
				if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
					t.Fatalf("changed: %q", names)
				}
				nothingPrivate(t, b, 0)
				if list, err := sys.Mounts.List(); err != nil || len(list) > 0 {
					t.Fatalf("mounted: %v, %v", list, err)
				}
				if st := m.Status(ctx, s); st.LastFailure == nil || st.LastFailure.Code != code {
					t.Fatalf("status does not say why: %+v", st.LastFailure)
				}
			})
		}
	}
}

// Power was cut while the filesystem was mounted, just before the start that is to
// encrypt it. Its checker runs, as at every start, and it is encrypted.
func TestUnattendedAfterAPowerCut(t *testing.T) {
	t.Parallel()
	for kind, s := range map[string]spec.Volume{"in a file": unattended(encryptSpec()), "on the device": unattended(rotationSpec(rotationGap))} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			disk := plainDiskFor(s)
			sound := bytes.Clone(disk.Bytes()[:mib])
			needsRecovery(disk)
			b := newBoard(disk)
			b.Fsck = func(fstype, device string) (bool, error) {
				if fstype != "ext4" || device != s.Device {
					return false, fmt.Errorf("%s on %s is checked", fstype, device)
				}
				write(disk, sound, 0)
				return true, nil
			}
			r := opened(t, b, s)
			if !r.Rotating || len(r.Warnings) != 1 {
				t.Fatalf("%+v", r)
			}
			same(t, "encrypted", content(t, b)[:mib], sound)
		})
	}
}

// Wherever power is cut in a start that encrypts, and once more in the next one: until
// then the device is the plain filesystem, bit for bit, or the volume opens. In either
// case the next start mounts the volume with all its data, and a run in the background
// finishes the encryption. From then on plain text is refused.
func TestEveryPowerCutUnattended(t *testing.T) {
	t.Parallel()
	var cuts cutCount
	// Each state is encrypted to the end: trying all of them takes half an hour (make
	// soak).
	limits, every := crashtest.Options{Exhaustive: 2, Limit: 1, Random: -1, Seed: 3}, 20
	if soak {
		limits, every = crashLimits(), 5
	}
	for name, s := range sampled(t, "unattended", allPlainCases(), 4) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := toBeMoved(t, s, false)
			plain := r.disk.Overlay()
			run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
			opened(t, run.board, unattended(s))
			first, second := 0, 0
			for state := range run.rec.States(sparse(limits, 3)) {
				first++
				// Without the setting one of the two is there.
				look := record(r.chip, state.Image(run.disk), state.Image(run.files))
				look.board.Chip.PowerCycle()
				r.plainOrOpens(t, look, state.String())
				next := record(r.chip, state.Image(run.disk), state.Image(run.files))
				r.startsAgain(t, next, state.String(), plain)
				for cut := range next.rec.States(sparse(few(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}), 4)) {
					if first%every != 0 {
						break
					}
					second++
					r.startsAgain(t, record(r.chip, cut.Image(next.disk), cut.Image(next.files)), state.String()+"; then "+cut.String(), plain)
				}
			}
			cuts.count(t, first, second)
		})
	}
	cuts.logWhenDone(t)
}

// startsAgain is what happens after a power cut with on_plaintext: encrypt.
func (r inPlaceRun) startsAgain(t *testing.T, run *recording, what string, plain *crashtest.Image) {
	t.Helper()
	s := unattended(r.spec)
	run.board.Chip.PowerCycle()
	if _, err := run.board.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true}); err != nil {
		t.Fatalf("%s: does not start: %v", what, err)
	}
	same(t, what, content(t, run.board), r.plain)
	refusedPlain(t, run.board, s, plain.Overlay())
	if len(what)%4 != 0 {
		return
	}
	after := boardOver(run.board.Chip, run.disk.Live(), run.files.Live())
	after.Chip.PowerCycle()
	opened(t, after, s)
	rr, err := after.Manager().Rotate(context.Background(), s, volume.RotateOptions{ResumeOnly: true})
	if err != nil {
		t.Fatalf("%s: not ended: %v", what, err)
	}
	must(t, rr.Result, err)
	same(t, what+", then ended", content(t, after), r.plain)
}

// A header from the middle of an encryption, put back with a filesystem in plain text
// behind it, is not opened once the encryption has ended.
func TestAHeaderOfAnEndedEncryption(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for kind, s := range map[string]spec.Volume{"in a file": encryptSpec(), "on the device": rotationSpec(rotationGap)} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := toBeMoved(t, s, false)
			b := boardOver(r.chip, r.disk, r.files)
			rr, err := r.command(b, volume.RotateOptions{InitOnly: true})
			must(t, rr.Result, err)
			middle := crashtest.NewImage(r.disk.Size())
			write(middle, bytes.Clone(r.disk.Bytes()), 0)
			var file []byte
			if s.Detached() {
				if file, err = b.Files.Read(s.Header, atomicfile.ReadOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			rr, err = r.command(b, volume.RotateOptions{})
			must(t, rr.Result, err)

			files := r.files.Overlay()
			other := boardOver(r.chip, middle, files)
			if s.Detached() {
				if err := other.Files.Replace(s.Header, file, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, other, middle)
			for _, do := range []func() error{
				func() error { _, err := other.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true}); return err },
				func() error { _, err := other.Manager().Unlock(ctx, unattended(s), volume.UnlockOptions{}); return err },
				func() error { _, err := other.Manager().Encrypt(ctx, s, volume.RotateOptions{}); return err },
				func() error {
					_, err := other.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					return err
				},
				func() error { _, err := other.Manager().Verify(ctx, s); return err },
				func() error { return other.Manager().Status(ctx, s).Err },
			} {
				refused(t, do(), fault.HeaderRolledBack)
			}
			if names := differs(before, snapshot(t, other, middle)); len(names) > 0 {
				t.Fatalf("changed: %q", names)
			}
			// Another encryption of the same volume, with the old record still there, is
			// not the one that has ended.
			s.UUID = rr.UUID
			again := boardOver(caamtest.RandomChip(), plainDiskFor(s), crashtest.NewImage(volumetest.FilesSize))
			data, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{})
			if err == nil {
				err = again.Files.Replace(recordOfData, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			rr, err = again.Manager().Encrypt(ctx, s, volume.RotateOptions{Mount: true, Force: true})
			must(t, rr.Result, err)
		})
	}
}

// With the setting in the configuration the next start would undo a decryption.
func TestDecryptWithOnPlaintext(t *testing.T) {
	t.Parallel()
	r := toBeMoved(t, encryptSpec(), true)
	b := boardOver(r.chip, r.disk, r.files)
	before := snapshot(t, b, r.disk)
	for _, dry := range []bool{true, false} {
		_, err := b.Manager().Decrypt(context.Background(), unattended(r.spec), volume.RotateOptions{DryRun: dry})
		refused(t, err, fault.ConfigInvalid)
	}
	if names := differs(before, snapshot(t, b, r.disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
	// Nor is the record lost by which someone's plain text is refused.
	if err := b.Files.Remove(r.spec.Header); err != nil {
		t.Fatal(err)
	}
	write(r.disk, r.plain, 0)
	_, err := b.Manager().Decrypt(context.Background(), unattended(r.spec), volume.RotateOptions{})
	refused(t, err, fault.ConfigInvalid)
	_, err = b.Manager().Unlock(context.Background(), unattended(r.spec), volume.UnlockOptions{})
	refused(t, err, fault.PlaintextRefused)
}

// A volume that was made without a record gets one when it is opened with the setting, or
// a warning if the record cannot be written.
func TestUnattendedRemembersAVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r, plain := toBeMoved(t, s, false), plainDiskFor(s)
	b := boardOver(r.chip, r.disk, r.files)
	rr, err := r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	if err := b.Files.Remove(recordOfData); err != nil {
		t.Fatal(err)
	}
	b.Files.Err = unix.EROFS
	u, err := b.Manager().Unlock(ctx, unattended(s), volume.UnlockOptions{})
	must(t, u, err)
	if len(u.Warnings) != 1 {
		t.Errorf("no warning: %+v", u)
	}
	b.Files.Err = nil
	u, err = b.Manager().Unlock(ctx, unattended(s), volume.UnlockOptions{})
	must(t, u, err)
	if len(u.Warnings) > 0 {
		t.Errorf("%+v", u)
	}
	refusedPlain(t, b, unattended(s), plain)
}

// If the record of the end was not written, the next start writes it.
func TestTheEndOfAnEncryptionIsRecordedLater(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := unattended(rotationSpec(rotationGap))
	disk := plainDiskFor(s)
	b := newBoard(disk)
	opened(t, b, s)
	middle := crashtest.NewImage(disk.Size())
	write(middle, bytes.Clone(disk.Bytes()), 0)
	b.Files.Err = unix.ENOSPC
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	if !strings.Contains(strings.Join(rr.Warnings, " "), recordOfData) {
		t.Errorf("not said: %q", rr.Warnings)
	}
	b.Files.Err = nil
	b = powerCycle(b)
	opened(t, b, s)

	other := volumetest.New(b.Chip, b.Files, &volumetest.Disk{Path: b.Disks[0].Path, Store: middle})
	other.Directories = b.Directories
	before := snapshot(t, other, middle)
	_, err = other.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	refused(t, err, fault.HeaderRolledBack)
	if names := differs(before, snapshot(t, other, middle)); len(names) > 0 {
		t.Errorf("changed: %q", names)
	}
}

// Power is cut between the header that ends an encryption and the record that it has ended.
// The next start makes up for it: a header from the encryption's first moment, put back
// beside an attacker's plain text, is refused.
func TestTheEndOfAnyEncryptionIsRecordedLater(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, next := range map[string]func(m *volume.Manager, s spec.Volume) error{
		"unlock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			return err
		},
		"encrypt": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Encrypt(ctx, s, volume.RotateOptions{Mount: true})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := encryptSpec()
			r := toBeMoved(t, s, false)
			foreign := crashtest.NewImage(r.disk.Size())
			write(foreign, r.disk.Bytes(), 0)
			write(foreign, []byte("an attacker wrote this"), rotationText)
			b := boardOver(r.chip, r.disk, r.files)
			rr, err := r.command(b, volume.RotateOptions{InitOnly: true})
			must(t, rr.Result, err)
			old, err := b.Files.Read(s.Header, readAll())
			if err != nil {
				t.Fatal(err)
			}
			record, err := b.Files.Read(recordOfData, readAll())
			if err != nil {
				t.Fatal(err)
			}
			rr, err = r.command(b, volume.RotateOptions{})
			must(t, rr.Result, err)
			if err := b.Files.Replace(recordOfData, record, 0o600); err != nil { // as the cut leaves it
				t.Fatal(err)
			}
			if err := next(powerCycle(b).Manager(), s); err != nil {
				t.Fatal(err)
			}
			a := boardOver(r.chip, foreign, r.files)
			r.chip.PowerCycle()
			if err := a.Files.Replace(s.Header, old, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = a.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			refused(t, err, fault.HeaderRolledBack)
		})
	}
}
