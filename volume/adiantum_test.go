// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// open returns s with the cipher of trusted keys left to provisioning.
func open(s spec.Volume) spec.Volume {
	s = trustedFrom(s)
	s.Cipher, s.KeySize = "", 0
	return s
}

const xts = "aes-xts-plain64"

// Without instructions for AES, trusted keys are used with Adiantum, if a trial shows that
// the kernel has it, and if nothing else is configured.
func TestTheCipherOfTrustedKeysIsChosen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		spec   func(*spec.Volume)
		aes    bool
		lacks  string
		want   string
		warned bool
	}{
		"with instructions":           {aes: true, want: xts},
		"without":                     {want: keysource.Adiantum},
		"without, and without it":     {lacks: "adiantum(xchacha12,aes)", want: xts, warned: true},
		"without, cipher configured":  {spec: func(s *spec.Volume) { s.Cipher, s.KeySize = xts, 64 }, want: xts},
		"without, another key size":   {spec: func(s *spec.Volume) { s.KeySize = 64 }, want: xts},
		"without, source auto":        {spec: func(s *spec.Volume) { *s = auto(*s); s.Trusted.Source = "caam" }, want: keysource.Adiantum},
		"without, detached":           {spec: func(s *spec.Volume) { s.Header = "/var/lib/imxcrypt/data.luks" }, want: keysource.Adiantum},
		"with, Adiantum is the wish":  {aes: true, spec: func(s *spec.Volume) { s.Cipher, s.KeySize = keysource.Adiantum, 32 }, want: keysource.Adiantum},
		"without, but protected keys": {spec: func(s *spec.Volume) { *s = protectedFrom(*s) }, want: "capi:cbc(paes)-plain64"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(newSpec())
			if c.spec != nil {
				c.spec(&s)
			}
			b := newBoard(crashtest.NewImage(16 * mib))
			b.NoAES, b.NoCiphers = !c.aes, []string{c.lacks}
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: true})
			must(t, r, err)
			said := strings.Contains(r.Steps[0].What, "cipher "+keysource.Adiantum+": this processor has no instructions for AES")
			if chosen := c.want == keysource.Adiantum && !c.aes; said != chosen {
				t.Errorf("the dry run says %q", r.Steps[0].What)
			}
			r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			if warned := strings.Contains(strings.Join(r.Warnings, "\n"), "CONFIG_CRYPTO_ADIANTUM"); warned != c.warned {
				t.Errorf("warnings: %q", r.Warnings)
			}
			put(t, b, secretText)
			// What is in the header counts from now on, wherever it is opened.
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
			must(t, rr.Result, err)
			if got := get(t, b, len(secretText)); got != secretText {
				t.Errorf("%q", got)
			}
			if st := b.Manager().Status(ctx, s); st.Err != nil || st.Cipher != c.want || st.Generation != 2 {
				t.Errorf("%+v", st)
			}
			r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); !r.Already {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A cipher that provisioning would not have chosen is not taken because a header names it.
func TestNoOtherCipherOfTrustedKeysIsOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	made := trustedFrom(newSpec())
	made.Cipher, made.KeySize = "aes-cbc-essiv:sha256", 32
	h, err := header.New(made, "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", header.Layout{DataOffset: 2 * mib, DataSize: 8 * mib},
		header.Token{Source: made.Source, Phase: header.PhaseReady, Generation: 1, KeySize: 32, Blob: make([]byte, 80)})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Matches(open(newSpec())); !fault.Is(err, fault.HeaderMismatch) || !strings.Contains(err.Error(), "cipher") {
		t.Errorf("%v", err)
	}
	// Nor is Adiantum if another cipher is configured.
	b := newBoard(crashtest.NewImage(16 * mib))
	b.NoAES = true
	r, err := b.Manager().Provision(ctx, open(newSpec()), volume.ProvisionOptions{})
	must(t, r, err)
	_, err = b.Manager().Unlock(ctx, trustedFrom(newSpec()), volume.UnlockOptions{})
	refused(t, err, fault.HeaderMismatch)
}

// A rotation to trusted keys chooses a cipher too, and finishes with it on any processor.
func TestARotationToTrustedKeysChoosesTheCipher(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from := rotationSpec(rotationGap)
	to := open(from)
	b, want := filled(t, from, rotationDisk(from))
	b.NoAES = true
	rotateUntil(t, b, to, 3)
	b = powerCycle(b)
	r, err := b.Manager().Unlock(ctx, to, volume.UnlockOptions{Mount: true})
	must(t, r, err)
	rr, err := b.Manager().Rotate(ctx, to, volume.RotateOptions{})
	must(t, rr.Result, err)
	same(t, "afterwards", content(t, b), want)
	if st := b.Manager().Status(ctx, to); st.Err != nil || st.Cipher != keysource.Adiantum {
		t.Errorf("%+v", st)
	}
}

// A configured key size that the volume's chosen cipher does not have asks for the usual
// cipher, as at provisioning: the volume refuses to open and says that a rotation changes
// it.
func TestAKeySizeAgainstTheChosenCipher(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := open(rotationSpec(rotationGap))
	b := newBoard(rotationDisk(s))
	b.NoAES = true
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	s.KeySize = 64
	b = powerCycle(b)
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	if refused(t, err, fault.HeaderMismatch); !strings.Contains(err.Error(), "imxcrypt rotate") {
		t.Errorf("%v", err)
	}
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	if st := b.Manager().Status(ctx, s); st.Err != nil || st.Cipher != xts || st.KeySize != 64 {
		t.Errorf("%+v", st)
	}
}
