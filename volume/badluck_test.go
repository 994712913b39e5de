// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// What cannot become a volume is refused with its own reason, and nothing is
// written.
func TestProvisioningRefuses(t *testing.T) {
	t.Parallel()
	// Each case has its own random numbers, since they run in parallel.
	anywhere := func(seed uint64) func(*crashtest.Image) {
		return func(im *crashtest.Image) {
			write(im, []byte{0x17}, rand.New(rand.NewPCG(seed, 2)).Int64N(im.Size()))
		}
	}
	for name, c := range map[string]struct {
		s       spec.Volume
		size    int64 // 16 MiB
		content func(*crashtest.Image)
		board   func(*testing.T, *volumetest.Board)
		o       volume.ProvisionOptions
		code    fault.Code
	}{
		"one byte somewhere":         {content: anywhere(1), code: fault.NotEmpty},
		"one byte, detached":         {s: changed(detached), content: anywhere(2), code: fault.NotEmpty},
		"the last byte":              {content: func(im *crashtest.Image) { write(im, []byte{1}, im.Size()-1) }, code: fault.NotEmpty},
		"noise":                      {content: noise, code: fault.NotEmpty},
		"zeros and 0xFF":             {content: func(im *crashtest.Image) { write(im, bytes.Repeat([]byte{0xff}, 4096), 8*mib) }, code: fault.NotEmpty},
		"plaintext ext4":             {content: plainExt4, code: fault.PlaintextFound},
		"foreign LUKS1":              {content: foreignLUKS1, code: fault.ForeignHeader},
		"foreign LUKS2":              {content: foreignLUKS2, code: fault.ForeignHeader},
		"a LUKS version to come":     {content: laterLUKS, code: fault.HeaderVersion},
		"a LUKS to come, wiped":      {content: laterLUKS, o: volume.ProvisionOptions{Wipe: true}, code: fault.HeaderVersion},
		"too small":                  {size: 3*mib - 4096, code: fault.DeviceUnsuitable},
		"too small, detached":        {s: changed(detached), size: mib / 2, code: fault.DeviceUnsuitable},
		"no multiple of the sector":  {s: changed(detached), size: 16*mib + 512, code: fault.DeviceUnsuitable},
		"detached, an image":         {s: changed(detached, func(s *spec.Volume) { s.Filesystem.Type = "squashfs" }), code: fault.ConfigInvalid},
		"detached, no filesystem":    {s: changed(detached, func(s *spec.Volume) { s.Filesystem.Type = spec.FilesystemNone }), code: fault.ConfigInvalid},
		"cipher of another source":   {s: changed(func(s *spec.Volume) { s.Cipher = "aes-xts-plain64" }), code: fault.CipherNotAllowed},
		"iv that uses the raw key":   {s: changed(func(s *spec.Volume) { s.Cipher = "capi:tk(cbc(aes))-essiv:sha256" }), code: fault.CipherNotAllowed},
		"dev source, not allowed":    {s: changed(devSource, func(s *spec.Volume) { s.AllowInsecure = false }), code: fault.InsecureRefused},
		"read-only":                  {board: func(_ *testing.T, b *volumetest.Board) { b.Disks[0].ReadOnly = true }, code: fault.DeviceReadOnly},
		"unreadable":                 {board: func(_ *testing.T, b *volumetest.Board) { b.Disks[0].Err = unix.EIO }, code: fault.IOFailed},
		"missing":                    {board: func(_ *testing.T, b *volumetest.Board) { b.Disks[0].Absent = true }, code: fault.DeviceMissing},
		"mounted":                    {board: used(blockdev.Users{Mounts: []blockdev.Mounted{{Device: "mmcblk2p3", Target: "/srv", Type: "ext4"}}}), code: fault.DeviceInUse},
		"swap":                       {board: used(blockdev.Users{Swap: []string{"mmcblk2p3"}}), code: fault.DeviceInUse},
		"held":                       {board: used(blockdev.Users{Holders: []blockdev.Holder{{Device: "md0", Name: "md0"}}}), code: fault.DeviceInUse},
		"mapped by someone else":     {board: func(t *testing.T, b *volumetest.Board) { mapForeign(t, b, "secure", "") }, code: fault.DeviceInUse},
		"mount point missing":        {board: func(_ *testing.T, b *volumetest.Board) { b.Directories = nil }, code: fault.MountPointMissing},
		"open chip":                  {board: func(_ *testing.T, b *volumetest.Board) { b.State = caam.Open }, code: fault.OpenStateRefused},
		"key size 20":                {s: changed(func(s *spec.Volume) { s.KeySize = 20 }), code: fault.CAAMBadArgument},
		"no room for the header":     {s: changed(detached), board: func(_ *testing.T, b *volumetest.Board) { b.Files.Err = unix.ENOSPC }, code: fault.StorageFull},
		"no room for the key":        {s: changed(devSource), board: func(_ *testing.T, b *volumetest.Board) { b.Files.Err = unix.ENOSPC }, code: fault.StorageFull},
		"chip not there":             {board: chipFails(unix.ENOENT), code: fault.CAAMMissing},
		"chip without a job ring":    {board: chipFails(unix.ENODEV), code: fault.CAAMNotReady},
		"chip that fails":            {board: chipFails(unix.EIO), code: fault.CAAMFailed},
		"somebody works on it":       {board: lockHeld, code: fault.LockHeld},
		"the name is mapped already": {board: func(t *testing.T, b *volumetest.Board) { mapForeign(t, b, "data", "") }, code: fault.DeviceInUse},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.s.Name == "" {
				c.s = newSpec()
			}
			if c.size == 0 {
				c.size = 16 * mib
			}
			im := crashtest.NewImage(c.size)
			if c.content != nil {
				c.content(im)
			}
			before := im.Bytes()
			b := newBoard(im)
			if c.board != nil {
				c.board(t, b)
			}
			state := b.DM.State()
			_, err := b.Manager().Provision(context.Background(), c.s, c.o)
			refused(t, err, c.code)
			if !bytes.Equal(before, im.Bytes()) {
				t.Error("something was written")
			}
			if len(b.Files.Names()) > 0 || b.DM.State() != state || b.Ring.Left() > 0 {
				t.Errorf("something was left: files %v, mappings\n%s", b.Files.Names(), b.DM.State())
			}
		})
	}
}

func used(u blockdev.Users) func(*testing.T, *volumetest.Board) {
	return func(_ *testing.T, b *volumetest.Board) { b.Disks[0].Users = u }
}

func chipFails(errno error) func(*testing.T, *volumetest.Board) {
	return func(_ *testing.T, b *volumetest.Board) { b.Chip.SetFault(func(string) error { return errno }) }
}

func lockHeld(t *testing.T, b *volumetest.Board) {
	if _, err := b.System().Locks.Acquire(context.Background(), "data"); err != nil {
		t.Fatal(err)
	}
}

func mapForeign(t *testing.T, b *volumetest.Board, name, uuid string) {
	t.Helper()
	if err := foreignMapping(b, name, uuid); err != nil {
		t.Fatal(err)
	}
}

// A volume that exists, but cannot or must not be opened now, is refused with its own
// reason; neither unlock nor provision nor provision --wipe changes a byte of it, and
// nothing is left in the kernel.
func TestUnlockingRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		s     spec.Volume
		spoil func(*testing.T, *volumetest.Board)
		code  fault.Code
		// text is part of the message.
		text string
	}{
		"mounted as it is":   {spoil: used(blockdev.Users{Mounts: []blockdev.Mounted{{Device: "mmcblk2p3", Target: "/srv", Type: "ext4"}}}), code: fault.DeviceInUse, text: "/srv"},
		"open by the recipe": {spoil: func(t *testing.T, b *volumetest.Board) { mapForeign(t, b, "secure", "") }, code: fault.DeviceInUse, text: "secure"},
		"name taken":         {spoil: func(t *testing.T, b *volumetest.Board) { mapForeign(t, b, "data", "") }, code: fault.MappingMismatch},
		"name taken by another volume": {spoil: func(t *testing.T, b *volumetest.Board) {
			mapForeign(t, b, "data", dmcrypt.VolumeUUID("9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", "data"))
		}, code: fault.MappingMismatch},
		"another table under its name": {spoil: func(t *testing.T, b *volumetest.Board) {
			mapForeign(t, b, "data", dmcrypt.VolumeUUID(b.Manager().Status(ctx, newSpec()).UUID, "data"))
		}, code: fault.MappingMismatch, text: "another table"},
		"both header copies damaged": {spoil: func(t *testing.T, b *volumetest.Board) {
			scribble(t, b.Disks[0].Store, 0x1200)
			scribble(t, b.Disks[0].Store, 0x5200)
		}, code: fault.HeaderDamaged},
		"unreadable":           {spoil: func(_ *testing.T, b *volumetest.Board) { b.Disks[0].Err = unix.EIO }, code: fault.IOFailed},
		"missing":              {spoil: func(_ *testing.T, b *volumetest.Board) { b.Disks[0].Absent = true }, code: fault.DeviceMissing},
		"chip not there":       {spoil: chipFails(unix.ENOENT), code: fault.CAAMMissing},
		"somebody works on it": {spoil: lockHeld, code: fault.LockHeld, text: "imxcrypt rotate"},
		"mount point missing":  {spoil: func(_ *testing.T, b *volumetest.Board) { b.Directories = nil }, code: fault.MountPointMissing},
		"mount point occupied": {spoil: func(t *testing.T, b *volumetest.Board) {
			other := changed(devSource, func(s *spec.Volume) {
				s.Name, s.Mapping, s.Device = "other", "other", "/dev/mmcblk2p4"
			})
			r, err := b.Manager().Provision(ctx, other, volume.ProvisionOptions{})
			must(t, r, err)
		}, code: fault.MountPointOccupied, text: "other"},
		"another chip": {spoil: func(_ *testing.T, b *volumetest.Board) { *b = *otherChip(b) }, code: fault.BlobRejected},
		"dev key lost": {s: changed(devSource), spoil: func(_ *testing.T, b *volumetest.Board) { b.Files = volumetest.NoFiles() }, code: fault.KeyFileDamaged},
		"header file lost, noise": {s: changed(detached), spoil: func(_ *testing.T, b *volumetest.Board) {
			b.Files = volumetest.NoFiles()
		}, code: fault.HeaderMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.s.Name == "" {
				c.s = newSpec()
			}
			b, im := ready(t, c.s)
			b = volumetest.New(b.Chip, b.Files, b.Disks[0], &volumetest.Disk{Path: "/dev/mmcblk2p4", Store: crashtest.NewImage(16 * mib)})
			b.Directories = []string{"/data"}
			c.spoil(t, b)
			before, state := im.Bytes(), b.DM.State()
			_, err := b.Manager().Unlock(ctx, c.s, volume.UnlockOptions{Mount: true})
			refused(t, err, c.code)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q is not in the message: %v", c.text, err)
			}
			if c.code != fault.MountPointMissing && c.code != fault.MountPointOccupied && b.DM.State() != state {
				t.Errorf("left in the kernel:\n%s", b.DM.State())
			}
			if c.s.Detached() {
				// The device alone is noise: only an explicit --wipe takes it.
				_, err := b.Manager().Provision(ctx, c.s, volume.ProvisionOptions{})
				refused(t, err, fault.NotEmpty)
			} else {
				for _, wipe := range []bool{false, true} {
					if _, err := b.Manager().Provision(ctx, c.s, volume.ProvisionOptions{Wipe: wipe}); err == nil {
						t.Errorf("provisioned, wipe %v", wipe)
					}
				}
			}
			if !bytes.Equal(before, im.Bytes()) {
				t.Error("something was written")
			}
		})
	}
}

// otherChip is the same board with another chip.
func otherChip(b *volumetest.Board) *volumetest.Board {
	n := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
	n.Directories = b.Directories
	return n
}

// --wipe is only for what is not ours: a volume with its header on the device is not
// overwritten by one with a detached header.
func TestWipeSparesVolumesOfOurs(t *testing.T) {
	t.Parallel()
	b, im := ready(t, newSpec())
	before := im.Bytes()
	_, err := b.Manager().Provision(context.Background(), changed(detached), volume.ProvisionOptions{Wipe: true})
	refused(t, err, fault.HeaderMismatch)
	if !bytes.Equal(before, im.Bytes()) {
		t.Fatal("something was written")
	}
}

func TestWithOneHeaderCopyDamagedTheOtherServesAndRepairsIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, at := range []int64{0x1200, 0x5200} {
		b, im := ready(t, newSpec())
		scribble(t, im, at)
		damaged := im.Bytes()
		// Looking changes nothing.
		if st := b.Manager().Status(ctx, newSpec()); st.State != volume.Locked {
			t.Fatalf("%+v", st)
		}
		r, err := b.Manager().Verify(ctx, newSpec())
		if must(t, r, err); len(r.Warnings) == 0 || !bytes.Equal(damaged, im.Bytes()) {
			t.Fatalf("no warning, or something was written: %+v", r)
		}
		// On a read-only device it works without the repair.
		b.Disks[0].ReadOnly = true
		r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
		must(t, r, err)
		if !bytes.Equal(damaged, im.Bytes()) {
			t.Fatal("written to a read-only device")
		}
		lr, err := b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
		must(t, lr, err)
		b.Disks[0].ReadOnly = false
		r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
		must(t, r, err)
		if r, err = b.Manager().Verify(ctx, newSpec()); err != nil || len(r.Warnings) > 0 {
			t.Fatalf("not repaired: %v %v", r.Warnings, err)
		}
	}
}

// A detached header is a file, and only provisioning writes files, not unlocking.
func TestADamagedDetachedHeaderIsRepairedByProvision(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := changed(detached)
	b, _ := ready(t, s)
	f, err := b.System().Devices.Open(s.Header, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("scribble"), 0x5200); err != nil {
		t.Fatal(err)
	}
	r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	if must(t, r, err); len(r.Warnings) != 1 {
		t.Fatalf("%+v", r)
	}
	r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	if must(t, r, err); !slices.ContainsFunc(r.Steps, func(st volume.Step) bool { return st.What == "damaged header copy repaired" }) {
		t.Fatalf("%+v", r)
	}
	if r, err = b.Manager().Verify(ctx, s); err != nil || len(r.Warnings) > 0 {
		t.Fatalf("%v %v", r.Warnings, err)
	}
}

func TestAReadOnlyDeviceIsMountedReadOnly(t *testing.T) {
	t.Parallel()
	b, _ := ready(t, newSpec())
	b.Disks[0].ReadOnly = true
	r, err := b.Manager().Unlock(context.Background(), newSpec(), volume.UnlockOptions{Mount: true})
	must(t, r, err)
	if entries, err := b.List(); err != nil || len(entries) != 1 || !slices.Contains(entries[0].Options, "ro") {
		t.Fatalf("%v %v", entries, err)
	}
}

func TestTheOpenState(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := changed(func(s *spec.Volume) { s.AllowOpenState = true })
	im := crashtest.NewImage(16 * mib)
	b := boardOver(caamtest.NewChip([32]byte{7}, false), im, crashtest.NewImage(volumetest.FilesSize))
	b.State = caam.Open
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	if must(t, r, err); len(r.Warnings) == 0 || r.SecurityState != "open" {
		t.Fatalf("%+v", r)
	}
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	refused(t, err, fault.OpenStateRefused)
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	if must(t, r, err); len(r.Warnings) == 0 {
		t.Fatal("not warned")
	}
	b = powerCycle(b)
	b.Chip.BurnFuse()
	b.State = caam.Closed
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.BlobOpenState)
}

func TestAnUnknownSecurityStateIsRecordedAndWarnedOfOnce(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(16 * mib))
	b.State = caam.Unknown
	r, err := b.Manager().Provision(context.Background(), newSpec(), volume.ProvisionOptions{})
	if must(t, r, err); len(r.Warnings) != 1 || r.SecurityState != "unknown" {
		t.Fatalf("%+v", r)
	}
}

func TestMkfsFailsAndTheNextRunFinishes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	for _, code := range []fault.Code{fault.ProgramMissing, fault.ProgramFailed} {
		b.Mkfs = func(string, string) error {
			return &mkfs.Error{Op: "make ext4", Code: code, Err: errors.New("exit status 1")}
		}
		_, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
		refused(t, err, code)
		if b.DM.State() != "" || b.Ring.Left() != 0 {
			t.Fatalf("left behind:\n%s", b.DM.State())
		}
		_, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
		refused(t, err, fault.ProvisioningStarted)
	}
	uuid := b.Manager().Status(ctx, newSpec()).UUID
	b.Mkfs = nil
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	if must(t, r, err); r.UUID != uuid {
		t.Fatal("a second key was made")
	}
}

func TestADeviceThatAppearsLate(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, _ := ready(t, newSpec())
	s := changed(func(s *spec.Volume) { s.Timeout = time.Minute })
	b.Disks[0].Absent = true
	done := make(chan error)
	go func() {
		_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
		done <- err
	}()
	b.Plug(b.Disks[0])
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestADeviceThatDoesNotAppear(t *testing.T) {
	t.Parallel()
	b, _ := ready(t, newSpec())
	b.Disks[0].Absent = true
	s := changed(func(s *spec.Volume) { s.Timeout = 10 * time.Millisecond })
	_, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{})
	refused(t, err, fault.DeviceMissing)
	if !strings.Contains(err.Error(), "after 10ms") {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	s.Timeout = time.Hour
	_, err = b.Manager().Unlock(stopped, s, volume.UnlockOptions{})
	refused(t, err, fault.Interrupted)
}

// A user of the volume may make another filesystem.
func TestAFilesystemReplacedByItsOwner(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, _ := ready(t, newSpec())
	r, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	must(t, r, err)
	if err := b.System().Filesystems.Make(ctx, "ext4", r.Mapping, mkfs.Options{Label: "new"}); err != nil {
		t.Fatal(err)
	}
	b = powerCycle(b)
	r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
	if must(t, r, err); len(r.Warnings) != 1 || r.Mounted == "" {
		t.Fatalf("%+v", r)
	}
	// The configuration says xfs.
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, changed(func(s *spec.Volume) { s.Filesystem.Type = "xfs" }), volume.UnlockOptions{Mount: true})
	refused(t, err, fault.FilesystemWrong)
}

// The configured filesystem is authoritative, too.
func TestAnotherFilesystemThanConfigured(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]spec.Volume{"device": newSpec(), "detached": changed(detached)} {
		b, _ := ready(t, s)
		s.Filesystem.Type = "xfs"
		_, err := b.Manager().Unlock(context.Background(), s, volume.UnlockOptions{Mount: true})
		if fault.CodeOf(err) != fault.FilesystemWrong || b.DM.State() != "" {
			t.Errorf("%s: %v\n%s", name, err, b.DM.State())
		}
	}
}

func TestAMissingFilesystemIsNoReasonToFormat(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, _ := ready(t, newSpec())
	r, err := b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	must(t, r, err)
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	write(f, make([]byte, mib), 0)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b = powerCycle(b)
	for range 2 {
		_, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true})
		refused(t, err, fault.FilesystemMissing)
		_, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
		refused(t, err, fault.FilesystemMissing)
	}
	if len(b.Made()) > 0 || b.DM.State() != "" {
		t.Fatalf("formatted: %v\n%s", b.Made(), b.DM.State())
	}
	// For fsck it is opened anyway, but not mounted.
	r, err = b.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{Mount: true, ForRepair: true})
	if must(t, r, err); r.Mapping == "" || r.Mounted != "" {
		t.Fatalf("%+v", r)
	}
}

func TestAVolumeWithoutAFilesystem(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := changed(func(s *spec.Volume) {
		s.Filesystem, s.Mount = spec.Filesystem{Type: spec.FilesystemNone}, spec.Mount{}
	})
	b, im := ready(t, s)
	r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)
	if got := get(t, b, len(userText)); got != userText || len(b.Made()) > 0 {
		t.Fatalf("%q, %v", got, b.Made())
	}
	// Only the check proves the key.
	b = powerCycle(b)
	scribble(t, im, 0x8000)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.KeyWrong)
}

// No filesystem is made in a volume of images: an updater writes one image after another
// through the mapping, and each is mounted without a warning.
func TestAVolumeOfImages(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for fstype, mark := range map[string]struct {
		off   int64
		magic string
	}{"squashfs": {0, "hsqs"}, "erofs": {1024, "\xe2\xe1\xf5\xe0"}} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			s := changed(func(s *spec.Volume) {
				s.Filesystem, s.Mount.Options = spec.Filesystem{Type: fstype}, []string{"ro"}
			})
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); len(b.Made()) > 0 || r.Mapping == "" || r.Mounted != "" || !strings.Contains(strings.Join(r.Warnings, "; "), "holds no "+fstype+" image: write one to /dev/mapper/data") {
				t.Fatalf("made %v, %+v", b.Made(), r)
			}
			// What is there is not what the configuration names: nothing is mounted.
			put(t, b, userText)
			b = powerCycle(b)
			_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			refused(t, err, fault.FilesystemMissing)
			for _, text := range []string{"first", "second"} {
				f, err := b.Mapping("data", true)
				if err != nil {
					t.Fatal(err)
				}
				image := make([]byte, 4096)
				copy(image[mark.off:], mark.magic)
				copy(image[2048:], text)
				if _, err := f.WriteAt(image, 0); errors.Join(err, f.Close()) != nil {
					t.Fatal(err)
				}
				b = powerCycle(b)
				r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				if must(t, r, err); r.Mounted != "/data" || len(r.Warnings) > 0 {
					t.Fatalf("%s: %+v", text, r)
				}
				r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
				if must(t, r, err); !r.Already || len(b.Made()) > 0 {
					t.Fatalf("%s: made %v, %+v", text, b.Made(), r)
				}
				r, err = b.Manager().Verify(ctx, s)
				must(t, r, err)
				r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, r, err)
				r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				must(t, r, err)
			}
		})
	}
}

func TestLockLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
	if must(t, r, err); !r.Already {
		t.Fatalf("%+v", r)
	}
	mapForeign(t, b, "data", "")
	_, err = b.Manager().Lock(ctx, newSpec(), volume.LockOptions{})
	refused(t, err, fault.MappingMismatch)
}
