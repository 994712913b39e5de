// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// What a restore or a repair replaces is kept in a file of its own, named after the
// volume and the content. So a run that is interrupted and started again keeps what it
// finds each time, and never overwrites what an earlier run kept.

const (
	keptSuffix = ".header"
	// keptSumBytes is how many bytes of the content's SHA-256 are in the name.
	keptSumBytes = 8
)

func keptDir(s spec.Volume) string { return filepath.Join(s.StateDir, "headers") }

// keptPath returns the file that an area is kept in; empty if there is nothing to keep.
func keptPath(s spec.Volume, file string, area []byte) string {
	if blank.Erased(area) {
		return ""
	}
	if file != "" {
		return file
	}
	sum := sha256.Sum256(area)
	return filepath.Join(keptDir(s), s.Name+"-"+hex.EncodeToString(sum[:keptSumBytes])+keptSuffix)
}

// keepArea writes an area to its file, durably, and returns the file's path.
func (m *Manager) keepArea(s spec.Volume, file string, area []byte) (string, error) {
	path := keptPath(s, file, area)
	if path == "" {
		return "", nil
	}
	read := func() ([]byte, error) {
		return m.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea})
	}
	switch there, err := read(); {
	case err == nil && bytes.Equal(there, area):
		return path, m.sys.Files.Settle(path)
	case err == nil:
		return "", fault.Newf(fault.FileExists, "%s exists already", path)
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if err := m.sys.Files.Create(path, area, 0o600); err != nil {
		return "", fmt.Errorf("nothing was changed, because what is replaced must be saved first: %w (--keep names another file)", err)
	}
	if there, err := read(); err != nil || !bytes.Equal(there, area) {
		return "", fault.New(fault.IOFailed, path+" does not read back as it was written", err)
	}
	return path, nil
}

// keptFiles returns the files in the state directory that keep replaced headers of a
// volume: those with its name, and those with its UUID, since it may have had a different
// name then.
func (m *Manager) keptFiles(s spec.Volume, uuid string, j *runLog) ([]string, error) {
	names, err := m.sys.Files.List(keptDir(s))
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		rest, ours := strings.CutSuffix(name, keptSuffix)
		dash := strings.LastIndex(rest, "-")
		if !ours || dash < 0 {
			continue
		}
		// Skip a backup or --keep file that was put there.
		if b, err := hex.DecodeString(rest[dash+1:]); err != nil || len(b) != keptSumBytes {
			continue
		}
		path := filepath.Join(keptDir(s), name)
		if rest[:dash] != s.Name {
			is, err := m.keptOf(path, uuid)
			if err != nil { // and its name is another volume's
				j.warn(fmt.Sprintf("%s is left alone: cannot find out whose header it holds (%v); if it is this volume's, it opens the volume on this chip", path, err))
			}
			if !is {
				continue
			}
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// keptOf reports whether a kept header shows a volume's UUID and no other.
func (m *Manager) keptOf(path, uuid string) (bool, error) {
	area, err := m.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea})
	if err != nil {
		return false, err
	}
	traces, err := luks2.Traces(header.NewImage(area, int64(len(area))), int64(len(area)))
	if err != nil {
		return false, err
	}
	other := func(t luks2.Trace) bool { return t.UUID != uuid }
	return len(traces) > 0 && !slices.ContainsFunc(traces, other), nil
}

// keeps warns where the replaced header is kept. asked is the file that the caller named,
// empty if none.
func (j *runLog) keeps(asked string) {
	switch {
	case j.result.Kept == "":
	case asked != "":
		j.warn("what was there is kept in " + j.result.Kept + ": remove it once the volume was unlocked and its files are right")
	default:
		j.warn("what was there is kept in " + j.result.Kept + ": once the volume is unlocked and its files are right, `imxcrypt header repair " + j.result.Volume + "` removes it")
	}
}

// dropKept destroys the earlier headers kept in the state directory, once the volume is
// in use, the filesystem proves the key in the current header, and the kept ones show
// nothing that this header does not know.
func (r *repairing) dropKept(ctx context.Context) error {
	kept, err := r.keptFiles(r.s, r.h.LUKS.UUID, r.j)
	if err != nil || len(kept) == 0 {
		return err
	}
	if why := r.mayDrop(ctx); why != nil {
		r.j.warn("still kept, until the volume is unlocked and its filesystem proves its key (" + why.Error() + "): " + strings.Join(kept, ", "))
		return ctx.Err()
	}
	for _, path := range kept {
		area, err := r.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea})
		if err != nil {
			return err
		}
		if why := r.uniqueContent(area, path); why != nil {
			r.j.warn("still kept, for it may be needed: " + why.Error())
			continue
		}
		if r.o.DryRun {
			r.j.would("remove " + path)
			continue
		}
		if err := r.destroyOne(path); err != nil {
			return fmt.Errorf("kept header: %w", err)
		}
		r.j.warn("removed what was kept of an earlier header: " + path)
	}
	return nil
}

// mayDrop returns why the volume may still need its kept headers; nil if it does not.
func (r *repairing) mayDrop(ctx context.Context) error {
	info, err := r.sys.Mapper.Info(r.s.Mapping)
	if err != nil {
		return err
	}
	u := &unlocking{Manager: r.Manager, s: r.s, j: r.j, c: r.c, h: r.h}
	live, err := r.sys.Mapper.Table(r.s.Mapping)
	if err == nil {
		err = u.compareLive(info, live)
	}
	switch {
	case err != nil:
		return err
	case info.UUID != dmcrypt.VolumeUUID(r.h.LUKS.UUID, r.s.Mapping), info.Suspended:
		return fmt.Errorf("mapping %s is not this volume, or is suspended", r.s.Mapping)
	case r.h.UnderRotation():
		return errors.New("a rotation is under way")
	}
	if seen, err := r.seeThrough(r.s, info); !seen {
		return errors.Join(fmt.Errorf("mapping %s shows no filesystem", r.s.Mapping), err)
	}
	key, err := r.openProved(ctx, r.s, r.h, r.c, nil)
	if err != nil {
		return err
	}
	defer key.Wipe()
	return r.seeFilesystem(ctx, r.s, r.h, r.c, key)
}

// uniqueContent returns what a kept area has that nothing else may have: traces of another
// volume, a filesystem, a newer key or a rotation. It returns nil if there is no such
// thing.
func (r *repairing) uniqueContent(area []byte, path string) error {
	im := header.NewImage(area, int64(len(area)))
	traces, err := luks2.Traces(im, im.Size())
	if err != nil {
		return err
	}
	for _, trace := range traces {
		if trace.UUID != r.h.LUKS.UUID {
			return fmt.Errorf("%s is of another volume: uuid %q", path, trace.UUID)
		}
	}
	if len(traces) == 0 {
		if sign, err := fsprobe.Signature(im, im.Size()); err != nil || sign != "" {
			return errors.Join(fmt.Errorf("%s looks like the beginning of something else: %s", path, sign), err)
		}
	}
	newest, err := newestGeneration(area, r.h, path, false)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if newest > uint64(r.h.Token.Generation) {
		return fmt.Errorf("%s shows a key of generation %d, the header has that of generation %d", path, newest, r.h.Token.Generation)
	}
	return nil
}

func (r *repairing) destroyOne(path string) error {
	e := &erasing{Manager: r.Manager, s: r.s, j: r.j}
	files, err := e.openAll([]string{path})
	for _, f := range files {
		err = errors.Join(e.destroyFile(f), f.Close())
	}
	return err
}

// ofThisVolume leaves out headers of other volumes, which a forced restore has kept:
// those volumes may need them.
func (e *erasing) ofThisVolume(kept []string) (paths []string, err error) {
	for _, path := range kept {
		area, err := e.sys.Files.Read(path, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea})
		if err != nil {
			return nil, err
		}
		traces, err := luks2.Traces(header.NewImage(area, int64(len(area))), int64(len(area)))
		if err != nil {
			return nil, err
		}
		ours := func(t luks2.Trace) bool { return t.UUID == e.record.UUID }
		if len(traces) > 0 && !slices.ContainsFunc(traces, ours) {
			e.j.warn(fmt.Sprintf("%s is not destroyed: it is of another volume, uuid %q", path, traces[0].UUID))
			continue
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// destroyKept overwrites and removes the earlier headers kept in the state directory:
// each of them opens the volume on this chip.
func (e *erasing) destroyKept() error {
	for _, f := range e.kept {
		if err := e.destroyFile(f); err != nil {
			return fmt.Errorf("kept header: %w", err)
		}
		e.j.did("kept header destroyed: " + f.Path())
	}
	return nil
}
