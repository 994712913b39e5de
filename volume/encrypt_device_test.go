// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// A volume that was encrypted with its header on the device is an ordinary one: none of
// the plaintext is left on the device, and the volume rotates, and grows into the free
// space.
func TestEncryptOnTheDevice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range deviceCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := plainDiskFor(s)
			all := bytes.Clone(disk.Bytes())
			want := all[:rotationData]
			b := newBoard(disk)
			before := snapshot(t, b, disk)
			dry, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{DryRun: true})
			must(t, dry.Result, err)
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 || len(dry.Steps) < 3 {
				t.Fatalf("a dry run changed %q and says %+v", names, dry.Steps)
			}
			if says := fmt.Sprint(dry.Steps); !strings.Contains(says, "at 48 MiB/s, as measured with emulated hardware, that takes about 1s") {
				t.Errorf("the dry run says %s", says)
			}
			r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
			must(t, r.Result, err)
			if r.Already || r.Generation != 1 || r.Rotation.Total != rotationData || r.Rotation.Done != rotationData {
				t.Fatalf("%+v %+v", r, r.Rotation)
			}
			nothingPrivate(t, b, 0)
			nowhereInPlain(t, b, s, disk, want)
			now := disk.Bytes()
			tail := header.PlanStart(disk.Size(), s.HeaderSize)
			if !blank.Zero(now[tail.Saved:]) || !blank.Zero(now[s.HeaderSize:s.HeaderSize+s.Gap]) {
				t.Fatal("something is left beside the data")
			}
			b = powerCycle(b)
			r, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
			if must(t, r.Result, err); !r.Already {
				t.Fatal("encrypted again")
			}
			if st := b.Manager().Status(ctx, s); st.Err != nil || st.Phase != header.PhaseReady || st.State != volume.Locked || st.Rotation != nil || len(st.Warnings) > 0 {
				t.Fatalf("%+v", st)
			}
			report, err := b.Manager().CheckHeader(s.Device)
			if err != nil || !report.Valid || len(report.Problems) > 0 {
				t.Fatalf("%v, %+v", err, report)
			}
			u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, u, err)
			same(t, "encrypted", content(t, b), want)
			v, err := b.Manager().Verify(ctx, s)
			must(t, v, err)
			r, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
			must(t, r.Result, err)
			same(t, "rotated", content(t, b), want)
			z, err := b.Manager().Resize(ctx, s, volume.ResizeOptions{})
			if must(t, z.Result, err); z.To <= z.From {
				t.Fatalf("%+v", z)
			}
			same(t, "grown", content(t, b)[:rotationData], want)
		})
	}
}

// started returns a device whose header is only partly written.
func started(t *testing.T, chip *caamtest.Chip) (state *crashtest.Image, files *crashtest.Image, plain []byte) {
	t.Helper()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	plain = bytes.Clone(disk.Bytes()[:rotationData])
	run := record(chip, disk, crashtest.NewImage(volumetest.FilesSize))
	if !kill(run.board, startedAt(t), func() {
		_, _ = run.board.Manager().Encrypt(context.Background(), s, volume.RotateOptions{InitOnly: true})
	}) {
		t.Fatal("not killed")
	}
	return run.disk.Live(), run.files.Live(), plain
}

// startedAt returns the step of an encryption at which the header is half on the device.
func startedAt(t *testing.T) int {
	t.Helper()
	s := rotationSpec(rotationGap)
	b := newBoard(plainDiskFor(s))
	steps, writes := 0, []int(nil)
	b.Step = func(what string) error {
		if steps++; what == "write "+s.Device {
			writes = append(writes, steps)
		}
		return nil
	}
	r, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	// The last writes are: the first copy, what follows both copies, the second copy, no
	// record.
	return writes[len(writes)-3]
}

// From the sector that says so until the header's last byte is written, the device is the
// volume: nothing takes it for empty, for plaintext or for damaged; commands that only
// read report it and change nothing; and unlock and encrypt write the header.
func TestAHeaderHalfWritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip := caamtest.RandomChip()
	disk, files, plain := started(t, chip)
	b := boardOver(chip, disk, files)
	before := snapshot(t, b, disk)
	m := b.Manager()
	for name, do := range map[string]func() error{
		"status":         func() error { return m.Status(ctx, s).Err },
		"verify":         func() error { _, err := m.Verify(ctx, s); return err },
		"rotate":         func() error { _, err := m.Rotate(ctx, s, volume.RotateOptions{}); return err },
		"provision":      func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{}); return err },
		"provision wipe": func() error { _, err := m.Provision(ctx, s, volume.ProvisionOptions{Wipe: true}); return err },
		"erase":          func() error { _, err := m.Erase(ctx, s, volume.EraseOptions{}); return err },
		"repair":         func() error { _, err := m.RepairHeader(ctx, s, volume.RepairOptions{}); return err },
		"backup":         func() error { _, err := m.BackupHeader(ctx, s, "/backup"); return err },
		"resize":         func() error { _, err := m.Resize(ctx, s, volume.ResizeOptions{}); return err },
		"unlock, dry":    func() error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{DryRun: true}); return err },
	} {
		if err := do(); !fault.Is(err, fault.EncryptionStarted) {
			t.Errorf("%s: %v (code %s)", name, err, fault.CodeOf(err))
		}
	}
	r, err := m.Encrypt(ctx, s, volume.RotateOptions{DryRun: true})
	must(t, r.Result, err)
	report, err := m.CheckHeader(s.Device)
	if err == nil || len(report.Problems) == 0 {
		t.Errorf("header check: %v, %+v", err, report)
	}
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Fatalf("changed: %q", names)
	}
	for name, do := range map[string]func(*volume.Manager) error{
		"unlock": func(m *volume.Manager) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			return err
		},
		"encrypt": func(m *volume.Manager) error {
			_, err := m.Encrypt(ctx, s, volume.RotateOptions{Mount: true, ResumeOnly: true})
			return err
		},
	} {
		b := boardOver(chip, disk.Overlay(), files.Overlay())
		if err := do(b.Manager()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		same(t, name, content(t, b), plain)
	}
}

// At every power cut until the header is on the device, and at every cut of what the next
// run then writes, exactly one of the plain filesystem and the volume is there, and
// status says which before anything is written.
func TestEveryPowerCutOfTheStartOnTheDevice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range deviceCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := toBeMoved(t, s, false)
			run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
			rr, err := r.command(run.board, volume.RotateOptions{InitOnly: true})
			must(t, rr.Result, err)
			first, second, half := 0, 0, 0
			for state := range run.rec.States(sparse(crashLimits(), 3)) {
				first++
				next := record(r.chip, state.Image(run.disk), state.Image(run.files))
				next.board.Chip.PowerCycle()
				if fault.Is(next.board.Manager().Status(ctx, s).Err, fault.EncryptionStarted) {
					half++
				}
				r.plainOrOpens(t, next, state.String())
				if _, err := next.board.Manager().Lock(ctx, s, volume.LockOptions{}); err != nil {
					t.Fatal(err)
				}
				rr, err := r.command(next.board, volume.RotateOptions{InitOnly: true})
				if err != nil {
					t.Fatalf("%s: not continued: %v", state, err)
				}
				must(t, rr.Result, err)
				for cut := range next.rec.States(sparse(few(crashtest.Options{Exhaustive: 3, Limit: 2, Random: 2, Seed: uint64(first)}), 3)) {
					if slow() && first%20 != 0 || first%4 != 0 {
						break
					}
					second++
					third := record(r.chip, cut.Image(next.disk), cut.Image(next.files))
					third.board.Chip.PowerCycle()
					r.plainOrOpens(t, third, state.String()+"; then "+cut.String())
				}
			}
			if half == 0 {
				t.Error("the header was never half written: nothing was shown")
			}
			t.Logf("%d states tried, %d of them with half a header, and %d after a second cut, 0 lost", first+second, half, second)
		})
	}
}

// If the configuration of another volume leads to a device with half a header, the device
// is left as it is.
func TestAHeaderHalfWrittenIsNotFinishedByAnother(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	chip := caamtest.RandomChip()
	disk, files, _ := started(t, chip)
	s := rotationSpec(rotationGap)
	s.Name, s.Mapping = "logs", "logs"
	b := boardOver(chip, disk, files)
	before := snapshot(t, b, disk)
	_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.HeaderMismatch)
	e, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.HeaderMismatch)
	if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
		t.Errorf("changed: %q, %+v", names, e)
	}
}

// Between the look at a device and the first write to it, its filesystem is mounted and
// grows into the room that the header takes: nothing is written.
func TestAFilesystemThatGrowsIsNotOverwritten(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	var want []byte
	b := newBoard(disk)
	grown := false
	b.Step = func(what string) error {
		if strings.HasSuffix(what, " data"+mapping.ClaimSuffix) && !grown {
			grown = true
			growExt4(disk)
			want = bytes.Clone(disk.Bytes())
		}
		return nil
	}
	_, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{})
	if refused(t, err, fault.DeviceUnsuitable); !grown {
		t.Fatal("the device was not claimed")
	}
	nothingPrivate(t, b, 0)
	if !bytes.Equal(disk.Bytes(), want) {
		t.Error("something was written")
	}
}

// What others have written to the device's start since is not overwritten.
func TestAHeaderHalfWrittenAndSomethingElse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	chip := caamtest.RandomChip()
	disk, files, plain := started(t, chip)
	for name, c := range map[string]struct {
		change func(*crashtest.Image)
		code   fault.Code
	}{
		"over a part of the header":            {func(im *crashtest.Image) { write(im, []byte("mounted meanwhile"), 1200) }, fault.HeaderDamaged},
		"the filesystem put back, and changed": {func(im *crashtest.Image) { write(im, plain[:s.HeaderSize], 0); write(im, []byte("x"), 5*4096+1) }, fault.PlaintextFound},
		"another filesystem": {func(im *crashtest.Image) {
			write(im, bytes.Repeat([]byte("z"), int(s.HeaderSize)), 0)
			plainExt4fresh(im)
		}, fault.PlaintextFound},
		"over the bytes of the filesystem at the end": {func(im *crashtest.Image) {
			write(im, []byte("overwritten"), header.PlanStart(im.Size(), s.HeaderSize).Saved)
		}, ""},
	} {
		im := disk.Overlay()
		c.change(im)
		b := boardOver(chip, im, files.Overlay())
		before := snapshot(t, b, im)
		_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		if c.code == "" && err == nil || c.code != "" && !fault.Is(err, c.code) {
			t.Errorf("%s: %v (code %s)", name, err, fault.CodeOf(err))
		}
		if names := differs(before, snapshot(t, b, im)); len(names) > 0 {
			t.Errorf("%s: changed: %q", name, names)
		}
	}
}

// No power cut leaves a filesystem that could be mounted over parts of the header: as
// soon as one sector after its superblock is the header's, the first copy is there. And
// once the header is there, it leaves no record that would affect later uses of the
// device.
func TestTheStartOnTheDeviceGoesOver(t *testing.T) {
	t.Parallel()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, false)
	plain := bytes.Clone(r.disk.Bytes())
	run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	rr, err := r.command(run.board, volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	const copySize = header.MetadataSize / 2
	now := run.disk.Live().Bytes()
	for state := range run.rec.States(few(crashLimits())) {
		disk := state.Image(run.disk).Bytes()
		if !bytes.Equal(disk[copySize:s.HeaderSize], plain[copySize:s.HeaderSize]) && !bytes.Equal(disk[:copySize], now[:copySize]) {
			t.Fatalf("%s: parts of the header behind what is not its first copy", state)
		}
	}

	// The volume is given up, and the device is a plain filesystem again.
	fresh := run.disk.Live()
	write(fresh, make([]byte, s.HeaderSize), 0)
	plainExt4(fresh)
	_, err = boardOver(r.chip, fresh, run.files.Live()).Manager().Unlock(context.Background(), s, volume.UnlockOptions{})
	refused(t, err, fault.PlaintextFound)
}

// The partition changes its size before all is encrypted. What it has grown by is not
// overwritten; if it has lost what is needed, the error says so with the right number.
func TestEncryptOnADeviceOfAnotherSize(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r := toBeMoved(t, s, false)
	rr, err := r.command(boardOver(r.chip, r.disk, r.files), volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	size := r.disk.Size()

	small := crashtest.NewImage(size - 2*header.BlockAlign)
	write(small, r.disk.Bytes()[:small.Size()], 0)
	rr, err = r.command(boardOver(r.chip, small, r.files.Overlay()), volume.RotateOptions{})
	refused(t, err, fault.PartitionShrunk)
	if end := fmt.Sprintf("ends at byte %d", size-header.BlockAlign); !strings.Contains(err.Error(), end) {
		t.Errorf("%v does not say %q", err, end)
	}

	large, mark := crashtest.NewImage(size+4*mib), bytes.Repeat([]byte("somebody's"), 100)
	write(large, r.disk.Bytes(), 0)
	write(large, mark, size+2*mib)
	b := boardOver(r.chip, large, r.files)
	rr, err = r.command(b, volume.RotateOptions{})
	must(t, rr.Result, err)
	if !bytes.Equal(large.Bytes()[size+2*mib:][:len(mark)], mark) {
		t.Error("what the device has grown by was overwritten")
	}
	if at := header.PlanStart(size, s.HeaderSize).Saved; !blank.Zero(large.Bytes()[at:size]) {
		t.Error("plain text is left")
	}
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "encrypted", content(t, b), r.plain)
}

// A device that is found by its filesystem would not be found again.
func TestEncryptByTheFilesystemsName(t *testing.T) {
	t.Parallel()
	for _, s := range []spec.Volume{encryptSpec(), rotationSpec(rotationGap)} {
		for _, device := range []string{"UUID=0f5c7d1e", "LABEL=data", "eMMC:LABEL=data", "/dev/disk/by-uuid/0f5c7d1e"} {
			disk := plainDiskFor(s)
			b := newBoard(disk)
			b.Disks[0].Path, s.Device = device, device
			before := snapshot(t, b, disk)
			for _, dry := range []bool{true, false} {
				_, err := b.Manager().Encrypt(context.Background(), s, volume.RotateOptions{DryRun: dry})
				refused(t, err, fault.ConfigInvalid)
			}
			if names := differs(before, snapshot(t, b, disk)); len(names) > 0 {
				t.Errorf("%s: changed: %q", device, names)
			}
		}
	}
}

// A key that no longer opens, before any data is under it, is replaced by another one,
// even after a power cut anywhere.
func TestTheFirstKeyAgainOnTheDevice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := plainDiskFor(s)
	plain := bytes.Clone(disk.Bytes()[:rotationData])
	b := newBoard(disk)
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	run := record(caamtest.RandomChip(), disk, crashtest.NewImage(volumetest.FilesSize)) // another chip
	rr := inPlaceRun{spec: s, chip: run.board.Chip, plain: plain}
	r, err = run.board.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	n := 0
	for state := range run.rec.States(few(crashLimits())) {
		n++
		next := record(rr.chip, state.Image(run.disk), state.Image(run.files))
		next.board.Chip.PowerCycle()
		r, err := next.board.Manager().Encrypt(ctx, s, volume.RotateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", state, err)
		}
		must(t, r.Result, err)
		u, err := next.board.Manager().Unlock(ctx, s, volume.UnlockOptions{})
		must(t, u, err)
		same(t, state.String(), content(t, next.board), plain)
	}
	t.Logf("%d states tried", n)
}

// An attacker who can write the device, but has no key, cannot make it say that other
// bytes are the filesystem's first.
func TestWhereThePlainTextLiesIsBoundToTheKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	disk := crashtest.NewImage(plainDiskFor(s).Size() + mib)
	write(disk, plainDiskFor(s).Bytes(), 0)
	b := newBoard(disk)
	r, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, r.Result, err)
	dev, err := b.System().Devices.Open(s.Device, blockdev.Flags{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	h, err := header.Read(&header.Storage{Data: dev, Header: dev})
	if err != nil {
		t.Fatal(err)
	}
	h.Moved += header.BlockAlign
	if err := h.Write(dev); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(disk.Bytes())
	for i, do := range []func() error{
		func() error { _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); return err },
		func() error { _, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true}); return err },
	} {
		if err := do(); err == nil {
			t.Fatal(fmt.Sprint("done by a header that the key did not make: ", i))
		}
	}
	if !bytes.Equal(before, disk.Bytes()) {
		t.Fatal("something was changed")
	}
}

// Power is cut while the header is put onto the device, and the configuration is changed to
// a header in a file. The superblock may be there still, but no longer all of the
// filesystem's first bytes: the device is not taken for plain text.
func TestAHeaderHalfWrittenIsNotTakenForPlainText(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	r := inPlaceRun{spec: s, chip: caamtest.RandomChip(), disk: plainDiskFor(s), files: crashtest.NewImage(volumetest.FilesSize)}
	run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
	rr, err := r.command(run.board, volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	begun, shown := 0, 0
	for state := range run.rec.States(crashtest.Options{Exhaustive: 4, Limit: 64, Random: 8, Seed: 3}) {
		b := boardOver(r.chip, state.Image(run.disk), state.Image(run.files))
		if !fault.Is(b.Manager().Status(ctx, s).Err, fault.EncryptionStarted) {
			continue
		}
		begun++
		r.chip.PowerCycle()
		for _, do := range []func(s spec.Volume) error{
			func(s spec.Volume) error {
				_, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
				return err
			},
			func(s spec.Volume) error {
				_, err := b.Manager().Unlock(ctx, unattended(s), volume.UnlockOptions{Mount: true})
				return err
			},
		} {
			if err := do(encryptSpec()); err == nil {
				t.Fatalf("%s: taken for plain text", state.String())
			} else if fault.Is(err, fault.ConfigInvalid) {
				shown++
			}
		}
		// As it was configured, the same command still finishes it.
		if _, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true}); err != nil {
			t.Fatalf("%s: %v", state.String(), err)
		}
	}
	if begun == 0 || shown == 0 {
		t.Fatalf("%d states begun, %d of them with a superblock", begun, shown)
	}
	t.Logf("%d states begun, refused by the record at the end %d times", begun, shown)
}

// Power is cut while the header is put onto the device, or the filesystem back to its
// start, and the partition is enlarged before the next run. That run finds the record at
// the old end, or refuses: it takes nothing for plain text, or for the volume, that is
// not all there. Once the partition has its old size again, the same command finishes.
func TestAStartHalfWrittenOnAPartitionThatHasGrown(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, decrypts := range map[string]bool{"encrypt": false, "decrypt": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := rotationSpec(rotationGap)
			r := toBeMoved(t, s, decrypts)
			run := record(r.chip, r.disk.Overlay(), r.files.Overlay())
			rr, err := r.command(run.board, volume.RotateOptions{InitOnly: !decrypts})
			must(t, rr.Result, err)
			ends := func(what string, disk, files *crashtest.Image) {
				t.Helper()
				r.chip.PowerCycle()
				b := boardOver(r.chip, disk, files)
				rr, err := r.command(b, volume.RotateOptions{})
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				must(t, rr.Result, err)
				if decrypts {
					same(t, what, disk.Bytes()[:rotationData], r.plain)
					return
				}
				u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, u, err)
				same(t, what, content(t, b)[:rotationData], r.plain)
			}
			codes := map[fault.Code]int{}
			for state := range run.rec.States(few(crashtest.Options{Exhaustive: 4, Limit: 32, Random: 8, Seed: 3})) {
				disk, files := state.Image(run.disk), state.Image(run.files)
				code := fault.CodeOf(boardOver(r.chip, disk, files).Manager().Status(ctx, s).Err)
				if code != fault.EncryptionStarted && code != fault.DecryptionEnding {
					continue
				}
				grown := onLarger(t, disk)
				before := bytes.Clone(grown.Bytes())
				r.chip.PowerCycle()
				rr, err := r.command(boardOver(r.chip, grown, files.Overlay()), volume.RotateOptions{InitOnly: !decrypts})
				if codes[fault.CodeOf(err)]++; err == nil {
					must(t, rr.Result, err)
					ends("grown: "+state.String(), grown, files.Overlay())
				} else if !bytes.Equal(grown.Bytes(), before) {
					t.Fatalf("%s: refused with %v, and the disk is changed", state.String(), err)
				}
				ends(state.String(), disk, files)
			}
			if codes[fault.HeaderDamaged] == 0 || codes[""] == 0 {
				t.Fatalf("nothing was shown: %v", codes)
			}
			t.Logf("%v", codes)
		})
	}
}
