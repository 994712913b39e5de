// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

const mib = 1 << 20

func TestDataIsBackAfterThePowerCycle(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ccm", "ecb"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			s := newSpec()
			s.Wrap = wrap
			disk := crashtest.NewImage(16 * mib)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			if must(t, r, err); r.Mounted != "/data" || r.Already {
				t.Fatalf("%+v", r)
			}
			put(t, b, "the quick brown fox")
			if bytes.Contains(disk.Bytes(), []byte("quick brown")) {
				t.Fatal("plaintext on the disk")
			}
			if b.Ring.Left() != 0 {
				t.Fatalf("%d keys left in a keyring", b.Ring.Left())
			}
			b = powerCycle(b)
			r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			must(t, r, err)
			if got := get(t, b, 19); got != "the quick brown fox" {
				t.Fatalf("%q", got)
			}
		})
	}
}

func TestAnotherChipIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	other := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
	_, err = other.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	refused(t, err, fault.BlobRejected)
	if infos, _ := other.DM.List(); len(infos) != 0 {
		t.Fatalf("mappings left behind: %v", infos)
	}
}

// The silent disaster: an ECB black key of another power cycle encrypts with another key
// without any error. The check notices.
func TestAWrongKeyIsSeenBeforeAnythingIsAnnounced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ccm", "ecb"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			s := newSpec()
			s.Wrap = wrap
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			b = powerCycle(b)
			// The key goes stale between its import and the first read.
			b.Step = func(what string) error {
				if what == "load data" {
					b.Chip.PowerCycle()
				}
				return nil
			}
			_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			refused(t, err, fault.KeyWrong)
			if infos, _ := b.DM.List(); len(infos) != 0 {
				t.Fatalf("mappings left behind: %v", infos)
			}
		})
	}
}

func TestProvisioningAgainChangesNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(16 * mib)
	b := newBoard(disk)
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	before := disk.Bytes()
	for range 3 {
		r, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
		if must(t, r, err); !r.Already {
			t.Fatalf("not said to be done already: %+v", r)
		}
	}
	if !bytes.Equal(before, disk.Bytes()) || len(b.Made()) != 1 {
		t.Fatalf("something was written; filesystems made: %v", b.Made())
	}
}
