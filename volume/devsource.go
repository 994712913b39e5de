// SPDX-License-Identifier: Apache-2.0

package volume

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

// devSource keeps random keys in files of the state directory, readable to
// root: any Linux machine can try the program, nothing is protected.
type devSource struct {
	files  Files
	dir    string
	random io.Reader
	ring   Keyring
}

func (d devSource) path(r keyRequest) string {
	return filepath.Join(d.dir, "dev", fmt.Sprintf("%s-%d.key", r.uuid, r.generation))
}

// paths are the key files of all generations of a volume that are there, also of
// those that no header names any more.
func (d devSource) paths(uuid string) ([]string, error) {
	dir := filepath.Join(d.dir, "dev")
	names, err := d.files.List(dir)
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

// create makes the key file, or takes the one that an interrupted provisioning
// of the same volume left: nothing was encrypted with it yet.
func (d devSource) create(ctx context.Context, r keyRequest) (liveKey, []byte, error) {
	buf, err := secret.New(r.keySize)
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.ReadFull(d.random, buf.Bytes()); err != nil {
		buf.Wipe()
		return nil, nil, fmt.Errorf("draw a key: %w", err)
	}
	err = d.files.Create(d.path(r), buf.Bytes(), 0o600)
	if errors.Is(err, fs.ErrExist) {
		buf.Wipe()
		// That one may have been killed before the file was durable.
		if err := d.files.Settle(d.path(r)); err != nil {
			return nil, nil, err
		}
		key, err := d.open(ctx, r, nil)
		return key, nil, err
	}
	if err != nil {
		buf.Wipe()
		return nil, nil, err
	}
	return newLogonKey(buf, d.ring), nil, nil
}

func (d devSource) open(_ context.Context, r keyRequest, _ []byte) (liveKey, error) {
	raw, err := d.files.Read(d.path(r), atomicfile.ReadOptions{MaxSize: 64, RootOwned: true, Forbid: 0o077})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.KeyFileDamaged, "key of source dev", err)
	}
	if err != nil {
		return nil, fmt.Errorf("key of source dev: %w", err)
	}
	defer clear(raw)
	if len(raw) != r.keySize {
		return nil, refuse(fault.KeyFileDamaged, "%s holds %d bytes, the key has %d", d.path(r), len(raw), r.keySize)
	}
	buf, err := secret.New(len(raw))
	if err != nil {
		return nil, err
	}
	copy(buf.Bytes(), raw)
	return newLogonKey(buf, d.ring), nil
}
