// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// RotateOptions change how a volume is rotated.
type RotateOptions struct {
	// InitOnly makes and proves the new key and moves no data.
	InitOnly bool
	// ResumeOnly continues a rotation that is under way and does not begin one.
	ResumeOnly bool
	// RateLimit is how many bytes are moved per second at most; 0 means no limit.
	RateLimit int64
	// MaxHold is how long a zone of a volume in use should be held; 0 means 100 ms, or 40
	// ms if the kernel has no dm-delay.
	MaxHold time.Duration
	// Recipients and Passphrase ask for recovery copies of the new key, as in
	// [ProvisionOptions]. With NoRecovery it has none. Without any of the three it has
	// copies for the recipients of the old key's copies.
	Recipients []string
	Passphrase func(words string) error
	NoRecovery bool
	// Mount makes Encrypt unlock the volume, and mount it where the configuration says,
	// before data is moved.
	Mount bool
	// Force makes Encrypt begin even if a record says that the volume was made before.
	// That overwrites what a backup of that volume's header would still open.
	Force bool
	// Workspace is the directory in which Encrypt keeps what it needs to make a
	// filesystem smaller; empty means the configuration's state_dir.
	Workspace string
	// DryRun looks and changes nothing.
	DryRun bool
	// Progress is called after each step, Moved after each zone.
	Progress func(Step)
	Moved    func(Rotation)
}

// Rotation is the progress of a rotation.
type Rotation struct {
	// Done is the bytes under the new key, Total all bytes.
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
	// Generation is the new key's generation.
	Generation int `json:"generation"`
	// Held is how long the last zone was held.
	Held time.Duration `json:"-"`
}

// RotateResult is the result of a rotation.
type RotateResult struct {
	Result
	// Rotation is nil if none was begun.
	Rotation *Rotation `json:"rotation"`
}

// Rotate gives a volume a new key and encrypts its data again, in place: locked, unlocked
// or mounted and in use. It continues a rotation that is under way. When ctx is cancelled
// it stops cleanly at the next zone, with an error of code interrupted.
//
// If it is cut off at any point, the volume opens, and the next Rotate continues:
//
//  1. The first records are written, then the header with both keys. The new key is
//     proved by its check area. All data is on the old side.
//  2. Zone after zone is moved. The record says which (package reencrypt).
//  3. The new key is proved once more, then the header is written without the old one.
func (m *Manager) Rotate(ctx context.Context, s spec.Volume, o RotateOptions) (RotateResult, error) {
	r, err := m.rotate(ctx, s, o)
	return r, Failed(ctx, "rotate", s, err)
}

func (m *Manager) rotate(ctx context.Context, s spec.Volume, o RotateOptions) (r RotateResult, err error) {
	j := m.begin(s, o.Progress)
	x := &rotating{Manager: m, s: s, o: o, j: j}
	defer func() { r.Result, r.Rotation = j.result, x.progress }()
	release, err := m.acquire(ctx, s, o.DryRun)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	path, err := m.find(ctx, s, true)
	if err != nil {
		return r, err
	}
	x.c, err = m.openContainer(s, path, rotationFlags(!o.DryRun))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, x.c.Close()) }()
	if x.h, err = header.Read(x.c); err != nil {
		if fault.Is(err, fault.DecryptionEnding) && o.ResumeOnly {
			err = x.continueEnding(ctx, path)
		}
		return r, err
	}
	j.identify(x.h, path)
	if x.s, err = m.settled(ctx, x.s, x.newest(), j); err != nil {
		return r, err
	}
	if err := x.requestedCopies().permitted(x.s); err != nil {
		return r, err
	}
	if err := x.mayRotate(); err != nil {
		return r, err
	}
	return r, x.run(ctx)
}

// rotating is one run over one volume.
type rotating struct {
	*Manager
	s spec.Volume
	o RotateOptions
	j *runLog
	c *header.Storage
	h *header.Header
	// decrypts reports that the data becomes plain text instead of getting a new key.
	// plainAt is where the filesystem's first bytes are kept while a header on the device
	// takes their place.
	decrypts bool
	plainAt  int64
	// started reports that the header of an encryption is not whole on the device yet.
	// ending is the error if a decryption has not yet put back the filesystem's start.
	started bool
	ending  error
	// unattended reports that a device in plain text was found when the volume was to be
	// opened. With lenient its filesystem may be unclean; unclean notes whether it was.
	unattended, lenient, unclean bool
	// shrinkTo is the size to which the filesystem to be encrypted must be made smaller,
	// 0 if it need not; shrinkFrom is its size. shrinkNeed is how much room the workspace
	// must have. All are in bytes.
	shrinkFrom, shrinkTo, shrinkNeed int64
	// live reports that the volume is unlocked, and perhaps in use.
	live     bool
	progress *Rotation
	// trusted fails once the keys that the data is moved with may be dead.
	trusted func() error
}

// newest returns the header of the newest key.
func (x *rotating) newest() *header.Header {
	if x.h.Next != nil && !x.h.Decrypting() {
		return x.h.Next
	}
	return x.h
}

// mayRotate is mayOpen, but also permits a volume that a rotation can make as configured.
func (x *rotating) mayRotate() error {
	if plain := x.h.Encrypting() || x.h.Decrypting(); plain && !x.o.ResumeOnly {
		return fault.Newf(fault.RotationUnderWay, "a part of the volume's data is in plain text: %s", inPlaceEnd(x.h, x.s))
	}
	if x.h.Next != nil {
		return errors.Join(x.mayOpen(x.s, x.h, x.j), x.checkRequestedCopies())
	}
	if x.o.ResumeOnly {
		return x.mayOpen(x.s, x.h, x.j)
	}
	if err := x.s.Permitted(); err != nil {
		return err
	}
	as := x.h.SpecAsStored(x.s)
	if x.h.Matches(as) != nil {
		return x.h.Matches(x.s)
	}
	if err := as.Permitted(); err != nil {
		return fmt.Errorf("the key that the data is under: %w", err)
	}
	if x.h.Token.Recovery.Made() && x.s.Source != spec.SourceCAAM && !x.o.NoRecovery {
		return fault.Newf(fault.RecoveryLost, "the volume has a recovery copy of its key, and a key of source %s can have none", x.s.Source)
	}
	return x.mayUse(x.s, x.h, x.j)
}

// inPlaceEnd says how to finish an encryption or decryption.
func inPlaceEnd(h *header.Header, s spec.Volume) string {
	if h.Encrypting() {
		return fmt.Sprintf("`imxcrypt encrypt %s` continues to encrypt it", s.Name)
	}
	return fmt.Sprintf("`imxcrypt decrypt %s` continues to decrypt it", s.Name)
}

func (x *rotating) run(ctx context.Context) (err error) {
	u := &unlocking{Manager: x.Manager, s: x.s, o: UnlockOptions{DryRun: x.o.DryRun}, j: x.j, c: x.c, h: x.h}
	if x.live, err = u.alreadyOpen(ctx); err != nil {
		return err
	}
	if x.live {
		x.j.result.Mapping = "/dev/mapper/" + x.s.Mapping
		if err := x.removeLeftovers(ctx); err != nil {
			return err
		}
	}
	if x.h.Next == nil && x.o.ResumeOnly {
		x.j.result.Already = true
		return nil
	}
	if err := x.mayWrite(ctx); err != nil {
		return err
	}
	if x.o.DryRun {
		return x.announceSteps(ctx)
	}
	release, err := x.kernel.LockHeader(ctx, x.s, x.h.LUKS.UUID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	switch {
	case x.h.Next == nil && x.decrypts:
		err = x.startDecryption(ctx)
	case x.h.Next == nil:
		err = x.start(ctx)
	}
	if err != nil {
		return err
	}
	if x.h.Encrypting() && x.h.RequireProvedKey() == nil {
		x.rememberBegan(x.s, x.h)
	}
	return x.moveRest(ctx)
}

// mayWrite enforces that no one else uses the device and that the header can be written
// as often as needed.
func (x *rotating) mayWrite(ctx context.Context) error {
	if err := headerWritable(x.h, x.c); err != nil {
		return err
	}
	if x.c.Detached() && (x.decrypts || x.h.Decrypting()) {
		// It is removed at the end. If it is a link, only the link would be.
		if err := x.sys.Files.Settle(x.s.Header); err != nil {
			return err
		}
	}
	if !x.live && !x.o.DryRun {
		return x.kernel.Claim(ctx, x.s, x.h, x.c.Data, true)
	}
	_, err := x.kernel.UsedBeside(x.s, x.h.LUKS.UUID, x.c.Data, true)
	return err
}

// removeLeftovers removes what a killed run left beside a live volume that needs none of
// it.
func (x *rotating) removeLeftovers(ctx context.Context) error {
	live, err := x.sys.Mapper.Table(x.s.Mapping)
	if err != nil || x.o.DryRun || len(live) != 1 || live[0].Kind() != (dmcrypt.Crypt{}).Kind() {
		return err
	}
	_, err = x.kernel.RemovePrivate(ctx, x.s)
	return err
}
