// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"

	"imxcrypt/caam"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/spec"
)

// sealedFile is the content of a file with a sealed key.
type sealedFile []byte

// source returns the source of the key in the file: `keyctl pipe` prints the blob of a
// trusted key as hexadecimal digits, and a file of caam-keygen begins with a tag.
func (f sealedFile) source() string {
	if _, err := f.trusted(); err == nil {
		return spec.SourceTrusted
	}
	return spec.SourceCAAM
}

func (f sealedFile) trusted() ([]byte, error) { return hex.DecodeString(string(bytes.TrimSpace(f))) }

// sealed is the key of a volume being adopted.
type sealed struct {
	blob []byte
	wrap caam.Wrap
	// keySize is the size of the plain key in bytes.
	keySize int
}

// readSealed reads the file with the sealed key.
func (m *Manager) readSealed(path string) (sealedFile, error) {
	raw, err := m.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: maxKeyFile, FollowLinks: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.FileMissing, "--blob", err)
	}
	return raw, err
}

// understandBlob extracts the sealed key from its file and compares it with the table.
func (a *adopting) understandBlob(raw sealedFile) error {
	if a.s.Source == spec.SourceTrusted {
		return a.understandTrusted(raw)
	}
	blob, err := caam.Convert(raw)
	if err != nil {
		return fault.New(fault.BlobDamaged, a.o.Blob, err)
	}
	if len(blob) != len(raw) {
		a.j.did("blob converted from an older form")
	}
	wrap, n := blob.Wrap(), blob.RedKeyLen()
	if want := caam.BlackKeySize(wrap, n); a.recipe.keySize != 0 && a.recipe.keySize != want {
		return fault.Newf(fault.AdoptMismatch, "the table names a key of %d bytes, a %s key of the %d bytes in %s has %d: table and blob do not belong together",
			a.recipe.keySize, wrap, n, a.o.Blob, want)
	}
	a.sealed = sealed{blob: blob, wrap: wrap, keySize: n}
	return nil
}

// understandTrusted is understandBlob for a trusted key. The key's length comes from the
// table or the configuration; the blob must have the form in which a known trust source
// seals a key of that length.
func (a *adopting) understandTrusted(raw sealedFile) error {
	blob, err := raw.trusted()
	if err != nil {
		return fault.New(fault.BlobDamaged, a.o.Blob+": not the hexadecimal digits that `keyctl pipe` prints", err)
	}
	n := a.recipe.keySize
	if n == 0 || a.s.Protected && n == keysource.ProtectedSize {
		n = a.s.KeySize
	}
	if keysource.TrustOf(blob, n) == "" {
		return fault.Newf(fault.AdoptMismatch, "%s holds %d bytes, which no trust source seals a key of %d bytes in: table or key_size, and blob, do not belong together", a.o.Blob, len(blob), n)
	}
	a.sealed = sealed{blob: blob, wrap: caam.Wrap(a.s.KeyWrap()), keySize: n}
	return nil
}
