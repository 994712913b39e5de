// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// Dev keeps random keys in files below the state directory, readable by root. It
// protects nothing: it is for trying the program without a CAAM.
type Dev struct {
	Files  Files
	Dir    string
	random io.Reader
	ring   Keyring
}

// Path returns the path of a key file.
func (d Dev) Path(r Request) string {
	return filepath.Join(d.Dir, "dev", fmt.Sprintf("%s-%d.key", r.UUID, r.Generation))
}

// Paths returns the existing key files of a volume, including those of generations
// that no header names any more.
func (d Dev) Paths(uuid string) ([]string, error) {
	dir := filepath.Join(d.Dir, "dev")
	names, err := d.Files.List(dir)
	if err != nil {
		return nil, fmt.Errorf("look for key files: %w", err)
	}
	var paths []string
	for _, name := range names {
		generation, ours := strings.CutPrefix(name, uuid+"-")
		generation, key := strings.CutSuffix(generation, ".key")
		if _, err := strconv.ParseUint(generation, 10, 64); ours && key && err == nil {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths, nil
}

// Create makes the key file, or uses the one that an interrupted provisioning
// of the same volume left: nothing was encrypted with it yet.
func (d Dev) Create(ctx context.Context, r Request) (Key, []byte, error) {
	buf, err := d.draw(r.KeySize)
	if err != nil {
		return nil, nil, err
	}
	err = d.Files.Create(d.Path(r), buf.Bytes(), 0o600)
	if errors.Is(err, fs.ErrExist) {
		buf.Wipe()
		// The run that made it may have been killed before it was durable.
		if err := d.Files.Settle(d.Path(r)); err != nil {
			return nil, nil, err
		}
		key, err := d.Open(ctx, r, nil)
		return key, nil, err
	}
	if err != nil {
		buf.Wipe()
		return nil, nil, err
	}
	return NewLogonKey(buf, d.ring), nil, nil
}

// Sample makes no file.
func (d Dev) Sample(_ context.Context, r Request) (Key, error) {
	buf, err := d.draw(r.KeySize)
	if err != nil {
		return nil, err
	}
	return NewLogonKey(buf, d.ring), nil
}

func (d Dev) draw(size int) (*secret.Buffer, error) {
	buf, err := secret.New(size)
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(d.random, buf.Bytes()); err != nil {
		buf.Wipe()
		return nil, fmt.Errorf("draw a key: %w", err)
	}
	return buf, nil
}

// Open reads the key file. A missing file or one of the wrong size is an error of
// code key-file-damaged; one that others can read is refused.
func (d Dev) Open(_ context.Context, r Request, _ []byte) (Key, error) {
	raw, err := d.Files.Read(d.Path(r), atomicfile.ReadOptions{MaxSize: 64, RootOwned: true, Forbid: 0o077})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.KeyFileDamaged, "key of source dev", err)
	}
	if err != nil {
		return nil, fmt.Errorf("key of source dev: %w", err)
	}
	defer clear(raw)
	if len(raw) != r.KeySize {
		return nil, fault.Newf(fault.KeyFileDamaged, "%s holds %d bytes, the key has %d", d.Path(r), len(raw), r.KeySize)
	}
	buf, err := secret.New(len(raw))
	if err != nil {
		return nil, err
	}
	copy(buf.Bytes(), raw)
	return NewLogonKey(buf, d.ring), nil
}
