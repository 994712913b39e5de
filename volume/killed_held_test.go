// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/volume"
)

// A rotation is killed while it holds a zone, the system sleeps, the keys are lost, and
// `lock` lets what is held fail, since the chip does not answer. When it does again, the zone
// is on the side that the record names, whatever the killed rotation had the hot mappings
// lead to: what is read is right, and what is written then lasts.
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
					if seen++; seen <= zone { // the first is that of the overlay itself
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
				for _, part := range live {
					switch part.(type) {
					case dmcrypt.Linear:
					default:
						t.Errorf("%s: %v is left in the overlay", name, part)
					}
					// Whichever part has the zone.
					start, length := part.Extent()
					for at := int64(start) * 512; at < int64(start+length)*512; at += 64 << 10 {
						text := fmt.Appendf(nil, "written after the unlock at %d", at)
						copy(want[at+8192:], text)
						scrawl(t, b, text, at+8192)
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
