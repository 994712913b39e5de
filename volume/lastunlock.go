// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"imxcrypt/internal/atomicfile"
)

// LastUnlock tells of the latest unlocking since the system started. It is for
// those who watch a fleet; nothing is decided by it.
type LastUnlock struct {
	// UUID and Generation are of the volume and key that were opened.
	UUID       string    `json:"uuid"`
	Generation int       `json:"generation"`
	At         time.Time `json:"at"`
	// Took is from the command's start until the volume was usable, the wait
	// for its device included.
	Took time.Duration `json:"took_ns"`
}

// UnlockRecords keeps one LastUnlock for each volume, until the power goes.
type UnlockRecords interface {
	Record(volume string, u LastUnlock) error
	// LastUnlock is an error wrapping [fs.ErrNotExist] where there is none.
	LastUnlock(volume string) (LastUnlock, error)
}

// recordUnlock keeps what an unlocking took. A failure is no reason to fail.
func (m *Manager) recordUnlock(s Spec, r Result, began time.Time) {
	if m.sys.Unlocks == nil || !r.opened {
		return
	}
	now := m.sys.Now()
	u := LastUnlock{UUID: r.UUID, Generation: r.Generation, At: now.UTC().Truncate(time.Millisecond), Took: now.Sub(began)}
	if err := m.sys.Unlocks.Record(s.Name, u); err != nil {
		m.sys.Log.Debug("how long unlocking took is not recorded", "volume", s.Name, "error", err)
	}
}

// lastUnlock adds the record, if it is of the volume as it is now.
func (m *Manager) lastUnlock(s Spec, st *Status) {
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
	if u.UUID == st.UUID {
		st.LastUnlock = &u
	}
}

// runRecords keeps the records under /run, which is gone at power-off.
type runRecords struct{ dir string }

func (r runRecords) path(volume string) string { return filepath.Join(r.dir, volume+".unlocked") }

func (r runRecords) Record(volume string, u LastUnlock) error {
	return atomicfile.Volatile(r.path(volume), append(u.json(), '\n'), 0o600)
}

// json is what encoding/json would make of it. Written out, since each boot does
// it: the tables that encoding/json makes for a struct take longer than the rest.
func (u LastUnlock) json() []byte {
	return fmt.Appendf(nil, `{"uuid":%q,"generation":%d,"at":"%s","took_ns":%d}`, u.UUID, u.Generation, u.At.Format(time.RFC3339Nano), u.Took.Nanoseconds())
}

func (r runRecords) LastUnlock(volume string) (u LastUnlock, err error) {
	data, err := atomicfile.Read(r.path(volume), atomicfile.ReadOptions{})
	if err != nil {
		return u, err
	}
	if err := json.Unmarshal(data, &u); err != nil {
		return u, fmt.Errorf("%s: %w", r.path(volume), err)
	}
	return u, nil
}
