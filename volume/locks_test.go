// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// stuckLocks cannot be released.
type stuckLocks struct{}

var errStuck = errors.New("the lock cannot be released")

func (stuckLocks) Acquire(context.Context, string) (func() error, error) {
	return func() error { return errStuck }, nil
}

// A command that cannot release its lock reports that, even if it succeeded otherwise: the
// next command would find the volume locked by a process that has ended.
func TestALockThatCannotBeReleasedIsReported(t *testing.T) {
	t.Parallel()
	ctx, s := context.Background(), newSpec()
	for name, run := range map[string]func(*volume.Manager, spec.Volume) error{
		"unlock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		},
		"lock": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Lock(ctx, s, volume.LockOptions{})
			return err
		},
		"rotate": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{})
			return err
		},
		"decrypt": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Decrypt(ctx, s, volume.RotateOptions{})
			return err
		},
		"revive": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Revive(ctx, s, volume.ReviveOptions{})
			return err
		},
		"verify": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Verify(ctx, s)
			return err
		},
		"resize": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Resize(ctx, s, volume.ResizeOptions{})
			return err
		},
		"erase": func(m *volume.Manager, s spec.Volume) error {
			_, err := m.Erase(ctx, s, volume.EraseOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBoard(crashtest.NewImage(16 * mib))
			if _, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Manager().Lock(ctx, s, volume.LockOptions{}); err != nil {
				t.Fatal(err)
			}
			sys := b.System()
			sys.Locks = stuckLocks{}
			if err := run(volume.New(sys), s); !errors.Is(err, errStuck) {
				t.Errorf("%v", err)
			}
		})
	}
}
