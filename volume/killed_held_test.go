// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/volume"
	"imxcrypt/volume/mapping"
)

// A rotation is killed while it holds a zone, the system sleeps, the keys are lost, and
// `lock` lets what is held fail, since the chip does not answer. When the chip answers
// again, the zone is on the side that the record names, wherever the hot mappings of the
// killed rotation led: what is read is right, and what is written then lasts.
func TestAZoneThatWasHeldWhenItsKeysWereLost(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cut := 0
	for _, gap := range []int64{rotationGap, 0} {
		for _, swapped := range []bool{true, false} {
			for zone := 1; zone <= 4; zone++ {
				name := fmt.Sprintf("gap %d, overlay swapped %t, zone %d", gap, swapped, zone)
				s := rotationSpec(gap)
				s.Wrap = "ccm"
				b, want := filled(t, s, rotationDisk(s))
				seen, dead := 0, false
				b.Step = func(what string) error {
					if dead {
						return errKilled
					}
					if !strings.HasPrefix(what, "resume data:rotate") {
						return nil
					}
					if seen++; seen <= zone { // the first is the overlay itself
						return nil
					}
					if dead = true; !swapped {
						return errKilled
					}
					return nil
				}
				_, _ = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
				if b.Step = nil; !dead {
					t.Fatalf("%s: never killed", name)
				}
				b.Sleep(time.Second)
				b.Patience = 100 * time.Millisecond
				b.Chip.SetFault(func(string) error { return unix.EBADMSG })
				b.Mounts.Uses = map[string]string{"/data": "vi"}
				if _, err := b.Manager().Lock(ctx, s, volume.LockOptions{}); err == nil {
					t.Fatalf("%s: locked in use", name)
				}
				if old, err := b.DM.Table("data:old"); err == nil && old.IsCut() {
					cut++
				}
				b.Chip.SetFault(nil)
				r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				must(t, r, err)
				if !bytes.Equal(content(t, b), want) {
					t.Fatalf("%s: unlocked again, it reads otherwise", name)
				}
				live, err := b.DM.Table("data:rotate")
				if err != nil {
					t.Fatal(err)
				}
				old, errOld := b.DM.Info("data:old")
				next, errNext := b.DM.Info("data:new")
				if errOld != nil || errNext != nil {
					t.Fatal(errOld, errNext)
				}
				for _, part := range live {
					if l, ok := part.(dmcrypt.Linear); !ok || l.Device != old.Number && l.Device != next.Number {
						t.Errorf("%s: %v is left in the overlay", name, part)
					}
					// Write to every part, since any of them may have the zone.
					start, length := part.Extent()
					for at := int64(start) * 512; at < int64(start+length)*512; at += 64 << 10 {
						text := fmt.Appendf(nil, "written after the unlock at %d", at)
						copy(want[at+8192:], text)
						scrawl(t, b, text, at+8192)
					}
				}
				for _, suffix := range mapping.HotSuffixes() {
					if _, err := b.DM.Info("data" + suffix); !errors.Is(err, dmcrypt.ErrNotFound) {
						t.Errorf("%s: the mapping data%s is left: %v", name, suffix, err)
					}
				}
				end, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				must(t, end.Result, err)
				same(t, name+": rotated to the end", content(t, b), want)
			}
		}
	}
	if t.Logf("%d of 16 were cut", cut); cut < 8 {
		t.Error("too few were cut to mean anything")
	}
}

// The overlay and a hot mapping are suspended at the same time. If the rotation is killed
// with only one of them suspended, the next command, whichever it is, lets what waits
// continue.
func TestKilledBetweenTwoSuspends(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	killed := 0
	for _, gap := range []int64{rotationGap, 0} {
		s := rotationSpec(gap)
		for name, next := range map[string]func(*volume.Manager) error{
			"unlock": func(m *volume.Manager) error { _, err := m.Unlock(ctx, s, volume.UnlockOptions{}); return err },
			"status": func(m *volume.Manager) error { return m.Status(ctx, s).Err },
			"rotate": func(m *volume.Manager) error {
				_, err := m.Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
				return err
			},
		} {
			for zone := 1; zone <= 4; zone++ {
				for _, passes := range []string{"suspend data:hot", "suspend data:rotate"} {
					what := fmt.Sprintf("gap %d, zone %d, %q done, then %s", gap, zone, passes, name)
					b, want := filled(t, s, rotationDisk(s))
					suspends, dead, passed := 0, false, false
					b.Step = func(step string) error {
						if strings.HasPrefix(step, "suspend data:hot") || strings.HasPrefix(step, "suspend data:rotate") {
							if suspends++; (suspends+1)/2 == zone {
								dead = true
								if strings.HasPrefix(step, passes) {
									passed = true
									return nil
								}
							}
						}
						if dead {
							return errKilled
						}
						return nil
					}
					_, _ = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
					if b.Step = nil; !passed {
						t.Fatalf("%s: never killed", what)
					}
					killed++
					readDuring(t, b, what, want, func() error { return next(b.Manager()) })
					r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{ResumeOnly: true})
					must(t, r.Result, err)
					same(t, what, content(t, b), want)
					nothingPrivate(t, b, 1)
				}
			}
		}
	}
	t.Logf("%d kills, 0 lost", killed)
}

// One of the two suspends fails or is cancelled, and a step that undoes it may fail as
// well: the volume reads as before, and rotates.
func TestASuspendThatFails(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(0)
	for zone := 1; zone <= 3; zone++ {
		for _, at := range []string{"suspend data:rotate", "suspend data:hot"} {
			for _, second := range []string{"", "resume data:hot", "resume data:rotate", "clear data:rotate"} {
				for _, cancels := range []bool{true, false} {
					b, want := filled(t, s, rotationDisk(s))
					c, cancel := context.WithCancel(ctx)
					seen, failed, failedAgain := 0, false, false
					b.Step = func(step string) error {
						switch {
						case strings.HasPrefix(step, at) && !failed:
							if seen++; seen < zone {
								return nil
							}
							if failed = true; cancels {
								cancel()
								return context.Canceled
							}
							return errStep
						case failed && !failedAgain && second != "" && strings.HasPrefix(step, second):
							failedAgain = true
							return errStep
						}
						return nil
					}
					_, err := b.Manager().Rotate(c, s, volume.RotateOptions{})
					cancel()
					what := fmt.Sprintf("zone %d, %q, then %q, cancelled %t", zone, at, second, cancels)
					if b.Step = nil; err == nil {
						t.Fatalf("%s: no error", what)
					}
					r, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
					must(t, r, err)
					same(t, what, content(t, b), want)
					end, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
					must(t, end.Result, err)
					same(t, what, content(t, b), want)
					nothingPrivate(t, b, 1)
				}
			}
		}
	}
}
