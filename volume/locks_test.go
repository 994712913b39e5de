// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
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

// A dry run beside a run that holds the volume's lock makes and removes no mapping: the
// other run makes mappings of the same names, and claims the device.
func TestADryRunMakesNoMappingBesideARun(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for placement, s := range bothPlacements() {
		all := commands(s)
		names := []string{"provision", "provision of what is ready", "erase", "rotate", "rotate, resumed", "resize", "rename", "reseal", "header repair", "encrypt", "encrypt, resumed", "decrypt"}
		if !s.Detached() {
			names = append(names, "decrypt, at its end, not recorded")
			all["decrypt, at its end, not recorded"] = func(t *testing.T) state {
				s := rotationSpec(rotationGap)
				chip, disk, files, _ := endingOn(t)
				b := boardOver(chip, disk, files)
				r, err := b.Files.Read(recordOfData, atomicfile.ReadOptions{})
				if err == nil {
					err = b.Files.Replace(recordOfData, regexp.MustCompile(`,"decrypts":"[^"]*"`).ReplaceAll(r, nil), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				return state{board: b, disk: disk, dry: func(m *volume.Manager) error {
					_, err := m.Decrypt(ctx, s, volume.RotateOptions{DryRun: true})
					return err
				}}
			}
		}
		for _, name := range names {
			t.Run(placement+"/"+name, func(t *testing.T) {
				t.Parallel()
				st := all[name](t)
				if err := st.dry(st.board.Manager()); err != nil {
					t.Fatal(err)
				}
				if _, err := st.board.System().Locks.Acquire(ctx, "data"); err != nil {
					t.Fatal(err)
				}
				before := snapshot(t, st.board, st.disk)
				var steps []string
				st.board.Step = func(what string) error {
					if strings.HasPrefix(what, "create ") || strings.HasPrefix(what, "remove ") {
						steps = append(steps, what)
					}
					return nil
				}
				if err := st.dry(st.board.Manager()); err != nil && !fault.Is(err, fault.LockHeld) {
					t.Fatal(err)
				}
				if names := differs(before, snapshot(t, st.board, st.disk)); len(names) > 0 || len(steps) > 0 {
					t.Errorf("changed %q by %s", names, strings.Join(steps, ", "))
				}
			})
		}
	}
}
