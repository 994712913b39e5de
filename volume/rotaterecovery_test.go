// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// words keeps the passphrases that are shown.
func words(to *[]string) func(string) error {
	return func(w string) error {
		*to = append(*to, w)
		return nil
	}
}

func typed(text string) volume.Opener {
	return volume.Opener{Passphrase: func() (string, error) { return text, nil }}
}

// recovered returns what a volume shows when it is opened by its recovery copy.
func recovered(t *testing.T, b *volumetest.Board, s spec.Volume, o volume.Opener) []byte {
	t.Helper()
	ctx := context.Background()
	r := volume.RecoverOptions{Path: s.Device, Name: "found", Opener: o}
	if s.Detached() {
		r.Header = s.Header
	}
	res, err := b.Manager().Recover(ctx, r)
	must(t, res, err)
	f, err := b.Mapping("found", false)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, f.Size())
	_, err = f.ReadAt(all, 0)
	if err := errors.Join(err, f.Close(), b.DM.Remove(ctx, "found")); err != nil {
		t.Fatal(err)
	}
	return all
}

// A rotation gives recovery copies to a volume that has none, changes those of one that
// has some, and removes them; locked or in use, whatever the placement.
func TestRotationChangesWhoRecovers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, name := range []string{"gap", "journal", "detached"} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, live %v", name, live), func(t *testing.T) {
				t.Parallel()
				s := rotationCases()[name]
				b, want := filled(t, s, rotationDisk(s))
				lock := func() {
					r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
					must(t, r, err)
				}
				if !live {
					lock()
				}
				first, second := newIdentity(t), newIdentity(t)
				for _, id := range []*age.X25519Identity{first, second} {
					r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Recipients: []string{id.Recipient().String()}})
					if must(t, r.Result, err); r.RecoveryFingerprint == "" {
						t.Fatal("no fingerprint")
					}
					lock()
					same(t, "recovered", recovered(t, b, s, volume.Opener{Identities: identityFile(id)}), want)
					if live {
						u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
						must(t, u, err)
					}
				}
				lock()
				_, err := b.Manager().Recover(ctx, volume.RecoverOptions{Path: s.Device, Header: map[bool]string{true: s.Header}[s.Detached()], Opener: volume.Opener{Identities: identityFile(first)}})
				refused(t, err, fault.IdentityWrong)
				r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{NoRecovery: true})
				must(t, r.Result, err)
				if st := b.Manager().Status(ctx, s); st.RecoveryFingerprint != "" || len(st.Recipients) != 0 || st.Generation != 4 {
					t.Fatalf("%+v", st)
				}
				b = powerCycle(b)
				u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
				must(t, u, err)
				same(t, "at the end", content(t, b), want)
			})
		}
	}
}

// With source auto the header's own source decides.
func TestRecoveryCopiesWithSourceAuto(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	b, _ := filled(t, s, rotationDisk(s))
	auto := s
	auto.Source = spec.SourceAuto
	r, err := b.Manager().Rotate(ctx, auto, volume.RotateOptions{Recipients: []string{newIdentity(t).Recipient().String()}})
	if must(t, r.Result, err); r.RecoveryFingerprint == "" {
		t.Fatalf("%+v", r)
	}
	rr, err := b.Manager().Resize(ctx, auto, volume.ResizeOptions{})
	must(t, rr.Result, err)
}

// How a volume that was made without a recovery copy survives the closing of its chip.
func TestTheWayOverClosingOfAVolumeWithoutARecoveryCopy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	s.AllowOpenState = true
	chip := caamtest.NewChip([32]byte{7}, false)
	b := volumetest.New(chip, volumetest.NoFiles(), &volumetest.Disk{Path: s.Device, Store: rotationDisk(s)})
	b.Directories, b.State = []string{"/data"}, caam.Open
	want := fill(t, s, b)
	var shown []string
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Passphrase: words(&shown)})
	must(t, r.Result, err)
	fingerprint := r.RecoveryFingerprint
	chip.BurnFuse()
	b = powerCycle(b)
	b.State = caam.Closed
	s.AllowOpenState = false
	if _, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err == nil {
		t.Fatal("a closed chip opened what an open one had sealed")
	}
	sealed, err := b.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: typed(shown[0]), Fingerprint: known(fingerprint)})
	if must(t, sealed, err); sealed.SecurityState != "closed" {
		t.Fatalf("%+v", sealed)
	}
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, u, err)
	same(t, "after closing", content(t, b), want)
}

func TestARecoveryPassphrase(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	s := rotationSpec(rotationGap)
	disk := rotationDisk(s)
	b := newBoard(disk)
	var shown []string
	o := volume.ProvisionOptions{Passphrase: words(&shown), Recipients: []string{id.Recipient().String()}}
	r, err := b.Manager().Provision(ctx, s, o)
	must(t, r, err)
	r, err = b.Manager().Provision(ctx, s, o)
	if must(t, r, err); !r.Already || len(shown) != 1 || len(strings.Split(shown[0], "-")) != 8 {
		t.Fatalf("%+v, %d shown", r, len(shown))
	}
	want := content(t, b)
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	same(t, "with the passphrase", recovered(t, b, s, typed(shown[0])), want)
	same(t, "as people type", recovered(t, b, s, typed("  "+strings.ToUpper(strings.ReplaceAll(shown[0], "-", " "))+"\r\n")), want)
	same(t, "with the identity", recovered(t, b, s, volume.Opener{Identities: identityFile(id)}), want)
	for text, code := range map[string]fault.Code{
		"": fault.Usage,
		strings.Replace(shown[0], shown[0][:5], "hello", 1):      fault.Usage,
		strings.Repeat("lusab-", 7) + "lusab":                    fault.IdentityWrong,
		strings.TrimSuffix(shown[0], shown[0][len(shown[0])-6:]): fault.Usage,
	} {
		_, err := b.Manager().Recover(ctx, volume.RecoverOptions{Path: s.Device, Opener: typed(text)})
		refused(t, err, code)
		if strings.Contains(err.Error(), "hello") {
			t.Fatalf("a word stands in the error %v", err)
		}
	}

	// age alone opens it: nothing of ours is needed.
	h, _, err := luks2.Read(disk, disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	var member struct {
		Recovery struct {
			WithPassphrase []byte `json:"with_passphrase"`
		} `json:"recovery"`
	}
	token := h.Metadata.Tokens["0"]
	if err := token.Extra.Decode(&member); err != nil {
		t.Fatal(err)
	}
	scrypt, err := age.NewScryptIdentity(shown[0])
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(bytes.NewReader(member.Recovery.WithPassphrase), scrypt)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(plain)
	if prefix := "imxcrypt-recovery-v1 " + h.UUID + " 1\n"; err != nil || !strings.HasPrefix(string(text), prefix) || len(text) != len(prefix)+32 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if bytes.Contains(disk.Bytes(), []byte(shown[0])) {
		t.Fatal("the passphrase is stored")
	}

	// The words are not available for the next key, so the command must say what it gets.
	before := disk.Bytes()
	for _, dry := range []bool{true, false} {
		_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{DryRun: dry})
		refused(t, err, fault.Usage)
	}
	_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{Passphrase: func(string) error { return errStep }})
	if !errors.Is(err, errStep) {
		t.Fatalf("rotated without showing the passphrase: %v", err)
	}
	same(t, "refused", disk.Bytes(), before)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{Passphrase: words(&shown)})
	must(t, rr.Result, err)
	same(t, "with the new passphrase", recovered(t, b, s, typed(shown[1])), want)
	_, err = b.Manager().Recover(ctx, volume.RecoverOptions{Path: s.Device, Opener: typed(shown[0])})
	refused(t, err, fault.IdentityWrong)
	_, err = b.Manager().Recover(ctx, volume.RecoverOptions{Path: s.Device, Opener: volume.Opener{Identities: identityFile(id)}})
	refused(t, err, fault.RecoveryMissing)
}

// The key of a rotation under way exists: another run does not change who recovers.
func TestRecoveryCopiesOfARotationUnderWay(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(rotationGap)
	b, want := filled(t, s, rotationDisk(s))
	id := newIdentity(t)
	to := []string{id.Recipient().String()}
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{InitOnly: true, Recipients: to})
	must(t, r.Result, err)
	for name, o := range map[string]volume.RotateOptions{
		"none":          {NoRecovery: true},
		"others":        {Recipients: []string{newIdentity(t).Recipient().String()}},
		"one more":      {Recipients: append(to, newIdentity(t).Recipient().String())},
		"by passphrase": {Passphrase: func(string) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Manager().Rotate(ctx, s, o)
			refused(t, err, fault.RotationUnderWay)
		})
	}
	r, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{Recipients: to})
	must(t, r.Result, err)
	l, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, l, err)
	same(t, "recovered", recovered(t, b, s, volume.Opener{Identities: identityFile(id)}), want)
	_, err = b.Manager().Rotate(ctx, devSpec(), volume.RotateOptions{Recipients: to})
	refused(t, err, fault.Usage)
}

// Wherever power is cut while a rotation adds recovery copies, the volume opens, the
// rotation is finished without naming the recipients again, and those who were asked for
// can recover. The words shown last are the right ones.
func TestEveryPowerCutOfARotationThatAddsRecoveryCopies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	run := prepared(t, rotationSpec(rotationGap), 0)
	id := newIdentity(t)
	var shown []string
	o := volume.RotateOptions{Recipients: []string{id.Recipient().String()}, Passphrase: words(&shown)}
	rec := record(run.chip, run.disk.Overlay(), run.files.Overlay())
	first := o
	first.InitOnly = true
	r, err := rec.board.Manager().Rotate(ctx, run.spec, first)
	must(t, r.Result, err)
	tried, begun := 0, 0
	for state := range rec.rec.States(crashLimits()) {
		tried++
		next := record(run.chip, state.Image(rec.disk), state.Image(rec.files))
		next.board.Chip.PowerCycle()
		m := next.board.Manager()
		r, err := m.Rotate(ctx, run.spec, volume.RotateOptions{ResumeOnly: true})
		must(t, r.Result, err)
		last := shown[0]
		byPassphrase := tried%8 == 0 // a second of scrypt each time
		if r.Already {
			full := o
			full.Passphrase = nil
			if byPassphrase {
				full.Passphrase = func(w string) error { last = w; return nil }
			}
			r, err = m.Rotate(ctx, run.spec, full)
			must(t, r.Result, err)
		} else {
			begun++
		}
		if byPassphrase {
			same(t, state.String(), recovered(t, next.board, run.spec, typed(last)), run.want)
		}
		same(t, state.String(), recovered(t, next.board, run.spec, volume.Opener{Identities: identityFile(id)}), run.want)
	}
	if begun == 0 || begun == tried {
		t.Fatalf("%d of %d states had begun", begun, tried)
	}
	t.Logf("rotation with recovery copies: %d states tried, %d of them with the new key, 0 lost", tried, begun)
}
