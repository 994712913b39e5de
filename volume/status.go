// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"strings"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
)

// State is where a volume stands.
type State string

// The states of a volume.
const (
	Unprovisioned State = "unprovisioned"
	Locked        State = "locked"
	Unlocked      State = "unlocked"
	Mounted       State = "mounted"
	Damaged       State = "damaged"
	Absent        State = "absent"
	// Erasing: erase was interrupted, and the next one finishes it.
	Erasing State = "erasing"
	// Unknown: the device is there, and it, or the kernel's mappings, cannot be
	// looked at.
	Unknown State = "unknown"
)

// States are all of them.
func States() []State {
	return []State{Unprovisioned, Locked, Unlocked, Mounted, Damaged, Absent, Erasing, Unknown}
}

// Status is what can be told of a volume without its key.
type Status struct {
	Name   string
	Device string // as configured
	// Path is where the device was found; empty if it was not.
	Path          string
	UUID          string
	State         State
	Phase         Phase
	Generation    int
	Source        string
	Wrap          string
	KeySize       int // bytes
	Cipher        string
	SectorSize    int // bytes
	Header        string
	SecurityState string
	Mapping       string // the node's path; empty while locked
	MountPath     string // as configured
	Mounted       bool
	Size          int64 // bytes of data
	// Recipients are whom a recovery copy of the key is sealed to; none if there
	// is no such copy.
	Recipients []string
	// Rotation is how far a rotation is; nil where none is under way.
	Rotation *Rotation
	// Created is when the key was made, by the clock of then; zero if unknown.
	Created time.Time
	// LastUnlock is the latest unlocking since the system started; nil if there
	// was none or nothing is known of it.
	LastUnlock *LastUnlock
	// Err is what is wrong with the volume, nil if nothing is.
	Err error
}

// Up tells whether the volume can be used.
func (st Status) Up() bool { return st.State == Unlocked || st.State == Mounted }

// Status looks at a volume. It waits for nothing and changes nothing, except
// that a zone which a killed rotation holds is let go on, if nobody works on the
// volume. What is wrong is in the result.
func (m *Manager) Status(ctx context.Context, s Spec) Status {
	st := m.look(ctx, s)
	if fault.Is(st.Err, fault.MappingMismatch) {
		// Header and mapping are not read in one moment: a rotation may have
		// begun or ended in between.
		st = m.look(ctx, s)
	}
	if st.Phase == PhaseRotating && st.Mapping != "" {
		if err := m.settleAbandoned(ctx, s); err != nil && st.Err == nil {
			st.Err = failed(ctx, "status", s, err)
		}
	}
	if st.Err == nil && st.Mapping != "" && m.staysSuspended(s) {
		st.Err = failed(ctx, "status", s, refuse(fault.StaysSuspended, "mapping %s is suspended, whoever uses it waits", s.Mapping))
	}
	return st
}

// momentSuspended is longer than a mapping is suspended to have its table changed.
const momentSuspended = 50 * time.Millisecond

// staysSuspended tells whether a mapping is suspended for longer than a moment.
// One that was never announced is what a killed unlock left: nobody uses it.
func (m *Manager) staysSuspended(s Spec) bool {
	if info, err := m.sys.Mapper.Info(s.Mapping); err != nil || !info.Suspended {
		return false
	}
	if announced, err := m.sys.Mapper.Announced(s.Mapping); err != nil || !announced {
		return false
	}
	time.Sleep(momentSuspended)
	info, err := m.sys.Mapper.Info(s.Mapping)
	return err == nil && info.Suspended
}

func (m *Manager) look(ctx context.Context, s Spec) Status {
	st := Status{
		Name: s.Name, Device: s.Device, Source: s.Source, Wrap: s.Wrap, KeySize: s.KeySize, Cipher: s.Cipher,
		SectorSize: s.SectorSize, Header: s.Header, MountPath: s.Mount.Path, State: Absent,
	}
	live, err := m.liveState(s, &st)
	if storedErr := m.storedState(ctx, s, &st, live); err == nil {
		err = storedErr
	} else if st.State == Locked && fault.Is(err, fault.PermissionMissing) {
		st.State = Unknown // it may be unlocked
	}
	st.Err = failed(ctx, "status", s, err)
	return st
}

// liveState asks device-mapper and the mount table; nil where no mapping of the
// volume's name can be the volume's.
func (m *Manager) liveState(s Spec, st *Status) (*dmcrypt.Info, error) {
	info, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) || !strings.HasSuffix(info.UUID, "-"+s.Mapping) {
		return nil, refuse(fault.MappingMismatch, "mapping %s exists and is not a volume of ours: its uuid is %q", s.Mapping, info.UUID)
	}
	targets, err := m.mountPoints(info)
	st.Mounted = len(targets) > 0
	if announced, err := m.sys.Mapper.Announced(s.Mapping); err == nil && untold(info, announced) {
		// With the key in it, but of use to nobody.
		m.sys.Log.Warn("there is a mapping that nobody was told of: an unlock is at work, or was interrupted; then the next one makes it anew, and `imxcrypt lock` takes it away", "mapping", s.Mapping)
	} else {
		st.Mapping = "/dev/mapper/" + s.Mapping
	}
	return &info, err
}

// storedState reads the header. live is the mapping of the volume's name, which
// turns out to be another volume's only when the header is read.
func (m *Manager) storedState(ctx context.Context, s Spec, st *Status, live *dmcrypt.Info) error {
	path, err := m.sys.Devices.Find(ctx, s.Device)
	if err != nil {
		if fault.Is(err, fault.PermissionMissing) {
			st.State = Unknown
		}
		return err
	}
	st.Path, st.State = path, Unknown
	c, err := m.openContainer(s, path, blockdev.Flags{})
	if err != nil {
		if fault.Is(err, fault.NotProvisioned) {
			st.State = Unprovisioned
		}
		return err
	}
	defer c.close()
	h, err := readHeader(c)
	if err != nil {
		switch {
		case fault.Is(err, fault.NotProvisioned), fault.Is(err, fault.ProvisioningStarted):
			st.State = Unprovisioned
		case fault.Is(err, fault.EraseStarted):
			st.State = Erasing
		default:
			st.State = Damaged
		}
		return err
	}
	st.UUID, st.Phase, st.Generation = h.luks.UUID, h.token.Phase, h.token.Generation
	st.Source, st.Wrap, st.KeySize = h.token.Source, string(h.token.Wrap), h.token.KeySize
	st.Cipher, st.SectorSize = h.segment.Encryption, h.segment.SectorSize
	st.SecurityState, st.Size, st.Created = string(h.token.State), h.segment.Size, h.token.Created
	m.lastUnlock(s, st)
	if live != nil && live.UUID != dmcrypt.VolumeUUID(h.luks.UUID, s.Mapping) {
		st.Mapping, st.Mounted = "", false
	}
	rotationErr := h.rotationStatus(c, st)
	st.Recipients = h.token.Recovery.Recipients
	switch {
	case st.Mounted:
		st.State = Mounted
	case st.Mapping != "":
		st.State = Unlocked
	case h.token.Phase == PhaseErasing:
		st.State = Erasing
	case h.token.Phase == PhaseProvisioning:
		st.State = Unprovisioned
	default:
		st.State = Locked
	}
	return errors.Join(rotationErr, m.statusProblem(ctx, s, h, c, live != nil))
}

func (m *Manager) statusProblem(ctx context.Context, s Spec, h *header, c *container, live bool) error {
	if err := m.mayOpen(s, h, m.begin(s, nil)); err != nil {
		return err
	}
	if !live {
		return nil
	}
	u := &unlocking{Manager: m, s: s, o: UnlockOptions{DryRun: true}, j: m.begin(s, nil), c: c, h: h}
	_, err := u.alreadyOpen(ctx)
	return err
}
