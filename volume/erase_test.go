// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

func devSpec() spec.Volume {
	s := newSpec()
	s.Source, s.Wrap, s.KeySize, s.Cipher, s.AllowInsecure = spec.SourceDev, "", 64, "aes-xts-plain64", true
	return s
}

func erase(t *testing.T, b *volumetest.Board, s spec.Volume) volume.EraseResult {
	t.Helper()
	r, err := b.Manager().Erase(context.Background(), s, volume.EraseOptions{})
	if err != nil {
		t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
	}
	return r
}

func TestAnErasedVolumeIsGoneAndProvisionedAgainInOneStep(t *testing.T) {
	t.Parallel()
	specs := bothPlacements()
	specs["dev"] = devSpec()
	for name, s := range specs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			old := disk.Bytes()
			r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if _, err := b.Manager().Erase(ctx, s, volume.EraseOptions{DryRun: true}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(old, disk.Bytes()) {
				t.Fatal("a dry run wrote")
			}

			got := erase(t, b, s)
			if got.Already || len(got.Remains) < 3 || got.UUID == "" {
				t.Fatalf("%+v", got)
			}
			if infos, _ := b.DM.List(); len(infos) != 0 {
				t.Fatal("still mapped")
			}
			for _, f := range b.Files.Names() {
				if !strings.HasSuffix(f, ".erased") {
					t.Fatalf("%s is left", f)
				}
			}
			if s.Detached() != bytes.Equal(old, disk.Bytes()) {
				t.Fatal("the device was not treated as it should")
			}
			_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			refused(t, err, fault.NotProvisioned)
			if st := b.Manager().Status(ctx, s); st.State != volume.Unprovisioned || !strings.Contains(st.Err.Error(), "was erased") {
				t.Fatalf("%s: %v", st.State, st.Err)
			}
			if again := erase(t, b, s); !again.Already {
				t.Fatal("erased twice")
			}

			r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); r.UUID == got.UUID || r.Already {
				t.Fatalf("%+v", r)
			}
			put(t, b, "something else here")
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if text := get(t, b, 19); text != "something else here" {
				t.Fatalf("%q", text)
			}
		})
	}
}

func TestARecordIsNoPermissionForADeviceInOtherUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	t.Run("data where the header was", func(t *testing.T) {
		disk := crashtest.NewImage(16 * mib)
		b := provisioned(t, newSpec(), disk)
		erase(t, b, newSpec())
		if _, err := disk.WriteAt([]byte("somebody's plain dm-crypt"), 1024); err != nil {
			t.Fatal(err)
		}
		_, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
		refused(t, err, fault.NotEmpty)
	})
	t.Run("a detached header's device was changed", func(t *testing.T) {
		s := bothPlacements()["detached"]
		disk := crashtest.NewImage(16 * mib)
		b := provisioned(t, s, disk)
		erase(t, b, s)
		if _, err := disk.WriteAt([]byte("another disk"), 4711); err != nil {
			t.Fatal(err)
		}
		_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
		refused(t, err, fault.NotEmpty)
	})
}

func TestEraseRefusesWhatIsNotTheVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, newSpec(), disk)
	before := disk.Bytes()
	other := newSpec()
	other.Name, other.Mapping = "other", "other"
	_, err := b.Manager().Erase(ctx, other, volume.EraseOptions{})
	refused(t, err, fault.HeaderMismatch)
	pinned := newSpec()
	pinned.UUID = "11111111-2222-4333-8444-555555555555"
	_, err = b.Manager().Erase(ctx, pinned, volume.EraseOptions{})
	refused(t, err, fault.HeaderMismatch)
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("a refused erase wrote")
	}
	empty := newBoard(crashtest.NewImage(16 * mib))
	_, err = empty.Manager().Erase(ctx, newSpec(), volume.EraseOptions{})
	refused(t, err, fault.NotProvisioned)
}

func TestADamagedHeaderIsErasedByWhatItShows(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, newSpec(), disk)
	for _, at := range []int64{4200, 16*1024 + 4200} {
		if _, err := disk.WriteAt([]byte{0xff, 0xfe}, at); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	refused(t, err, fault.HeaderDamaged)
	erase(t, b, newSpec())
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
}

// Wherever the power is cut, either the volume is whole, or the next erase finishes.
func TestEraseSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			disk := crashtest.NewImage(4 * mib)
			fileStore := crashtest.NewImage(volumetest.FilesSize)
			b := volumetest.New(caamtest.RandomChip(), volumetest.NewFiles(fileStore), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
			b.Directories = []string{"/data"}
			small := s
			small.HeaderSize = 64 << 10
			r, err := b.Manager().Provision(ctx, small, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)

			rec, recorded := crashtest.Record(disk)
			files := rec.Disk("files", fileStore)
			run := volumetest.New(b.Chip, volumetest.NewFiles(files), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: recorded})
			erase(t, run, small)

			states, whole := 0, 0
			for state := range rec.States(few(crashtest.Options{Limit: 40, Random: 8})) {
				states++
				disk, files := state.Image(recorded), state.Image(files)
				b.Chip.PowerCycle()
				next := volumetest.New(b.Chip, volumetest.NewFiles(files), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
				next.Directories = []string{"/data"}
				_, err := next.Manager().Unlock(ctx, small, volume.UnlockOptions{})
				switch code := fault.CodeOf(err); code {
				case "":
					whole++
					if _, err := next.Manager().Lock(ctx, small, volume.LockOptions{}); err != nil {
						t.Fatal(err)
					}
				case fault.EraseStarted, fault.NotProvisioned:
				default:
					t.Fatalf("%s: unlock says %s: %v", state, code, err)
				}
				if _, err := next.Manager().Erase(ctx, small, volume.EraseOptions{}); err != nil {
					t.Fatalf("%s: the next erase: %v", state, err)
				}
				r, err := next.Manager().Provision(ctx, small, volume.ProvisionOptions{NoMount: true})
				if err != nil || r.Already {
					t.Fatalf("%s: provision afterwards: %+v, %v", state, r, err)
				}
			}
			t.Logf("%d states, in %d of them the volume was still whole", states, whole)
			if whole == 0 || whole == states {
				t.Fatal("the cuts do not reach both sides")
			}
		})
	}
}

// After an erase the power may be cut while the volume is made again.
func TestProvisioningAfterAnEraseSurvivesAPowerCutAnywhere(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s.HeaderSize = 64 << 10
			disk := crashtest.NewImage(4 * mib)
			fileStore := crashtest.NewImage(volumetest.FilesSize)
			b := volumetest.New(caamtest.RandomChip(), volumetest.NewFiles(fileStore), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			erase(t, b, s)

			rec, recorded := crashtest.Record(disk)
			files := rec.Disk("files", fileStore)
			run := volumetest.New(b.Chip, volumetest.NewFiles(files), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: recorded})
			r, err = run.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			states := 0
			for state := range rec.States(few(crashtest.Options{Limit: 16, Random: 4})) {
				states++
				next := volumetest.New(b.Chip, volumetest.NewFiles(state.Image(files)), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: state.Image(recorded)})
				for range 2 {
					if _, err := next.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true}); err != nil {
						t.Fatalf("%s: %v", state, err)
					}
				}
				if _, err := next.Manager().Verify(ctx, s); err != nil {
					t.Fatalf("%s: %v", state, err)
				}
			}
			t.Logf("%d states", states)
		})
	}
}

// Erase says that nothing is left in flash only if the storage has securely discarded
// everything.
func TestEraseClaimsASecureDiscardOnlyForTheWholeHeader(t *testing.T) {
	t.Parallel()
	const nothing, some, none = "nothing of the header in flash pages", "did not take all of the header", "the storage has no secure discard"
	for name, test := range map[string]struct {
		secure func(run int) bool
		want   string
	}{
		"all runs":       {func(int) bool { return true }, nothing},
		"the first only": {func(run int) bool { return run == 1 }, some},
		"the last only":  {func(run int) bool { return run == 2 }, some},
		"no run":         {func(int) bool { return false }, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := provisioned(t, newSpec(), crashtest.NewImage(16*mib))
			runs := 0
			b.Disks[0].Secure = func(int64, int64) error {
				if runs++; !test.secure(runs) {
					return unix.EIO
				}
				return nil
			}
			said := strings.Join(erase(t, b, newSpec()).Remains, "\n")
			if runs != 2 {
				t.Fatalf("%d runs were to be discarded", runs)
			}
			for _, text := range []string{nothing, some, none} {
				if strings.Contains(said, text) != (text == test.want) {
					t.Errorf("expected %q in:\n%s", test.want, said)
				}
			}
		})
	}
}

// If the header no longer shows the generation, every key file of the volume is removed,
// and none of another volume.
func TestEraseFindsTheKeyFilesOfEveryGeneration(t *testing.T) {
	t.Parallel()
	s := devSpec()
	disk := crashtest.NewImage(16 * mib)
	b := provisioned(t, s, disk)
	uuid := b.Manager().Status(context.Background(), s).UUID
	folder := s.StateDir + "/dev/"
	other := []string{folder + "11111111-2222-4333-8444-555555555555-1.key", folder + uuid + "-1.key.old", folder + uuid + "-notes.key"}
	for _, f := range append([]string{folder + uuid + "-65.key", folder + uuid + "-1000.key"}, other...) {
		if err := b.Files.Create(f, make([]byte, 64), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []int64{4200, 16*1024 + 4200} {
		if _, err := disk.WriteAt([]byte{0xff, 0xfe}, at); err != nil {
			t.Fatal(err)
		}
	}
	if r := erase(t, b, s); r.UUID != uuid {
		t.Fatalf("%q was erased, not %q", r.UUID, uuid)
	}
	left := b.Files.Names()
	slices.Sort(left)
	slices.Sort(other)
	if !slices.Equal(left, other) {
		t.Errorf("left are\n%q, expected\n%q", left, other)
	}
}

// A kept header of another volume, from a forced restore, outlives an erase: the other
// volume may have nothing else.
func TestEraseSparesTheKeptHeaderOfAnotherVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	v := newTwoVolumes(t, bothPlacements()["detached"])
	own, err := v.b.Files.Read(v.data.Header, readAll())
	if err != nil {
		t.Fatal(err)
	}
	other, err := v.b.Files.Read(v.logs.Header, readAll())
	if err != nil {
		t.Fatal(err)
	}
	// The other volume's header was moved here, and damaged.
	other[firstText+100] ^= 1
	other[secondText+200] ^= 1
	if err := errors.Join(v.b.Files.Create(backupFile, own, 0o600), v.b.Files.Replace(v.data.Header, other, 0o600), v.b.Files.Remove(v.logs.Header)); err != nil {
		t.Fatal(err)
	}
	r, err := v.b.Manager().RestoreHeader(ctx, v.data, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: true})
	must(t, r, err)
	e := erase(t, v.b, v.data)
	if !strings.Contains(strings.Join(e.Warnings, " "), r.Kept) {
		t.Errorf("not said: %+v", e)
	}
	kept, err := v.b.Files.Read(r.Kept, readAll())
	if err != nil || !bytes.Equal(kept, other) {
		t.Fatalf("the other volume's header is gone: %v", err)
	}
	if err := v.b.Files.Create(v.logs.Header, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err = v.b.Manager().RepairHeader(ctx, v.logs, volume.RepairOptions{})
	must(t, r, err)
	r, err = v.b.Manager().Unlock(ctx, v.logs, volume.UnlockOptions{})
	must(t, r, err)
}

// A kept header of another name that cannot be read is not silently skipped: it may be
// this volume's, from before a rename.
func TestEraseNamesAKeptHeaderThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newSpec()
	b := provisioned(t, s, crashtest.NewImage(16*mib))
	file := s.StateDir + "/headers/old-0011223344556677.header"
	if err := b.Files.Create(file, []byte{1}, 0o600); err != nil {
		t.Fatal(err)
	}
	b.Files.Unreadable = file
	e := erase(t, b, s)
	if !strings.Contains(strings.Join(e.Warnings, " "), file) {
		t.Errorf("not said: %+v", e)
	}
}
