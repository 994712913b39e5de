// SPDX-License-Identifier: Apache-2.0

// Package source provides volume keys. A [Source] creates a key, seals it into a
// blob for the header, and later opens the blob as a [Key] that dm-crypt can refer
// to. There is one file per source; [Sources.Of] selects one.
package source

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume/spec"
)

// Request identifies a key and gives its shape.
type Request struct {
	UUID       string // of the volume
	Generation int    // of the key, from 1
	Wrap       caam.Wrap
	KeySize    int // of the red key, in bytes
	// Trial is for a table through which nothing is read or written.
	Trial bool
}

// Source creates and opens keys. The caller owns each returned key and wipes it.
type Source interface {
	// Create makes a key and the blob to store in the token. The blob is empty if
	// the source keeps the key itself; a repeated Create then returns the same key.
	Create(ctx context.Context, r Request) (Key, []byte, error)
	// Sample makes a key like Create's that is kept nowhere.
	Sample(ctx context.Context, r Request) (Key, error)
	// Open returns the key that Create sealed. A blob of another chip, a damaged
	// blob and a key of another shape are errors that carry a fault code.
	Open(ctx context.Context, r Request, blob []byte) (Key, error)
}

// Importer is a source that can seal an existing red key. The caller keeps
// ownership of red.
type Importer interface {
	CreateFrom(ctx context.Context, r Request, red *secret.Buffer) (Key, []byte, error)
}

// Key is an opened key. Its owner wipes it.
type Key interface {
	// Use makes the key visible to one thread, under the given description, and
	// calls fn on that thread. The key is removed before Use returns. A wiped key
	// is an error, and fn is not called.
	Use(description string, fn func(dmcrypt.KeyRef) error) error
	// Wipe erases the key from memory. It may be called again.
	Wipe()
}

// Sources holds what the key sources need of the system.
type Sources struct {
	// Chip opens the CAAM. It is called for volumes of the caam source only.
	Chip    func() (Chip, error)
	Keyring Keyring
	Files   Files
	Rand    io.Reader
	Log     *slog.Logger
	// Warned remembers which volumes' sources were warned of. If it is nil, every call
	// warns.
	Warned *Warned
}

// Warned is the set of volumes whose source was warned of: once is enough.
type Warned struct{ volumes sync.Map }

func (w *Warned) already(volume string) bool {
	_, loaded := w.volumes.LoadOrStore(volume, true)
	return loaded
}

// Of returns the source of a volume. A volume that may not use its source is an
// error of code cipher-not-allowed or insecure-refused.
func (from Sources) Of(s spec.Volume) (Source, error) {
	if err := s.Permitted(); err != nil {
		return nil, err
	}
	switch s.Source {
	case spec.SourceCAAM:
		chip, err := from.Chip()
		if err != nil {
			return nil, err
		}
		return chipSource{chip: chip, ring: from.Keyring}, nil
	case spec.SourceTrusted:
		return trusted{ring: from.Keyring, want: s.Trusted.Source}, nil
	case spec.SourceDev:
		if from.Warned == nil || !from.Warned.already(s.Name) {
			from.Log.Warn("source dev protects nothing: its key is readable in a file", "volume", s.Name, "directory", s.StateDir)
		}
		return Dev{Files: from.Files, Dir: s.StateDir, random: from.Rand, ring: from.Keyring}, nil
	}
	return nil, fault.Newf(fault.ConfigInvalid, "key source %q does not exist", s.Source)
}

// logonKey is a payload in locked memory that becomes a logon key. The size given
// to dm-crypt is the payload's actual length, never a constant.
type logonKey struct {
	payload []byte
	release func()
	ring    Keyring
	// check validates the payload before each use; nil for plain keys.
	check func(payload []byte) error
}

// NewBlackKey returns a key for the CAAM driver. It takes ownership of black.
func NewBlackKey(black *caam.BlackKey, ring Keyring) Key {
	return &logonKey{payload: black.Bytes(), release: black.Wipe, ring: ring, check: caam.CheckKey}
}

// NewLogonKey returns a plain key. It takes ownership of b.
func NewLogonKey(b *secret.Buffer, ring Keyring) Key {
	return &logonKey{payload: b.Bytes(), release: b.Wipe, ring: ring}
}

func (k *logonKey) Use(description string, fn func(dmcrypt.KeyRef) error) error {
	if k.payload == nil {
		return fmt.Errorf("key %s was wiped already", description)
	}
	if k.check != nil {
		if err := k.check(k.payload); err != nil {
			return err
		}
	}
	return k.ring.WithLogonKey(description, k.payload, func() error {
		return fn(dmcrypt.KeyRef{Size: len(k.payload), Type: "logon", Description: description})
	})
}

func (k *logonKey) Wipe() {
	k.payload = nil
	k.release()
}

// Keyring adds a key to the keyring of one thread, runs use on that thread and removes
// the key.
type Keyring interface {
	WithLogonKey(description string, payload []byte, use func() error) error
	// WithTrustedKey has the kernel make or open a trusted key. sealed reads its blob as
	// hexadecimal digits.
	WithTrustedKey(description, command string, use func(sealed func() ([]byte, error)) error) error
}

// Files writes regular files so that they survive a power failure whole.
type Files interface {
	// Create makes a new file durably. A file that exists is [fs.ErrExist].
	Create(path string, data []byte, perm fs.FileMode) error
	// Replace creates a file or atomically replaces it.
	Replace(path string, data []byte, perm fs.FileMode) error
	// Settle makes durable a file that an interrupted run may have left.
	Settle(path string) error
	// Remove removes a file. A missing file is not an error.
	Remove(path string) error
	Read(path string, o atomicfile.ReadOptions) ([]byte, error)
	// Trusted returns an error if anyone but root can change or replace the file.
	Trusted(path string) error
	// List returns the names in a directory; none if it does not exist.
	List(dir string) ([]string, error)
}
