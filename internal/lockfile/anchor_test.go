// SPDX-License-Identifier: Apache-2.0

package lockfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

func newAnchor(t *testing.T, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control")
	if err := os.WriteFile(path, nil, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// If there is no room for the file, the lock still excludes others, even those that come
// when there is room again.
func TestALockNeedsNoRoom(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	noRoom := func(string, string) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: dir, Err: unix.ENOSPC}
	}
	full, roomy := place{newAnchor(t, 0o600), noRoom}, place{"", open}
	roomy.anchor = full.anchor
	if _, err := (place{"/nonexistent", noRoom}).acquire(dir, "data"); fault.CodeOf(err) != fault.StorageFull {
		t.Fatalf("without an anchor: %v (code %s), expected storage-full", err, fault.CodeOf(err))
	}
	heldBySomebody := func(when string, p place) {
		t.Helper()
		var held *HeldError
		if _, err := p.acquire(dir, "data"); !errors.As(err, &held) {
			t.Fatalf("%s: %v, expected it held", when, err)
		}
	}
	l, err := full.acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	heldBySomebody("without room", full)
	heldBySomebody("with room again", roomy)
	other, err := full.acquire(dir, "log")
	if err != nil {
		t.Fatalf("another volume: %v", err)
	}
	if err := errors.Join(l.Release(), other.Release()); err != nil {
		t.Fatal(err)
	}
	if l, err = roomy.acquire(dir, "data"); err != nil {
		t.Fatal(err)
	}
	heldBySomebody("taken while there was room", full)
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// A lock is taken even if its holder cannot be recorded.
func TestALockWithoutRoomForItsHolder(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := (place{newAnchor(t, 0o600), open}).acquire(dir, "data")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	record(f)
	if err := l.Release(); err != nil {
		t.Error(err)
	}
}

// A killed process that the file names is not reported as the holder of the anchor.
func TestTheHolderOfTheAnchorIsNotTakenForTheFiles(t *testing.T) {
	t.Parallel()
	dir, anchor := folder(t), newAnchor(t, 0o600)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "data.lock")
	if err := os.WriteFile(path, []byte(`{"pid":1,"command":"init"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f, busy := lockAnchor(anchor, path)
	if f == nil || busy {
		t.Fatal("no lock on the anchor")
	}
	defer f.Close()
	var held *HeldError
	if _, err := (place{anchor, open}).acquire(dir, "data"); !errors.As(err, &held) || held.PID != 0 {
		t.Errorf("%+v, %v", held, err)
	}
}

// An anchor that others can open is not used: they could keep us out.
func TestAnAnchorIsOursAlone(t *testing.T) {
	t.Parallel()
	if f, busy := lockAnchor(newAnchor(t, 0o640), "/run/imxcrypt/data.lock"); f != nil || busy {
		t.Errorf("%v, %v", f, busy)
	}
}
