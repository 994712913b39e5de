// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// twoVolumes are two volumes of one chip, data and logs, each on its own disk; the second
// contains a text that the first must never show.
type twoVolumes struct {
	b          *volumetest.Board
	data, logs spec.Volume
	one, other *crashtest.Image
}

const logsText = "what only the other volume has"

func newTwoVolumes(t *testing.T, placement spec.Volume) *twoVolumes {
	t.Helper()
	ctx := context.Background()
	v := &twoVolumes{data: placement, one: crashtest.NewImage(16 * mib), other: crashtest.NewImage(16 * mib)}
	v.b = twoDisks(v.one, v.other)
	v.logs = placement
	v.logs.Name, v.logs.Mapping, v.logs.Device, v.logs.Mount.Path = "logs", "logs", otherPath, "/logs"
	if placement.Detached() {
		v.logs.Header = "/etc/logs.header"
	}
	for _, s := range []spec.Volume{v.data, v.logs} {
		r, err := v.b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
		must(t, r, err)
	}
	f, err := v.b.Mapping("logs", true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(logsText), userData)
	if err = errors.Join(err, f.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	v.cycle()
	return v
}

func (v *twoVolumes) cycle() {
	directories := v.b.Directories
	v.b = powerCycle(v.b)
	v.b.Directories = directories
}

// headerOf reads a volume's header, on the device or detached.
func (v *twoVolumes) headerOf(t *testing.T, s spec.Volume) *luks2.Header {
	t.Helper()
	disk := v.one
	if s.Name == "logs" {
		disk = v.other
	}
	if !s.Detached() {
		return headerOf(t, disk.Bytes())
	}
	raw, err := v.b.Files.Read(s.Header, atomicfile.ReadOptions{MaxSize: mib})
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := luks2.ReadDetached(bytes.NewReader(raw), int64(len(raw)), disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// forge changes the header of data as an attacker with the storage can, and replaces its
// ciphertext with that of logs. change gets the header of logs to copy from.
func (v *twoVolumes) forge(t *testing.T, change func(h, other *luks2.Header)) {
	t.Helper()
	other := v.headerOf(t, v.logs)
	if !v.data.Detached() {
		at := segmentOf(t, other).Offset
		write(v.one, v.other.Bytes()[at:], at)
		rewrite(t, v.one, func(h *luks2.Header) { change(h, other) })
		return
	}
	write(v.one, v.other.Bytes(), 0)
	h := v.headerOf(t, v.data)
	change(h, other)
	image, err := h.Image()
	if err == nil {
		err = errors.Join(v.b.Files.Remove(v.data.Header), v.b.Files.Create(v.data.Header, image, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func segmentOf(t *testing.T, h *luks2.Header) luks2.Segment {
	t.Helper()
	s, ok := h.Metadata.Segments["0"]
	if !ok {
		t.Fatal("no segment")
	}
	return s
}

func take(h, other *luks2.Header, members ...string) {
	for _, name := range members {
		h.Metadata.Tokens["0"].Extra[name] = other.Metadata.Tokens["0"].Extra[name]
	}
}

// showsOther reports whether the mapping of data shows the content of logs.
func (v *twoVolumes) showsOther(t *testing.T) bool {
	t.Helper()
	f, err := v.b.Mapping("data", false)
	if err != nil {
		return false
	}
	defer f.Close()
	all := make([]byte, f.Size())
	if _, err := f.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(all, []byte(logsText))
}

// The header with the phase is not authenticated: a stored key that the check does not
// prove is not this volume's, and does not become its key.
func TestProvisioningThatIsResumedTakesNoOtherVolumesKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, placement := range bothPlacements() {
		for check, take := range map[string]func(h, other *luks2.Header){
			"its own check":          func(h, other *luks2.Header) { take(h, other, "blob") },
			"the other's check":      func(h, other *luks2.Header) { take(h, other, "blob"); h.Metadata.Digests = other.Metadata.Digests },
			"the other's filesystem": func(h, other *luks2.Header) { take(h, other, "blob", "filesystem") },
		} {
			t.Run(name+", "+check, func(t *testing.T) {
				t.Parallel()
				v := newTwoVolumes(t, placement)
				own := v.headerOf(t, v.data)
				v.forge(t, func(h, other *luks2.Header) {
					take(h, other)
					h.Metadata.Tokens["0"].Extra["phase"] = json.RawMessage(`"provisioning"`)
				})
				_, err := v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
				refused(t, err, fault.ProvisioningStarted)
				before := v.one.Bytes()
				r, err := v.b.Manager().Provision(ctx, v.data, volume.ProvisionOptions{DryRun: true})
				if v.data.Detached() {
					// Nothing shows that this is the volume's device.
					refused(t, err, fault.NotEmpty)
					if _, err := v.b.Manager().Provision(ctx, v.data, volume.ProvisionOptions{}); fault.CodeOf(err) != fault.NotEmpty || !bytes.Equal(before, v.one.Bytes()) {
						t.Fatalf("the disk was taken: %v", err)
					}
				} else if must(t, r, err); !slices.ContainsFunc(r.Steps, func(s volume.Step) bool { return strings.HasPrefix(s.What, "create another key") }) {
					t.Fatalf("not announced: %v", r.Steps)
				}
				r, err = v.b.Manager().Provision(ctx, v.data, volume.ProvisionOptions{Wipe: v.data.Detached()})
				must(t, r, err)
				if v.showsOther(t) {
					t.Fatal("data shows what logs has")
				}
				for _, of := range []*luks2.Header{own, v.headerOf(t, v.logs)} {
					if bytes.Equal(v.headerOf(t, v.data).Metadata.Tokens["0"].Extra["blob"], of.Metadata.Tokens["0"].Extra["blob"]) {
						t.Fatal("the key that was found is used")
					}
				}
				// The ciphertext of logs, put back once the volume is ready, is noise,
				// too.
				r, err = v.b.Manager().Lock(ctx, v.data, volume.LockOptions{})
				must(t, r, err)
				at := segmentOf(t, v.headerOf(t, v.data)).Offset
				write(v.one, v.other.Bytes()[at:], at)
				v.cycle()
				_, err = v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
				if err == nil && v.showsOther(t) || v.data.Detached() && fault.CodeOf(err) != fault.KeyWrong {
					t.Fatalf("opened: %v", err)
				}
				r, err = v.b.Manager().Unlock(ctx, v.logs, volume.UnlockOptions{})
				must(t, r, err)
			})
		}
	}
}

// A key that the check proves is kept; before that, another one is made. Either way the
// run ends with a volume.
func TestProvisioningThatIsResumedKeepsAProvedKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		for step, kept := range map[string]bool{"header written": false, "stored key proved": true, "ext4 made": true} {
			t.Run(name+", "+step, func(t *testing.T) {
				t.Parallel()
				v := &twoVolumes{one: crashtest.NewImage(16 * mib), other: crashtest.NewImage(16 * mib), data: s}
				v.b = twoDisks(v.one, v.other)
				stopAfter(t, v.b, s, step)
				before := v.headerOf(t, s)
				v.cycle()
				r, err := v.b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
				must(t, r, err)
				after := v.headerOf(t, s)
				if same := bytes.Equal(before.Metadata.Tokens["0"].Extra["blob"], after.Metadata.Tokens["0"].Extra["blob"]); same != kept || before.UUID != after.UUID {
					t.Fatalf("key kept: %v", same)
				}
				r, err = v.b.Manager().Verify(ctx, s)
				must(t, r, err)
			})
		}
	}
}

// Another key is made in the current state of the chip, so that state must be allowed.
func TestAnotherKeyIsMadeOnAClosedChipOnlyWhereThatIsRequired(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	im := crashtest.NewImage(16 * mib)
	b := newBoard(im)
	stopAfter(t, b, newSpec(), "header written")
	b.State = "open"
	before := im.Bytes()
	_, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.OpenStateRefused)
	s := changed(func(s *spec.Volume) { s.AllowOpenState = true })
	_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{RequireClosed: true})
	refused(t, err, fault.OpenStateRefused)
	if !bytes.Equal(before, im.Bytes()) {
		t.Fatal("something was written")
	}
}

// Only the first key is made by provisioning.
func TestAHeaderOfALaterKeyIsNotProvisionedAgain(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, im := ready(t, newSpec())
	r, err := b.Manager().Rotate(ctx, newSpec(), volume.RotateOptions{})
	must(t, r.Result, err)
	rewrite(t, im, func(h *luks2.Header) { h.Metadata.Tokens["0"].Extra["phase"] = json.RawMessage(`"provisioning"`) })
	before := im.Bytes()
	_, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.HeaderRolledBack)
	if !bytes.Equal(before, im.Bytes()) {
		t.Fatal("something was written")
	}
}

// A detached header opens with the key that it was made for, and with no other key of the
// chip, whatever is written to the file.
func TestADetachedHeaderOpensNoOtherVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	apart := bothPlacements()["detached"]
	for name, c := range map[string]struct {
		change func(h, other *luks2.Header)
	}{
		"blob and filesystem": {func(h, other *luks2.Header) { take(h, other, "blob", "filesystem") }},
		"blob, filesystem and check": {func(h, other *luks2.Header) {
			take(h, other, "blob", "filesystem")
			h.Metadata.Digests = other.Metadata.Digests
		}},
		"the other header with this label": {func(h, other *luks2.Header) {
			take(h, other, "blob", "filesystem")
			h.Metadata.Digests, h.UUID = other.Metadata.Digests, other.UUID
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newTwoVolumes(t, apart)
			v.forge(t, c.change)
			before := v.one.Bytes()
			m := v.b.Manager()
			for what, run := range map[string]func() error{
				"unlock":     func() error { _, err := m.Unlock(ctx, v.data, volume.UnlockOptions{Mount: true}); return err },
				"for repair": func() error { _, err := m.Unlock(ctx, v.data, volume.UnlockOptions{ForRepair: true}); return err },
				"verify":     func() error { _, err := m.Verify(ctx, v.data); return err },
				"rotate":     func() error { _, err := m.Rotate(ctx, v.data, volume.RotateOptions{}); return err },
				"provision":  func() error { _, err := m.Provision(ctx, v.data, volume.ProvisionOptions{}); return err },
			} {
				if err := run(); fault.CodeOf(err) != fault.KeyWrong || v.b.DM.State() != "" {
					t.Errorf("%s: %v\n%s", what, err, v.b.DM.State())
				}
			}
			if !bytes.Equal(before, v.one.Bytes()) {
				t.Fatal("something was written")
			}
			r, err := m.Unlock(ctx, v.logs, volume.UnlockOptions{})
			must(t, r, err)
		})
	}
}

// What a key makes of a block that an attacker could choose, and knows from other data,
// is not a check.
func TestADetachedChecksAreaMustBeEmpty(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	v := newTwoVolumes(t, bothPlacements()["detached"])
	raw, err := v.b.Files.Read(v.data.Header, atomicfile.ReadOptions{MaxSize: mib})
	if err != nil {
		t.Fatal(err)
	}
	raw[0x8000] = 1
	if err := errors.Join(v.b.Files.Remove(v.data.Header), v.b.Files.Create(v.data.Header, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = v.b.Manager().Verify(ctx, v.data)
	refused(t, err, fault.KeyWrong)
}

// A detached header from before checks existed opens, says what it lacks, and gets a
// check from provision; then it opens nothing else.
func TestADetachedHeaderWithoutACheckGetsOne(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	v := newTwoVolumes(t, bothPlacements()["detached"])
	disk := v.one.Bytes()
	v.forge(t, func(h, _ *luks2.Header) { unbind(h) })
	write(v.one, disk, 0)
	r, err := v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
	if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), "imxcrypt provision data") {
		t.Fatalf("not said: %q", r.Warnings)
	}
	r, err = v.b.Manager().Lock(ctx, v.data, volume.LockOptions{})
	must(t, r, err)
	for range 2 {
		r, err = v.b.Manager().Provision(ctx, v.data, volume.ProvisionOptions{NoMount: true})
		must(t, r, err)
	}
	v.cycle()
	r, err = v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
	if must(t, r, err); len(r.Warnings) > 0 {
		t.Fatalf("%q", r.Warnings)
	}
	r, err = v.b.Manager().Lock(ctx, v.data, volume.LockOptions{})
	must(t, r, err)
	v.forge(t, func(h, other *luks2.Header) { take(h, other, "blob", "filesystem") })
	_, err = v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
	refused(t, err, fault.KeyWrong)
}

// An attacker removes the check from the file, and names the key and the filesystem of
// another volume.
func TestADetachedHeaderWithoutACheckOpensNoOtherVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, identity := range map[string]func(h, other *luks2.Header){
		"its own uuid":     func(_, _ *luks2.Header) {},
		"the other's uuid": func(h, other *luks2.Header) { h.UUID = other.UUID },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newTwoVolumes(t, bothPlacements()["detached"])
			v.forge(t, func(h, other *luks2.Header) {
				take(h, other, "blob", "filesystem")
				unbind(h)
				identity(h, other)
			})
			before := v.one.Bytes()
			m := v.b.Manager()
			for what, run := range map[string]func() error{
				"unlock":     func() error { _, err := m.Unlock(ctx, v.data, volume.UnlockOptions{Mount: true}); return err },
				"for repair": func() error { _, err := m.Unlock(ctx, v.data, volume.UnlockOptions{ForRepair: true}); return err },
				"verify":     func() error { _, err := m.Verify(ctx, v.data); return err },
				"rotate":     func() error { _, err := m.Rotate(ctx, v.data, volume.RotateOptions{}); return err },
				"provision":  func() error { _, err := m.Provision(ctx, v.data, volume.ProvisionOptions{}); return err },
			} {
				if err := run(); fault.CodeOf(err) != fault.HeaderMismatch || v.b.DM.State() != "" {
					t.Errorf("%s: %v\n%s", what, err, v.b.DM.State())
				}
			}
			if !bytes.Equal(before, v.one.Bytes()) || v.headerOf(t, v.data).Metadata.Digests["0"].Extra["digest"] != nil {
				t.Fatal("something was written")
			}
			// As root configures it for a volume that an earlier version adopted.
			as := v.data
			as.AllowUnboundHeader = true
			r, err := m.Provision(ctx, as, volume.ProvisionOptions{NoMount: true})
			must(t, r, err)
			v.cycle()
			r, err = v.b.Manager().Unlock(ctx, v.data, volume.UnlockOptions{})
			if must(t, r, err); len(r.Warnings) > 0 {
				t.Fatalf("%q", r.Warnings)
			}
		})
	}
}

func unbind(h *luks2.Header) {
	d := h.Metadata.Digests["0"]
	for name := range d.Extra {
		delete(d.Extra, name)
	}
	h.Metadata.Digests["0"] = d
}

// The file of a detached header decides what the volume is, just as the configuration
// does.
func TestADetachedHeaderOthersCanWriteIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	v := newTwoVolumes(t, bothPlacements()["detached"])
	v.b.Files.Distrust = &atomicfile.Error{Op: "trust", Path: v.data.Header, Code: fault.FileUnsafe, Err: atomicfile.ErrMode}
	m := v.b.Manager()
	for what, run := range map[string]func() error{
		"unlock":    func() error { _, err := m.Unlock(ctx, v.data, volume.UnlockOptions{}); return err },
		"verify":    func() error { _, err := m.Verify(ctx, v.data); return err },
		"status":    func() error { return m.Status(ctx, v.data).Err },
		"rotate":    func() error { _, err := m.Rotate(ctx, v.data, volume.RotateOptions{}); return err },
		"provision": func() error { _, err := m.Provision(ctx, v.data, volume.ProvisionOptions{}); return err },
	} {
		if err := run(); fault.CodeOf(err) != fault.FileUnsafe {
			t.Errorf("%s: %v", what, err)
		}
	}
}
