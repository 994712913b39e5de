// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// openBoard returns a board whose chip is not closed.
func openBoard() *volumetest.Board {
	b := volumetest.New(caamtest.NewChip([32]byte{7}, false), volumetest.NoFiles(),
		&volumetest.Disk{Path: "/dev/mmcblk2p3", Store: crashtest.NewImage(16 * mib)})
	b.Directories, b.State = []string{"/data"}, caam.Open
	return b
}

// Closing the chip loses what was made while it was open. The error says that, not merely
// that a key was rejected.
func TestClosingTheChipIsNamedAsTheCause(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := newSpec()
	s.AllowOpenState = true
	b := openBoard()
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	if r.SecurityState != "open" || !strings.Contains(strings.Join(r.Warnings, "\n"), "none can once it is closed") {
		t.Fatalf("the open chip is not warned of: %+v", r)
	}
	b = powerCycle(b)
	r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, r, err)

	b = powerCycle(b)
	b.Chip.BurnFuse()
	b.State = caam.Closed
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.BlobOpenState)
	if !strings.Contains(err.Error(), "made while the chip was open; it has been closed since, and the data cannot be read") {
		t.Errorf("%v", err)
	}
	_, err = b.Manager().Verify(ctx, s)
	refused(t, err, fault.BlobOpenState)

	// If the state cannot be read, nothing is claimed about it.
	b.State = caam.Unknown
	_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	refused(t, err, fault.BlobRejected)
}

func TestAVolumeOfAClosedChipOnAnOpenOne(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	b.State = caam.Closed
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{NoMount: true})
	must(t, r, err)
	other := openBoard()
	other.Disks[0] = b.Disks[0]
	_, err = other.Manager().Unlock(ctx, newSpec(), volume.UnlockOptions{})
	refused(t, err, fault.BlobOpenState)
	if !strings.Contains(err.Error(), "made on a closed chip, and this chip is open") {
		t.Errorf("%v", err)
	}
}

// If no fuse can be read, the kernel says that the chip is open when it makes the first
// key, which is the trial's. Nothing is written.
func TestTheFirstKeyTellsThatTheChipIsOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := openBoard()
	b.State = caam.Unknown
	b.Chip.SetFault(func(string) error { b.State = caam.Open; return nil })
	_, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.OpenStateRefused)
	if st := b.Manager().Status(ctx, newSpec()); !fault.Is(st.Err, fault.NotProvisioned) {
		t.Errorf("refused, and something was written: %v", st.Err)
	}
	b.State = caam.Unknown
	s := newSpec()
	s.AllowOpenState = true
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	if must(t, r, err); r.SecurityState != "open" || !strings.Contains(strings.Join(r.Warnings, "\n"), "none can once it is closed") {
		t.Errorf("the open chip is not warned of: %+v", r)
	}
}

// The old key shows it, too, before a rotation makes a new one.
func TestTheOldKeyTellsThatTheChipIsOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := openBoard()
	b.State = caam.Unknown
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	must(t, r, err)
	b.Chip.SetFault(func(string) error { b.State = caam.Open; return nil })
	_, err = b.Manager().Rotate(ctx, newSpec(), volume.RotateOptions{})
	refused(t, err, fault.OpenStateRefused)
	if st := b.Manager().Status(ctx, newSpec()); st.Rotation != nil || st.Generation != 1 {
		t.Errorf("refused, and a rotation has begun: %+v", st)
	}
}

func TestRequireClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state caam.SecurityState
		want  fault.Code
	}{
		"closed":  {caam.Closed, ""},
		"open":    {caam.Open, fault.OpenStateRefused},
		"unknown": {caam.Unknown, fault.SecurityStateUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			s := newSpec()
			s.AllowOpenState = true
			b := newBoard(crashtest.NewImage(16 * mib))
			b.State = c.state
			_, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{RequireClosed: true})
			refused(t, err, c.want)
			if err != nil && len(b.Made()) > 0 {
				t.Error("refused, and a filesystem was made")
			}
			// The same holds for a volume that exists already.
			r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{})
			must(t, r, err)
			b.State = caam.Closed
			_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{RequireClosed: true})
			refused(t, err, c.want)
		})
	}
	t.Run("source dev", func(t *testing.T) {
		t.Parallel()
		s := newSpec()
		s.Source, s.Wrap, s.KeySize, s.Cipher, s.AllowInsecure = spec.SourceDev, "", 64, "aes-xts-plain64", true
		b := newBoard(crashtest.NewImage(16 * mib))
		b.State = caam.Closed
		_, err := b.Manager().Provision(context.Background(), s, volume.ProvisionOptions{RequireClosed: true})
		refused(t, err, fault.InsecureRefused)
	})
}
