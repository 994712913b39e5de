// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// State is the state of a volume.
type State string

// The states of a volume.
const (
	Unprovisioned State = "unprovisioned"
	Locked        State = "locked"
	Unlocked      State = "unlocked"
	Mounted       State = "mounted"
	Damaged       State = "damaged"
	Absent        State = "absent"
	// HeaderMissing: there was a volume, and its header is gone.
	HeaderMissing State = "header-missing"
	// Erasing: erase was interrupted, and the next one finishes it.
	Erasing State = "erasing"
	// Keyless: unlocked, perhaps mounted, but the key in the kernel is lost. Nothing can
	// be read or written.
	Keyless State = "keyless"
	// Unknown: the device is there, but it or the kernel's mappings cannot be examined.
	Unknown State = "unknown"
)

// States returns all states.
func States() []State {
	return []State{Unprovisioned, Locked, Unlocked, Mounted, Damaged, HeaderMissing, Absent, Erasing, Keyless, Unknown}
}

// Status is what is known of a volume without its key.
type Status struct {
	Name   string
	Device string // as configured
	// Path is where the device was found; empty if it was not.
	Path       string
	UUID       string
	State      State
	Phase      header.Phase
	Generation int
	Source     string
	// Trust is the trust source that seals a trusted key; empty for any.
	Trust         string
	Wrap          string
	KeySize       int // bytes
	Cipher        string
	SectorSize    int // bytes
	Header        string
	SecurityState string
	Mapping       string // the node's path; empty while locked
	MountPath     string // as configured
	// Mounted reports whether it is mounted where the configuration says, or anywhere if
	// that names no place.
	Mounted bool
	Size    int64 // bytes of data
	// Recipients are the recipients of a recovery copy of the key; none if there is no
	// such copy.
	Recipients []string
	// RecoveryPassphrase reports whether a copy opens with a passphrase.
	RecoveryPassphrase bool
	// RecoveryFingerprint is the fingerprint of the copies.
	RecoveryFingerprint string
	// Rotation is the progress of a rotation; nil if none is under way.
	Rotation *Rotation
	// Created is when the key was made, by the clock at that time; zero if unknown.
	Created time.Time
	// LastUnlock is the latest unlock since the system started; nil if there was none or
	// none is known.
	LastUnlock *LastUnlock
	// LastFailure is why the latest unlock since the start failed; nil if the volume is
	// up or no failure is known.
	LastFailure *UnlockFailure
	// IntactHeader reports whether both copies were read and are good.
	IntactHeader bool
	// Warnings need attention but keep no one from the data. Each has a code.
	Warnings []error
	// Err is what is wrong with the volume, nil if nothing is.
	Err error
	// misused says how the use of an open volume differs from the configuration.
	misused error
}

// Up reports whether the volume can be used as configured: it is mounted if it has a
// mount point, otherwise unlocked.
func (st Status) Up() bool {
	return st.State == Mounted || st.State == Unlocked && st.MountPath == ""
}

// Problem returns what is wrong with the volume, or with how it is used; nil if nothing
// is.
func (st Status) Problem() error {
	if st.Err != nil {
		return st.Err
	}
	return st.misused
}

// Status examines a volume. It waits for no device and changes nothing, except that it
// releases a zone that a killed rotation holds, if no one works on the volume. What is
// wrong is in the result.
func (m *Manager) Status(ctx context.Context, s spec.Volume) Status {
	st := m.look(ctx, s)
	if fault.Is(st.Err, fault.MappingMismatch) {
		// Header and mapping are not read at the same time: a rotation may have begun or
		// ended in between.
		st = m.look(ctx, s)
	}
	if st.Rotation != nil && st.Mapping != "" {
		if err := m.settleAbandoned(ctx, s); err != nil && st.Err == nil {
			st.Err = Failed(ctx, "status", s, err)
		}
	}
	if st.Err == nil && st.Mapping != "" && m.staysSuspended(s) {
		st.Err = Failed(ctx, "status", s, fault.Newf(fault.StaysSuspended, "mapping %s is suspended, and its users wait", s.Mapping))
	}
	return st
}

// momentSuspended is longer than a mapping stays suspended while its table is changed.
const momentSuspended = 50 * time.Millisecond

// staysSuspended reports whether a mapping is suspended for longer than a moment. One
// that was never announced was left by a killed unlock: no one uses it.
func (m *Manager) staysSuspended(s spec.Volume) bool {
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

func (m *Manager) look(ctx context.Context, s spec.Volume) Status {
	st := Status{
		Name: s.Name, Device: s.Device, Source: s.Source, Trust: s.Trusted.Source, Wrap: s.Wrap, KeySize: s.KeySize, Cipher: s.Cipher,
		SectorSize: s.SectorSize, Header: s.Header, MountPath: s.Mount.Path, State: Absent,
	}
	if s.Swap() {
		st.MountPath = spec.FilesystemSwap // so that it is up only while it is swapped on
	}
	live, err := m.liveState(s, &st)
	if storedErr := m.storedState(ctx, s, &st, live); err == nil {
		err = storedErr
	} else if st.State == Locked && fault.Is(err, fault.PermissionMissing) {
		st.State = Unknown // it may be unlocked
	}
	st.Err, st.misused = Failed(ctx, "status", s, err), Failed(ctx, "status", s, st.misused)
	if !st.Up() && m.sys.Unlocks != nil {
		if f, err := m.sys.Unlocks.LastFailure(s.Name); err == nil {
			st.LastFailure = &f
		}
	}
	return st
}

// liveState asks device-mapper and the mount table. It returns nil if no mapping of the
// volume's name can be the volume's.
func (m *Manager) liveState(s spec.Volume, st *Status) (*dmcrypt.Info, error) {
	info, err := m.sys.Mapper.Info(s.Mapping)
	if errors.Is(err, dmcrypt.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) || !strings.HasSuffix(info.UUID, "-"+s.Mapping) {
		return nil, fault.Newf(fault.MappingMismatch, "mapping %s exists and is not an imxcrypt volume: its uuid is %q", s.Mapping, info.UUID)
	}
	err = m.mountState(s, info, st)
	if announced, err := m.sys.Mapper.Announced(s.Mapping); err == nil && unannounced(info, announced) {
		// It has the key, but is of no use to anyone.
		m.sys.Log.Warn("unannounced mapping: an unlock is at work, or was interrupted; the next unlock makes it again, and `imxcrypt lock` removes it", "mapping", s.Mapping)
		st.misused = nil
	} else {
		st.Mapping = "/dev/mapper/" + s.Mapping
	}
	return &info, err
}

// mountState compares where the volume is mounted with the configuration.
func (m *Manager) mountState(s spec.Volume, info dmcrypt.Info, st *Status) error {
	if s.Swap() {
		return m.swapState(info, st)
	}
	targets, err := m.mountPoints(info)
	st.Mounted = len(targets) > 0
	if err != nil || s.Mount.Path == "" {
		return err
	}
	at, err := m.sys.Mounts.Look(s.Mount.Path)
	if err != nil {
		return err
	}
	st.Mounted = at.State == mount.TargetOccupied && isMountOf(at.Mounted, info)
	switch {
	case st.Mounted && at.Mounted.ReadOnly() && !slices.Contains(s.Mount.Options, "ro"):
		st.misused = fault.Newf(fault.MountedReadOnly, "mounted read-only on %s, and the configuration asks for read-write", s.Mount.Path)
	case st.Mounted:
	case len(targets) == 0:
		st.misused = fault.Newf(fault.NotMounted, "unlocked and not mounted on %s", s.Mount.Path)
	case slices.Contains(targets, at.Path):
		st.misused = fault.Newf(fault.NotMounted, "something else is mounted over the volume on %s", s.Mount.Path)
	default:
		st.misused = fault.Newf(fault.NotMounted, "mounted on %s and not on %s", strings.Join(targets, ", "), s.Mount.Path)
	}
	return nil
}

// storedState reads the header. live is the mapping of the volume's name; only the header
// shows whether it is another volume's.
func (m *Manager) storedState(ctx context.Context, s spec.Volume, st *Status, live *dmcrypt.Info) error {
	path, err := m.locateUnattached(ctx, s)
	if err != nil {
		if fault.Is(err, fault.PermissionMissing) {
			st.State = Unknown
		}
		return err
	}
	st.Path, st.State = path, Unknown
	if s.Ephemeral() {
		return m.scratchState(ctx, s, st, path, live)
	}
	c, h, err := m.openHeader(s, path, blockdev.Flags{})
	if err != nil {
		switch fault.CodeOf(err) {
		case fault.NotProvisioned, fault.VolumeGone, fault.ProvisioningStarted:
			st.State = Unprovisioned
		case fault.EraseStarted:
			st.State = Erasing
		case fault.PartitionShrunk, fault.EncryptionStarted, fault.DecryptionEnding:
			st.State = Locked // its header is good
		case fault.HeaderMissing:
			st.State = HeaderMissing
		case fault.HeaderDamaged, fault.HeaderInvalid, fault.HeaderVersion, fault.HeaderRequirement, fault.PlaintextFound, fault.ShrinkStarted, fault.ForeignHeader, fault.IOFailed:
			st.State = Damaged
		}
		return err
	}
	defer c.Close()
	k := h.KeySide()
	st.UUID, st.Phase, st.Generation = h.LUKS.UUID, k.Token.Phase, k.Token.Generation
	st.Source, st.Trust, st.Wrap, st.KeySize = k.Token.Source, k.Token.Trust(), string(k.Token.Wrap), k.Token.KeySize
	st.Cipher, st.SectorSize = k.Segment.Encryption, k.Segment.SectorSize
	st.SecurityState, st.Size, st.Created = string(k.Token.State), h.Segment.Size, k.Token.Created
	if st.IntactHeader = h.Copies.Intact(); !st.IntactHeader && k.Token.Phase == header.PhaseReady {
		st.Warnings = append(st.Warnings, fault.Newf(fault.HeaderCopyDamaged, "one copy of the header is damaged: %s; the other one is used", h.Copies.Damage()))
	}
	if n := h.UnusedSpace(s, c); n > 0 {
		st.Warnings = append(st.Warnings, fault.Newf(fault.PartitionGrown, "%s has grown since the volume was made: %d MiB of it are not used", path, n/header.MiB))
	}
	m.lastUnlock(s, st)
	if live != nil && live.UUID != dmcrypt.VolumeUUID(h.LUKS.UUID, s.Mapping) {
		st.Mapping, st.Mounted, st.misused = "", false, nil
	}
	rotationErr := rotationStatus(h, c, st)
	st.Recipients, st.RecoveryFingerprint = h.Token.Recovery.Recipients, h.Fingerprint()
	st.RecoveryPassphrase = h.Token.Recovery.ByPassphrase()
	switch {
	case st.Mounted:
		st.State = Mounted
	case st.Mapping != "":
		st.State = Unlocked
	case h.Token.Phase == header.PhaseErasing:
		st.State = Erasing
	case h.Token.Phase == header.PhaseProvisioning:
		st.State = Unprovisioned
	default:
		st.State = Locked
	}
	problem := m.statusProblem(ctx, s, h, c, live != nil)
	if (st.State == Unlocked || st.State == Mounted) && fault.Is(problem, fault.KeysLost) && !errors.Is(problem, errDoubtful) {
		st.State = Keyless
	}
	return errors.Join(rotationErr, problem)
}

func (m *Manager) statusProblem(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, live bool) error {
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
