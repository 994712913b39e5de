// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

func auto(s spec.Volume) spec.Volume {
	s.Source, s.Wrap, s.Cipher, s.KeySize = spec.SourceAuto, "", "", 0
	return s
}

// without returns a board's manager in a kernel that lacks caam or trusted.
func without(b *volumetest.Board, caam, trusted bool) *volume.Manager {
	sys := b.System()
	if caam {
		sys.Chip = func() (source.Chip, error) { return nil, errors.New("no driver") }
	}
	if trusted {
		b.Ring.Trust = nil
	}
	return volume.New(sys)
}

// counting counts the trusted keys that are made.
type counting struct {
	volumetest.TrustSource
	made int
}

func (c *counting) NewTrusted(n int) (key, blob []byte, err error) {
	c.made++
	return c.TrustSource.NewTrusted(n)
}

// The source is chosen once, by what works; from then on the header says which it is.
func TestAutoChoosesWhatWorks(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), auto(newSpec())
	for name, c := range map[string]struct {
		caam, trusted bool // missing
		want          string
	}{
		"both":         {false, false, spec.SourceCAAM},
		"no driver":    {true, false, spec.SourceTrusted},
		"nothing else": {false, true, spec.SourceCAAM},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(crashtest.NewImage(16 * mib))
			trust := &counting{TrustSource: b.Chip}
			b.Ring.Trust = trust
			m := without(b, c.caam, c.trusted)
			r, err := m.Provision(ctx, s, volume.ProvisionOptions{DryRun: true})
			must(t, r, err)
			if first := r.Steps[0].What; !strings.HasPrefix(first, "choose source "+c.want+": ") {
				t.Errorf("the dry run says %q", first)
			}
			// Only the key of the trial table, which is stored nowhere; choosing makes
			// none.
			if most := map[string]int{spec.SourceTrusted: 1}[c.want]; trust.made > most {
				t.Errorf("the dry run made %d keys", trust.made)
			}
			r, err = m.Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			put(t, b, secretText)
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if got := get(t, b, len(secretText)); got != secretText {
				t.Errorf("%q", got)
			}
			if st := b.Manager().Status(ctx, s); st.Err != nil || st.Source != c.want {
				t.Errorf("%+v", st)
			}
			// Again, with the other source working too: the choice stays.
			r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); !r.Already {
				t.Errorf("%+v", r)
			}
			rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
			must(t, rr.Result, err)
			if st := b.Manager().Status(ctx, s); st.Err != nil || st.Source != c.want || st.Generation != 2 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestAutoWithoutAnyHardware(t *testing.T) {
	t.Parallel()
	image := crashtest.NewImage(16 * mib)
	before := image.Bytes()
	b := newBoard(image)
	_, err := without(b, true, true).Provision(context.Background(), auto(newSpec()), volume.ProvisionOptions{})
	refused(t, err, fault.SourceMissing)
	same(t, "refused", image.Bytes(), before)
}

// gone is a trust source that is registered but makes no key.
type gone struct{ volumetest.TrustSource }

func (gone) NewTrusted(int) (key, blob []byte, err error) { return nil, nil, unix.ENODEV }

// If the CAAM driver's device opens but makes no key, nothing is written, and the
// remaining way is named if there is one. It is not taken silently, since it protects
// less.
func TestAutoDoesNotLeaveABrokenCAAMInSilence(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	const way = "`source: trusted` works here"
	for name, c := range map[string]struct {
		change func(*volumetest.Board, *spec.Volume)
		o      volume.ProvisionOptions
		code   fault.Code
		way    bool
	}{
		"no job ring": {func(b *volumetest.Board, _ *spec.Volume) {
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{}, fault.CAAMNotReady, true},
		"the hardware fails": {func(b *volumetest.Board, _ *spec.Volume) {
			b.Chip.SetFault(func(string) error { return unix.EIO })
		}, volume.ProvisionOptions{DryRun: true}, fault.CAAMFailed, true},
		"dm-crypt does not get tk()": {func(b *volumetest.Board, _ *spec.Volume) {
			b.NoCiphers = []string{"tk(cbc(aes))"}
		}, volume.ProvisionOptions{}, fault.CipherMissing, true},
		"no trust source": {func(b *volumetest.Board, _ *spec.Volume) {
			b.Ring.Trust = nil
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{}, fault.CAAMNotReady, false},
		"the trust source is the CAAM, too": {func(b *volumetest.Board, _ *spec.Volume) {
			b.Ring.Trust = gone{b.Chip}
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{}, fault.CAAMNotReady, false},
		"only the CAAM has it": {func(b *volumetest.Board, s *spec.Volume) {
			s.Wrap = "ecb"
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{}, fault.CAAMNotReady, false},
		"only the CAAM has copies": {func(b *volumetest.Board, _ *spec.Volume) {
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{Recipients: []string{newIdentity(t).Recipient().String()}}, fault.CAAMNotReady, false},
		"source caam": {func(b *volumetest.Board, s *spec.Volume) {
			*s = newSpec()
			b.Chip.SetFault(func(string) error { return unix.ENODEV })
		}, volume.ProvisionOptions{}, fault.CAAMNotReady, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image, s := crashtest.NewImage(16*mib), auto(newSpec())
			b := newBoard(image)
			c.change(b, &s)
			before := image.Bytes()
			_, err := b.Manager().Provision(ctx, s, c.o)
			refused(t, err, c.code)
			same(t, "refused", image.Bytes(), before)
			if strings.Contains(err.Error(), way) != c.way {
				t.Error(err)
			}
			if err := b.Manager().Try(ctx, s); c.way && (!fault.Is(err, c.code) || !strings.Contains(err.Error(), way)) {
				t.Errorf("doctor's trial: %v", err)
			}
			if c.way {
				r, err := b.Manager().Provision(ctx, trustedFrom(newSpec()), volume.ProvisionOptions{})
				must(t, r, err)
			}
		})
	}
}

// The configuration narrows the choice, and a recovery copy requires the CAAM.
func TestAutoIsNarrowed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		narrow func(*spec.Volume)
		want   string
	}{
		"wrap":         {func(s *spec.Volume) { s.Wrap = "ecb" }, spec.SourceCAAM},
		"trust source": {func(s *spec.Volume) { s.Trusted.Source = "caam" }, spec.SourceTrusted},
		"cipher":       {func(s *spec.Volume) { s.Cipher = "aes-xts-plain64" }, spec.SourceTrusted},
		"key size":     {func(s *spec.Volume) { s.KeySize = 64 }, spec.SourceTrusted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := auto(newSpec())
			c.narrow(&s)
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			if st := b.Manager().Status(ctx, s); st.Err != nil || st.Source != c.want {
				t.Errorf("%+v", st)
			}
		})
	}
	neither := auto(newSpec())
	neither.Wrap, neither.Cipher = "ccm", "aes-xts-plain64"
	_, err := newBoard(crashtest.NewImage(16*mib)).Manager().Provision(ctx, neither, volume.ProvisionOptions{})
	refused(t, err, fault.CipherNotAllowed)
}

// A key that protects nothing is never taken for one that does, whatever the header says,
// even if source dev is allowed for other volumes.
func TestAutoNeverOpensSourceDev(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dev := rotationCases()["dev"]
	s := auto(dev)
	b, _ := filled(t, dev, rotationDisk(dev))
	m := b.Manager()
	for name, err := range map[string]error{
		"unlock":    second(m.Unlock(ctx, s, volume.UnlockOptions{})),
		"verify":    second(m.Verify(ctx, s)),
		"rotate":    second(m.Rotate(ctx, s, volume.RotateOptions{})),
		"provision": second(m.Provision(ctx, s, volume.ProvisionOptions{})),
		"status":    m.Status(ctx, s).Err,
	} {
		if !fault.Is(err, fault.HeaderMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// With source auto a volume opens at every stage of a rotation from one source to
// another, so nothing has to change at the same moment as the configuration.
func TestAutoOpensARotationBetweenSources(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationSpec(rotationGap)
	to := trustedFrom(from)
	s := auto(from)
	b, want := filled(t, s, rotationDisk(from))
	rotateUntil(t, b, to, 3)
	b = powerCycle(b)
	r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	same(t, "half-way", content(t, b), want)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
	must(t, rr.Result, err)
	b = powerCycle(b)
	b.Ring.Trust = caamtest.RandomChip()
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.BlobRejected)
	b.Ring.Trust = b.Chip
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	same(t, "afterwards", content(t, b), want)
	if st := b.Manager().Status(ctx, s); st.Source != spec.SourceTrusted {
		t.Errorf("%+v", st)
	}
}

// A rotation may give a recovery copy to a volume whose source was chosen; it is refused
// if the chosen source has no recovery copies.
func TestAutoRotatesWithARecoveryCopy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationSpec(rotationGap)
	s, id := auto(from), newIdentity(t)
	o := volume.RotateOptions{Recipients: []string{id.Recipient().String()}}
	b, want := filled(t, s, rotationDisk(from))
	rr, err := b.Manager().Rotate(ctx, s, o)
	must(t, rr.Result, err)
	r, err := b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	same(t, "recovered", recovered(t, b, s, volume.Opener{Identities: identityFile(id)}), want)

	disk := rotationDisk(from)
	b, _ = filled(t, trustedFrom(from), disk)
	before := disk.Bytes()
	_, err = b.Manager().Rotate(ctx, s, o)
	refused(t, err, fault.Usage)
	same(t, "refused", disk.Bytes(), before)
}
