// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// LastUnlock describes the latest unlock since the system started. It is for monitoring;
// it decides only whether to look for a key that a suspend has killed.
type LastUnlock struct {
	// UUID and Generation are of the volume and key that were opened.
	UUID       string    `json:"uuid"`
	Generation int       `json:"generation"`
	At         time.Time `json:"at"`
	// Took is the time from the command's start until the volume was usable, including
	// the wait for its device.
	Took time.Duration `json:"took_ns"`
	// Slept is how often and how long the system had been suspended when the key was last
	// proved.
	Slept Slept `json:"slept"`
}

// UnlockRecords keeps one LastUnlock for each volume, until power-off.
type UnlockRecords interface {
	Record(volume string, u LastUnlock) error
	// LastUnlock returns an error wrapping [fs.ErrNotExist] if there is none.
	LastUnlock(volume string) (LastUnlock, error)
	// RecordFailure keeps why the latest unlock failed; nil means that it did not.
	RecordFailure(volume string, f *UnlockFailure) error
	// LastFailure returns an error wrapping [fs.ErrNotExist] if there is none.
	LastFailure(volume string) (UnlockFailure, error)
}

// UnlockFailure is why an unlock failed.
type UnlockFailure struct {
	At      time.Time  `json:"at"`
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
}

// recordOutcome keeps why an unlock failed until one succeeds. Errors that say nothing
// about the volume are not kept.
func (m *Manager) recordOutcome(s spec.Volume, err error) {
	if m.sys.Unlocks == nil {
		return
	}
	var f *UnlockFailure
	switch fault.CodeOf(err) {
	case fault.Interrupted, fault.LockHeld, fault.PermissionMissing:
		return
	}
	if err != nil {
		f = &UnlockFailure{At: m.sys.Now().UTC().Truncate(time.Millisecond), Code: fault.CodeOf(err), Message: err.Error()}
	}
	if err := m.sys.Unlocks.RecordFailure(s.Name, f); err != nil {
		m.sys.Log.Debug("could not record why unlocking failed", "volume", s.Name, "error", err)
	}
}

// recordUnlock keeps how long an unlock took. If that fails, the unlock still succeeds.
func (m *Manager) recordUnlock(s spec.Volume, r Result, began time.Time, slept Slept) {
	if m.sys.Unlocks == nil || !r.opened {
		return
	}
	now := m.sys.Now()
	u := LastUnlock{UUID: r.UUID, Generation: r.Generation, At: now.UTC().Truncate(time.Millisecond), Took: now.Sub(began), Slept: slept}
	if err := m.sys.Unlocks.Record(s.Name, u); err != nil {
		m.sys.Log.Debug("could not record how long unlocking took", "volume", s.Name, "error", err)
	}
}

// recordProof records that the key under a volume's mapping was proved. slept was read
// before that.
func (m *Manager) recordProof(s spec.Volume, uuid string, slept Slept) {
	if m.sys.Unlocks == nil || !slept.Since(Slept{}) {
		return // on a system that never slept the record is not used
	}
	u, err := m.sys.Unlocks.LastUnlock(s.Name)
	if err != nil || u.UUID != uuid {
		u = LastUnlock{UUID: uuid} // opened by another command
	} else if !slept.Since(u.Slept) {
		return
	}
	u.Slept = slept
	if err := m.sys.Unlocks.Record(s.Name, u); err != nil {
		m.sys.Log.Debug("could not record that the key was proved", "volume", s.Name, "error", err)
	}
}

// lastUnlock adds the record to st, if it is about the volume as it is now.
func (m *Manager) lastUnlock(s spec.Volume, st *Status) {
	if m.sys.Unlocks == nil {
		return
	}
	u, err := m.sys.Unlocks.LastUnlock(s.Name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			m.sys.Log.Debug("how long unlocking took cannot be read", "volume", s.Name, "error", err)
		}
		return
	}
	if u.UUID == st.UUID && !u.At.IsZero() {
		st.LastUnlock = &u
	}
}

// runRecords keeps the records under /run, which is gone at power-off.
type runRecords struct{ dir string }

func (r runRecords) path(volume string) string { return filepath.Join(r.dir, volume+".unlocked") }

func (r runRecords) failure(volume string) string { return filepath.Join(r.dir, volume+".failed") }

func (r runRecords) RecordFailure(volume string, f *UnlockFailure) error {
	if f == nil {
		if err := os.Remove(r.failure(volume)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return write(r.failure(volume), f)
}

func (r runRecords) LastFailure(volume string) (f UnlockFailure, err error) {
	err = read(r.failure(volume), &f)
	return f, err
}

func (r runRecords) Record(volume string, u LastUnlock) error { return write(r.path(volume), u) }

func (r runRecords) LastUnlock(volume string) (u LastUnlock, err error) {
	err = read(r.path(volume), &u)
	return u, err
}

func write(path string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return atomicfile.Volatile(path, append(data, '\n'), 0o600)
}

func read(path string, record any) error {
	data, err := atomicfile.Read(path, atomicfile.ReadOptions{})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, record); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
