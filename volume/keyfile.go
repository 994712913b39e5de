// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"imxcrypt/caam"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume/source"
)

// maxKeyFile is larger than any file of caam-keygen, in any of its forms.
const maxKeyFile = 4096

// KeyFileInfo describes a file of caam-keygen.
type KeyFileInfo = caam.Info

// MaxRedKey is the longest key that can be imported, in bytes.
const MaxRedKey = 32

// KeyFileRequest asks for files like those of NXP's caam-keygen.
type KeyFileRequest struct {
	Name string // of the files, in Dir
	Dir  string
	Wrap string // "ecb" or "ccm"
	Size int    // bytes of a random key: 16, 24 or 32; unused with Red
	// Red is a key to import; if nil, the chip makes one. The caller wipes it.
	Red *secret.Buffer
	// BlackKey writes the black key too, which should never be on storage.
	BlackKey bool
}

// CreateKeyFile makes a key and writes Dir/Name.bb, and the black key
// Dir/Name if asked. It returns the paths written. Existing files are left
// alone and are an error of code file-exists.
func (m *Manager) CreateKeyFile(ctx context.Context, r KeyFileRequest) ([]string, error) {
	wrap, err := caam.ParseWrap(r.Wrap)
	if err != nil {
		return nil, fault.New(fault.Usage, fmt.Sprintf("wrap %q is neither ecb nor ccm", r.Wrap), nil)
	}
	size := r.Size
	if r.Red != nil {
		size = r.Red.Len()
	}
	if !caam.IsAESKeySize(size) {
		return nil, fault.Newf(fault.Usage, "a key of %d bytes is of no use for tk(cbc(aes)): 16, 24 or 32", size)
	}
	if r.Name != filepath.Base(r.Name) || r.Name == "." || r.Name == ".." {
		return nil, fault.Newf(fault.Usage, "%q is not a file name", r.Name)
	}
	blobPath, keyPath := filepath.Join(r.Dir, r.Name+".bb"), filepath.Join(r.Dir, r.Name)
	paths := []string{blobPath}
	if r.BlackKey {
		paths = append(paths, keyPath)
	}
	// Check before the chip does any work; Create refuses existing files anyway.
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Newf(fault.FileExists, "%s exists already", p)
		}
	}
	chip, err := m.sys.Chip()
	if err != nil {
		return nil, err
	}
	var black *caam.BlackKey
	var blob caam.Blob
	if r.Red == nil {
		black, blob, err = chip.Create(ctx, wrap, size)
	} else if with, ok := chip.(source.PlainChip); ok {
		black, blob, err = with.CreateFrom(ctx, wrap, r.Red)
	} else {
		err = fault.Newf(fault.CAAMBadArgument, "this engine does not import plain keys: they would be seen in its arguments")
	}
	if err != nil {
		return nil, err
	}
	defer black.Wipe()
	if err := m.sys.Files.Create(blobPath, blob, 0o600); err != nil {
		return nil, err
	}
	if r.BlackKey {
		if err := m.sys.Files.Create(keyPath, black.Bytes(), 0o600); err != nil {
			return paths[:1], err
		}
	}
	return paths, nil
}

// ImportKeyFile opens the blob in a file, in any form that can be converted, and writes
// the black key to out; if out is empty, it only tries.
func (m *Manager) ImportKeyFile(ctx context.Context, blobPath, out string) (KeyFileInfo, error) {
	info, raw, err := m.readKeyFile(blobPath)
	if err != nil {
		return info, err
	}
	blob, err := caam.Convert(raw)
	if err != nil {
		return info, fault.New(fault.BlobDamaged, "not a blob", err)
	}
	chip, err := m.sys.Chip()
	if err != nil {
		return info, err
	}
	black, err := chip.Import(ctx, blob)
	if err != nil {
		return info, err
	}
	defer black.Wipe()
	if out == "" {
		return info, nil
	}
	return info, m.sys.Files.Create(out, black.Bytes(), 0o600)
}

// InspectKeyFile reports what a file of caam-keygen is.
func (m *Manager) InspectKeyFile(path string) (KeyFileInfo, error) {
	info, _, err := m.readKeyFile(path)
	return info, err
}

func (m *Manager) readKeyFile(path string) (KeyFileInfo, []byte, error) {
	raw, err := m.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: maxKeyFile})
	if errors.Is(err, atomicfile.ErrTooLarge) {
		// The file is not unsafe, just not a key.
		return KeyFileInfo{}, nil, fault.New(fault.BlobDamaged, "neither blob nor black key", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return KeyFileInfo{}, nil, fault.Newf(fault.FileMissing, "there is no such file")
	}
	if err != nil {
		return KeyFileInfo{}, nil, err
	}
	info, err := caam.Inspect(raw)
	if err != nil {
		return info, nil, err
	}
	return info, raw, nil
}
