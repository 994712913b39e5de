// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
)

// answers is a kernel that answers with these errnos: to "new 32", to one with a parent,
// and to "load".
type answers struct {
	Keyring
	makes, makesUnder, loads error
	blob                     []byte
}

func (a answers) WithTrustedKey(_, command string, use func(func() ([]byte, error)) error) error {
	err := a.loads
	switch {
	case strings.Contains(command, "keyhandle="):
		err = a.makesUnder
	case strings.HasPrefix(command, "new "):
		err = a.makes
	}
	if err != nil {
		return err
	}
	return use(func() ([]byte, error) { return []byte(hex.EncodeToString(a.blob)), nil })
}

// blobOf has the form of a trust source's blob for a key of 32 bytes.
func blobOf(trust string) []byte {
	switch trust {
	case keysource.TrustDCP:
		return append([]byte{1}, make([]byte, 32+52)...)
	case keysource.TrustTEE:
		return make([]byte, 32+33)
	case keysource.TrustTPM:
		return append([]byte{0x30}, make([]byte, 235)...)
	}
	return make([]byte, 32+48)
}

// The kernel's answers, also to making a key that is thrown away, distinguish why a
// sealed key does not open. The errnos are those of mainline's trust sources, as
// test/mainline has seen them.
func TestWhyASealedKeyDoesNotOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sealed string
		kernel answers
		want   fault.Code
	}{
		"another chip, caam":                {"caam", answers{loads: unix.EBADMSG, blob: blobOf("caam")}, fault.BlobRejected},
		"another chip, dcp":                 {"dcp", answers{loads: unix.EBADMSG, blob: blobOf("dcp")}, fault.BlobRejected},
		"another chip, tee":                 {"tee", answers{loads: unix.EFAULT, blob: blobOf("tee")}, fault.BlobRejected},
		"another chip, tpm":                 {"tpm", answers{loads: unix.EPERM, makes: unix.EINVAL, blob: blobOf("tpm")}, fault.BlobRejected},
		"damaged, dcp":                      {"dcp", answers{loads: unix.EINVAL, blob: blobOf("dcp")}, fault.BlobDamaged},
		"damaged, tpm":                      {"tpm", answers{loads: unix.EINVAL, makes: unix.EINVAL, blob: blobOf("tpm")}, fault.BlobDamaged},
		"damaged length, tpm":               {"tpm", answers{loads: unix.E2BIG, makes: unix.EINVAL, blob: blobOf("tpm")}, fault.BlobDamaged},
		"caam's, and the kernel uses dcp":   {"caam", answers{loads: unix.EINVAL, blob: blobOf("dcp")}, fault.TrustOther},
		"dcp's, and the kernel uses caam":   {"dcp", answers{loads: unix.EBADMSG, blob: blobOf("caam")}, fault.TrustOther},
		"tpm's, and the kernel uses caam":   {"tpm", answers{loads: unix.EBADMSG, blob: blobOf("caam")}, fault.TrustOther},
		"no trust source":                   {"caam", answers{loads: unix.ENODEV, makes: unix.ENODEV}, fault.TrustMissing},
		"a tpm without its persistent key":  {"tpm", answers{loads: unix.EPERM, makes: unix.EINVAL, makesUnder: unix.EPERM}, fault.TrustParent},
		"a trust source that does not work": {"caam", answers{loads: unix.EBADMSG, makes: unix.EIO}, fault.TrustFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := trusted{ring: c.kernel}.Open(context.Background(), Request{KeySize: 32}, blobOf(c.sealed))
			if fault.CodeOf(err) != c.want {
				t.Errorf("%s: %v", fault.CodeOf(err), err)
			}
		})
	}
}

func TestWhyNoKeyIsMade(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kernel answers
		pinned string
		want   fault.Code
	}{
		"no trust source":                   {answers{makes: unix.ENODEV}, "", fault.TrustMissing},
		"a tpm without its persistent key":  {answers{makes: unix.EINVAL, makesUnder: unix.EPERM}, "", fault.TrustParent},
		"a trust source that does not work": {answers{makes: unix.EIO}, "", fault.TrustFailed},
		"another one than configured":       {answers{blob: blobOf("dcp")}, "caam", fault.TrustOther},
		"a form that nobody knows":          {answers{blob: make([]byte, 7)}, "", fault.TrustOther},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := trusted{ring: c.kernel, want: c.pinned}.Create(context.Background(), Request{KeySize: 32})
			if fault.CodeOf(err) != c.want {
				t.Errorf("%s: %v", fault.CodeOf(err), err)
			}
		})
	}
}
