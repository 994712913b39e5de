// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// move is something done to the volume.
type move struct {
	name string
	// run is a command; its error is checked.
	run func(ctx context.Context, m *volume.Manager) error
	// claims is what success of the command claims, looked up afterwards.
	claims func(stored map[string]string)
	// looks reports that the command changes nothing.
	looks bool
	// world is something other than a command.
	world func()
}

// opensNow is the claim of most commands.
func (l *trouble) opensNow(stored map[string]string) {
	l.t.Helper()
	if l.erased || l.text == "" {
		return
	}
	if err := l.opens(l.fork(stored)); err != nil {
		l.fail("success, and the volume does not open with its data: %v", err)
	}
}

// readsNow is the claim of commands that leave the volume open.
func (l *trouble) readsNow(stored map[string]string) {
	l.t.Helper()
	if l.text != "" {
		if got, err := l.read(l.board, l.s.Mapping); err != nil || got != l.text {
			l.fail("success, and the volume reads %q, not %q: %v", got, l.text, err)
		}
	}
	l.opensNow(stored)
}

func nothingClaimed(map[string]string) {}

// commands returns what the program can be asked for.
func (l *trouble) commands() []move {
	s := l.s
	mounts := s.Mount.Path != ""
	list := []move{
		{name: "unlock", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		}, claims: l.readsNow},
		{name: "unlock --mount", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{Mount: mounts})
			return err
		}, claims: func(stored map[string]string) {
			if entries, _ := l.board.List(); mounts && len(entries) == 0 {
				l.fail("success, and nothing is mounted")
			}
			l.readsNow(stored)
		}},
		{name: "unlock --for-repair", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{ForRepair: true})
			return err
		}, claims: l.readsNow},
		{name: "lock", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Lock(ctx, s, volume.LockOptions{})
			return err
		}, claims: func(stored map[string]string) {
			if _, err := l.board.DM.Info(s.Mapping); err == nil {
				l.fail("locked, and the mapping is there")
			}
		}},
		{name: "verify", looks: true, run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Verify(ctx, s)
			return err
		}, claims: func(stored map[string]string) {
			if l.erased {
				l.fail("verified, after it was erased")
			}
			l.opensNow(stored)
		}},
		{name: "status", looks: true, run: func(ctx context.Context, m *volume.Manager) error { return l.status(m.Status(ctx, s)) }, claims: nothingClaimed},
		{name: "rotate", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{})
			return err
		}, claims: l.opensNow},
		{name: "rotate --init-only", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{InitOnly: true})
			return err
		}, claims: l.opensNow},
		{name: "rotate, stopped", run: func(ctx context.Context, m *volume.Manager) error {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			_, err := m.Rotate(ctx, s, volume.RotateOptions{Moved: func(r volume.Rotation) {
				if r.Done >= r.Total/3 {
					stop()
				}
			}})
			return err
		}, claims: l.opensNow},
		{name: "rotate --resume-only", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
			return err
		}, claims: l.opensNow},
		{name: "provision", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Provision(ctx, s, volume.ProvisionOptions{NoMount: l.some(2)})
			return err
		}, claims: l.provisioned},
		{name: "sleep", run: func(ctx context.Context, _ *volume.Manager) error {
			_, err := sleep.Run(ctx, l.system(), []spec.Volume{s}, &volumetest.Machine{Board: l.board}, sleep.Options{})
			return err
		}, claims: func(stored map[string]string) {
			if _, err := l.board.DM.Info(s.Mapping); err == nil {
				l.readsNow(stored)
			}
		}},
		{name: "sleep resume", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Revive(ctx, s, volume.ReviveOptions{})
			return err
		}, claims: nothingClaimed},
	}
	return append(list, append(l.headerCommands(), l.otherCommands()...)...)
}

// headerCommands returns those for the header, and erase.
func (l *trouble) headerCommands() []move {
	s := l.s
	keep := ""
	if l.some(3) {
		l.files++
		keep = fmt.Sprintf("/kept-%d", l.files)
	}
	l.files++
	file := fmt.Sprintf("/backup-%d", l.files)
	restore := func(file string, o volume.RestoreOptions) func(context.Context, *volume.Manager) error {
		return func(ctx context.Context, m *volume.Manager) error {
			_, err := m.RestoreHeader(ctx, s, file, o)
			return err
		}
	}
	restored := func(stored map[string]string) {
		l.erased = false
		l.opensNow(stored)
	}
	list := []move{
		{name: "header repair --dry-run", looks: true, run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.RepairHeader(ctx, s, volume.RepairOptions{DryRun: true})
			return err
		}, claims: nothingClaimed},
		{name: "header repair", run: func(ctx context.Context, m *volume.Manager) error {
			r, err := m.RepairHeader(ctx, s, volume.RepairOptions{Keep: keep})
			if strings.Contains(strings.Join(r.Warnings, " "), "removed what was kept") {
				l.tallyOf("kept header removed").done++
			}
			return err
		}, claims: l.opensNow},
	}
	if len(l.backups) < 4 {
		list = append(list, move{name: "header backup", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.BackupHeader(ctx, s, file)
			return err
		}, claims: func(map[string]string) { l.backups = append(l.backups, file) }})
	}
	if len(l.backups) > 0 {
		from := l.pick(l.backups...)
		list = append(list,
			move{name: "header restore --dry-run", looks: true, run: restore(from, volume.RestoreOptions{DryRun: true, Confirm: confirmed}), claims: nothingClaimed},
			// There is no question if nothing is overwritten.
			move{name: "header restore, not confirmed", run: restore(from, volume.RestoreOptions{}), claims: restored},
			move{name: "header restore", run: restore(from, volume.RestoreOptions{Keep: keep, Confirm: confirmed}), claims: restored},
			move{name: "header restore --force", run: restore(from, volume.RestoreOptions{Keep: keep, Confirm: confirmed, Force: true}), claims: restored},
		)
	}
	if len(l.backups) > 0 && l.some(4) {
		list = append(list, move{name: "erase", run: func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Erase(ctx, s, volume.EraseOptions{})
			return err
		}, claims: func(stored map[string]string) {
			l.erased = true
			if how, err := l.salvage(stored, false); how != "" {
				l.fail("erased, and %s opens it: %v", how, err)
			}
		}})
	}
	return append(list, move{name: "erase --dry-run", looks: true, run: func(ctx context.Context, m *volume.Manager) error {
		_, err := m.Erase(ctx, s, volume.EraseOptions{DryRun: true})
		return err
	}, claims: nothingClaimed})
}

// otherCommands returns commands of other configurations over the same device: one whose
// mapping has another name, one of another volume, one with another sector size.
func (l *trouble) otherCommands() (list []move) {
	prefixed := l.s
	prefixed.Mapping = "p2-data"
	other := l.s
	other.Name, other.Mapping = "logs", "logs"
	wrong := l.s
	wrong.SectorSize = 512
	for name, s := range map[string]spec.Volume{"mapping prefix": prefixed, "volume": other, "sector size": wrong} {
		foreign := func(what string, run func(context.Context, *volume.Manager, spec.Volume) error) {
			list = append(list, move{name: "another " + name + ": " + what, run: func(ctx context.Context, m *volume.Manager) error {
				return run(ctx, m, s)
			}, claims: func(map[string]string) {
				if what == "unlock" && l.text != "" {
					if got, err := l.read(l.board, s.Mapping); err != nil || got != l.text {
						l.fail("success, and it reads %q, not %q: %v", got, l.text, err)
					}
				}
			}})
		}
		foreign("unlock", func(ctx context.Context, m *volume.Manager, s spec.Volume) error {
			_, err := m.Unlock(ctx, s, volume.UnlockOptions{})
			return err
		})
		foreign("lock", func(ctx context.Context, m *volume.Manager, s spec.Volume) error {
			_, err := m.Lock(ctx, s, volume.LockOptions{})
			return err
		})
		if !l.erased {
			foreign("provision", func(ctx context.Context, m *volume.Manager, s spec.Volume) error {
				_, err := m.Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
				return err
			})
			foreign("header repair", func(ctx context.Context, m *volume.Manager, s spec.Volume) error {
				_, err := m.RepairHeader(ctx, s, volume.RepairOptions{})
				return err
			})
		}
		if name == "volume" && !l.erased {
			foreign("erase", func(ctx context.Context, m *volume.Manager, s spec.Volume) error {
				_, err := m.Erase(ctx, s, volume.EraseOptions{})
				if err == nil && !l.erased {
					l.fail("another configuration erased the volume")
				}
				return err
			})
		}
	}
	slices.SortFunc(list, func(a, b move) int { return strings.Compare(a.name, b.name) })
	// Only a few of them: they would be most of all moves.
	l.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:3]
}

// provisioned is the claim of provision: an existing volume is as it was, a new one has
// no data yet.
func (l *trouble) provisioned(stored map[string]string) {
	l.t.Helper()
	if !l.erased {
		l.opensNow(stored)
		return
	}
	l.begin()
}
