// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/secret"
)

// DefaultLocation is where NXP's caam-keygen writes its files by default
// (KEYBLOB_LOCATION); other builds use other places.
const DefaultLocation = "/data/caam"

// Program is the engine that runs NXP's caam-keygen program, for BSPs whose driver has
// another ABI than [Ioctl]. The program leaves black keys in a fixed directory and exits
// with 0 on nearly every failure. So each call runs it in its own mount namespace with a
// memory filesystem over that directory, relies on the files left there, and moves the
// black key straight into locked memory. Several goroutines may use it at once. It needs
// root.
type Program struct {
	path     string
	location string
}

// OpenProgram finds the program. path is absolute, or empty for caam-keygen in the fixed
// PATH. location is the directory that the program was built to write to, or empty for
// [DefaultLocation]. The error is an [*Error] of kind NoProgram or BadArgument.
func OpenProgram(path, location string) (*Program, error) {
	if location == "" {
		location = DefaultLocation
	}
	if clean := filepath.Clean(location); !filepath.IsAbs(clean) || clean == "/" {
		return nil, &Error{Op: "open", Path: location, Kind: BadArgument, Reason: "the location of caam-keygen's files is not the absolute path of a directory"}
	}
	found, err := findProgram(path)
	if err != nil {
		return nil, err
	}
	return &Program{path: found, location: filepath.Clean(location)}, nil
}

func findProgram(path string) (string, error) {
	candidates := []string{path}
	if path == "" {
		path = "caam-keygen"
		candidates = nil
		for _, dir := range filepath.SplitList(fixedPATH) {
			candidates = append(candidates, filepath.Join(dir, path))
		}
	} else if !filepath.IsAbs(path) {
		return "", &Error{Op: "open", Path: path, Kind: BadArgument, Reason: "the program's path is not absolute"}
	}
	cause := error(unix.ENOENT)
	for _, file := range candidates {
		st, err := os.Stat(file)
		switch {
		case err != nil:
			if !errors.Is(err, unix.ENOENT) {
				cause = err
			}
		case !st.Mode().IsRegular() || st.Mode().Perm()&0o111 == 0:
			cause = unix.EACCES
		default:
			return file, nil
		}
	}
	return "", &Error{Op: "open", Path: path, Kind: NoProgram, Reason: "the program is not there, or cannot be run", Err: cause}
}

// Close does nothing; it exists to match [Ioctl].
func (p *Program) Close() error { return nil }

// The names of the files within the location.
const (
	keyName  = "imxcrypt"
	blobName = keyName + ".bb"
	inName   = "imxcrypt-import.bb"
)

// Create is like [Ioctl.Create]. Cancelling ctx ends the program.
func (p *Program) Create(ctx context.Context, w Wrap, keySize int) (*BlackKey, Blob, error) {
	if why := unfit(w, keySize); why != "" {
		return nil, nil, p.fail("create", BadArgument, why, nil)
	}
	var key *BlackKey
	var blob Blob
	err := p.fenced(ctx, "create", func() error {
		defer p.scrub()
		out, err := p.run(ctx, "create", keyName, string(w), "-s", strconv.Itoa(keySize))
		if err != nil {
			return err
		}
		if blob, err = p.takeBlob(out); err != nil {
			return err
		}
		key, err = p.takeKey("create", out)
		return err
	})
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	for _, o := range []object{key, blob} {
		if why := mismatch(o, w, keySize); why != "" {
			key.Wipe()
			return nil, nil, p.fail("create", Mismatch, why, nil)
		}
	}
	return key, blob, nil
}

// CreateFrom is always refused as a bad argument: the program accepts a red key only as a
// command-line argument, which every process can read.
func (p *Program) CreateFrom(context.Context, Wrap, *secret.Buffer) (*BlackKey, Blob, error) {
	return nil, nil, p.fail("create", BadArgument, "caam-keygen takes a given key in its arguments only, for all to see; the ioctl engine can do it", nil)
}

// Import is like [Ioctl.Import]. The program does not distinguish a rejected blob from
// other hardware failures; a failure without a message counts as a rejection, which it
// nearly always is.
func (p *Program) Import(ctx context.Context, blob Blob) (*BlackKey, error) {
	blob, err := ParseBlob(blob)
	if err != nil {
		return nil, p.fail("import", Damaged, reason(err), nil)
	}
	var key *BlackKey
	err = p.fenced(ctx, "import", func() error {
		defer p.scrub()
		in := filepath.Join(p.location, inName)
		if err := os.WriteFile(in, blob, 0o600); err != nil {
			return p.fail("import", Failed, "hand the blob over", err)
		}
		out, err := p.run(ctx, "import", in, keyName)
		if err != nil {
			return err
		}
		key, err = p.takeKey("import", out)
		return err
	})
	if err != nil {
		key.Wipe()
		return nil, err
	}
	if why := mismatch(key, blob.Wrap(), blob.RedKeyLen()); why != "" {
		key.Wipe()
		return nil, p.fail("import", Mismatch, why, nil)
	}
	return key, nil
}

// fenced runs work inside the fence and classifies failures of the fence itself. The
// caller wipes a black key that work has taken.
func (p *Program) fenced(ctx context.Context, op string, work func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := fenced(p.location, work)
	var typed *Error
	switch {
	case err == nil, errors.As(err, &typed), ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return err
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, errRootNotMounted):
		return p.fail(op, NoPermission, "fence the program in", err)
	default:
		return p.fail(op, Failed, "fence the program in", err)
	}
}

// takeBlob reads the blob that the program should have written.
func (p *Program) takeBlob(out outcome) (Blob, error) {
	mem, err := p.take("create", blobName, MaxBlobSize, out)
	if err != nil {
		return nil, err
	}
	defer mem.Wipe()
	blob, err := ParseBlob(mem.Bytes())
	if err != nil {
		return nil, out.explain(p.fail("create", Failed, "the program left an invalid blob: "+reason(err), nil))
	}
	return blob, nil
}

func (p *Program) takeKey(op string, out outcome) (*BlackKey, error) {
	mem, err := p.take(op, keyName, MaxBlackKeySize, out)
	if err != nil {
		return nil, err
	}
	key, err := NewBlackKey(mem)
	if err != nil {
		return nil, out.explain(p.fail(op, Failed, "the program left an invalid black key: "+reason(err), nil))
	}
	return key, nil
}

// take moves a file out of the location into locked memory: the file is overwritten and
// removed. A missing file means that the program failed.
func (p *Program) take(op, name string, atMost int, out outcome) (*secret.Buffer, error) {
	path := filepath.Join(p.location, name)
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, out.failure(p.fail(op, Failed, "the program left no "+name, nil))
	}
	if err != nil {
		return nil, p.fail(op, Failed, "take the program's file", err)
	}
	mem, err := drain(file, atMost)
	if err = errors.Join(err, file.Close(), os.Remove(path)); err != nil {
		mem.Wipe()
		return nil, out.explain(p.fail(op, Failed, "take the program's file "+name, err))
	}
	return mem, nil
}

// scrub overwrites a black key that was not taken because of an earlier failure:
// unmounting a filesystem frees its pages without wiping them.
func (p *Program) scrub() {
	file, err := os.OpenFile(filepath.Join(p.location, keyName), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	// Nothing more can be done if this fails; the file disappears with the fence.
	mem, _ := drain(file, MaxBlackKeySize)
	mem.Wipe()
	_ = file.Close()
}

// drain reads a file of 1 to atMost bytes and fills it with zeros. The caller
// owns the Buffer.
func drain(file *os.File, atMost int) (*secret.Buffer, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() < 1 || st.Size() > int64(atMost) {
		return nil, fmt.Errorf("a file of %d bytes and mode %v, want 1 to %d bytes", st.Size(), st.Mode(), atMost)
	}
	mem, err := secret.New(int(st.Size()))
	if err != nil {
		return nil, err
	}
	if n, err := file.ReadAt(mem.Bytes(), 0); n != mem.Len() {
		mem.Wipe()
		return nil, err
	}
	if _, err := file.WriteAt(make([]byte, mem.Len()), 0); err != nil {
		mem.Wipe()
		return nil, err
	}
	return mem, nil
}

func (p *Program) fail(op string, kind Kind, reason string, err error) *Error {
	return &Error{Op: op, Path: p.path, Kind: kind, Reason: reason, Err: err}
}
