// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
)

// trusted makes the kernel's trusted keys: a trust source (CAAM, DCP, TEE or TPM) seals
// them, and only the kernel sees them. The kernel has them in clear while a table is
// live, except for protected keys ([Request.Wrap]), which only the CAAM sees.
type trusted struct {
	ring Keyring
	// want is the trust source that the configuration asks for; empty for any.
	want string
}

// makingDescription names a key while it is made, before a table needs it.
const makingDescription = "imxcrypt:new"

// makeCommand returns the command that makes a key. A TPM needs a parent: the persistent
// primary key that the kernel's documentation uses.
func makeCommand(size int, tpm bool, wrap caam.Wrap) string {
	if tpm {
		return fmt.Sprintf("new %d keyhandle=0x81000001", size)
	}
	return fmt.Sprintf("new %d%s", size, protectedOptions(wrap))
}

// protectedOptions returns the options of a protected key, for a command to mainline's
// CAAM (Linux 6.19, security/keys/trusted-keys/trusted_caam.c); empty for any other key.
func protectedOptions(wrap caam.Wrap) string {
	switch wrap {
	case caam.CCM:
		return " pk key_enc_algo=1"
	case caam.ECB:
		return " pk key_enc_algo=2"
	}
	return ""
}

func (t trusted) Create(_ context.Context, r Request) (Key, []byte, error) {
	return t.create(r, r.Wrap)
}

// Sample seals an ordinary key for a trial of a protected one: the kernel loads any blob
// as a protected key. When it makes a protected key, it writes past a buffer unless its
// CAAM driver was changed (6.19 to 7.3 at least, caam_process_blob).
func (t trusted) Sample(_ context.Context, r Request) (Key, error) {
	wrap := r.Wrap
	if r.Trial {
		wrap = ""
	}
	key, _, err := t.create(r, wrap)
	return key, err
}

// create makes a key for a request, perhaps with another wrap.
func (t trusted) create(r Request, wrap caam.Wrap) (Key, []byte, error) {
	blob, err := t.make(r.KeySize, wrap)
	if err != nil {
		return nil, nil, fmt.Errorf("make a trusted key: %w", explainMake(err))
	}
	is := keysource.TrustOf(blob, r.KeySize)
	switch {
	case is == "":
		return nil, nil, fault.Newf(fault.TrustOther, "the kernel sealed a trusted key as a blob of %d bytes, which is not the form of any known trust source", len(blob))
	case t.want != "" && is != t.want:
		return nil, nil, fault.Newf(fault.TrustOther, "the kernel's trust source is %s, and the configuration asks for %s", is, t.want)
	case r.Wrap != "" && is != keysource.TrustCAAM:
		return nil, nil, fault.Newf(fault.TrustOther, "the kernel's trust source is %s, and protected keys are the CAAM's", is)
	}
	return t.key(r, blob), blob, nil
}

// make has the kernel make a key and reads its blob.
func (t trusted) make(size int, wrap caam.Wrap) (blob []byte, err error) {
	read := func(sealed func() ([]byte, error)) error {
		text, err := sealed()
		if err != nil {
			return err
		}
		blob, err = hex.DecodeString(string(text))
		return err
	}
	err = t.ring.WithTrustedKey(makingDescription, makeCommand(size, false, wrap), read)
	if errors.Is(err, unix.EINVAL) && wrap == "" {
		err = t.ring.WithTrustedKey(makingDescription, makeCommand(size, true, wrap), read)
	}
	return blob, err
}

// key returns the key of a blob.
func (t trusted) key(r Request, blob []byte) Key {
	k := &trustedKey{blob: blob, size: r.KeySize, options: protectedOptions(r.Wrap), ring: t.ring}
	if k.options != "" {
		k.size = keysource.ProtectedSize
	}
	return k
}

// Open has the hardware open the blob once, so that what it refuses is refused here.
// Nothing of the key is kept. For a protected key the hardware is not asked until
// something is read with it: only then does it show that the blob is another chip's, or
// no blob.
func (t trusted) Open(_ context.Context, r Request, stored []byte) (Key, error) {
	is := keysource.TrustOf(stored, r.KeySize)
	if is == "" || r.Wrap != "" && (is != keysource.TrustCAAM || r.KeySize != 32) {
		return nil, fault.Newf(fault.BlobDamaged, "the sealed key of %d bytes does not have the form of any trust source", len(stored))
	}
	k := t.key(r, stored)
	err := k.Use(makingDescription, func(dmcrypt.KeyRef) error { return nil })
	switch {
	case err == nil:
		return k, nil
	case r.Wrap != "" && errors.Is(err, unix.EBADMSG):
		return nil, fault.New(fault.ProtectedMissing, "this kernel takes a protected key for an ordinary one: it is older than 6.19", err)
	}
	return nil, t.explainOpen(err, is)
}

func explainMake(err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fault.New(fault.TrustMissing, "this kernel has no trust source", err)
	case errors.Is(err, unix.EPERM):
		// Only a TPM is asked a second time, with the handle of a parent.
		return fault.New(fault.TrustParent, "the TPM seals no key under its persistent key 0x81000001", err)
	case errors.Is(err, unix.EBADMSG), errors.Is(err, unix.EIO), errors.Is(err, unix.EFAULT), errors.Is(err, unix.EINVAL):
		return fault.New(fault.TrustFailed, "the trust source made no key", err)
	}
	return err
}

// explainOpen says why the kernel did not open a blob. Every trust source refuses in its
// own way, and the same errno may mean a blob of another source. Making a key and
// throwing it away shows which source the kernel has.
func (t trusted) explainOpen(err error, sealedBy string) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fault.New(fault.TrustMissing, "this kernel has no trust source", err)
	case !errors.Is(err, unix.EBADMSG) && !malformed(err) && !errors.Is(err, unix.EFAULT) && !errors.Is(err, unix.EPERM):
		return err
	}
	const size = 32
	blob, makeErr := t.make(size, "")
	switch {
	case makeErr == nil:
		if is := keysource.TrustOf(blob, size); is != "" && is != sealedBy {
			return fault.New(fault.TrustOther, fmt.Sprintf("the key was sealed by the trust source %s, and the kernel's is %s", sealedBy, is), err)
		}
		if malformed(err) && sealedBy != keysource.TrustTEE {
			return fault.New(fault.BlobDamaged, "the trust source "+sealedBy+" does not recognize the sealed key: it is damaged", err)
		}
	case errors.Is(makeErr, unix.EPERM) && sealedBy == keysource.TrustTPM:
		return fault.New(fault.TrustParent, "the TPM has no persistent key 0x81000001, under which the key was sealed", err)
	case fault.Is(explainMake(makeErr), fault.TrustFailed):
		return fault.New(fault.TrustFailed, "the trust source "+sealedBy+" neither opens the sealed key nor makes one", err)
	}
	return fault.New(fault.BlobRejected, "the trust source "+sealedBy+" rejected the sealed key: made by another chip or in another security state, or damaged", err)
}

// malformed reports whether err is the kernel's answer to a blob that it cannot read, or,
// from a TPM, to one with a length in it that is larger than the blob.
func malformed(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) }

// trustedKey is a sealed key that the kernel opens when a table needs it. It holds no
// secret.
type trustedKey struct {
	blob []byte
	// size is the size in bytes of what the kernel gives the cipher.
	size    int
	options string
	ring    Keyring
}

func (k *trustedKey) Use(description string, fn func(dmcrypt.KeyRef) error) error {
	if k.blob == nil {
		return fmt.Errorf("key %s was wiped already", description)
	}
	return k.ring.WithTrustedKey(description, "load "+hex.EncodeToString(k.blob)+k.options, func(func() ([]byte, error)) error {
		return fn(dmcrypt.KeyRef{Size: k.size, Type: "trusted", Description: description})
	})
}

func (k *trustedKey) Wipe() { k.blob = nil }
