// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// identityFile is what age-keygen writes.
func identityFile(id *age.X25519Identity) *strings.Reader {
	return strings.NewReader("# public key: " + id.Recipient().String() + "\n" + id.String() + "\n")
}

// withRecovery makes a locked volume with data and a recovery copy.
func withRecovery(t *testing.T, s spec.Volume, disk volumetest.Store, id *age.X25519Identity) *volumetest.Board {
	t.Helper()
	ctx := context.Background()
	b := newBoard(disk)
	o := volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}}
	r, err := b.Manager().Provision(ctx, s, o)
	must(t, r, err)
	if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "RECOVERY COPY") }) {
		t.Fatalf("not said loudly: %q", r.Warnings)
	}
	put(t, b, "the quick brown fox")
	r, err = b.Manager().Provision(ctx, s, o)
	if must(t, r, err); !r.Already {
		t.Fatal("provisioned twice")
	}
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	if st := b.Manager().Status(ctx, s); len(st.Recipients) != 1 || st.Recipients[0] != id.Recipient().String() {
		t.Fatalf("the status does not show it: %+v", st)
	}
	if b.Ring.Left() != 0 {
		t.Fatal("a key is left in a keyring")
	}
	return b
}

// noted adds the fingerprint that the recovery copy has now, as if noted earlier.
func noted(b *volumetest.Board, s spec.Volume, o volume.ResealOptions) volume.ResealOptions {
	fingerprint := b.Manager().Status(context.Background(), s).RecoveryFingerprint
	o.Fingerprint = func() (string, error) { return fingerprint, nil }
	return o
}

func TestADeadBoardsDataIsReadOnAnotherMachine(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		for _, wrap := range []string{"ecb", "ccm"} {
			t.Run(name+" "+wrap, func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				s := s
				s.Wrap = wrap
				id := newIdentity(t)
				disk := crashtest.NewImage(16 * mib)
				b := withRecovery(t, s, disk, id)
				before := disk.Bytes()

				// A machine without a CAAM, on which the disk cannot be written.
				pc := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
				pc.Disks[0].ReadOnly = true
				sys := pc.System()
				sys.Chip = func() (source.Chip, error) { return nil, errors.New("there is no CAAM") }
				o := volume.RecoverOptions{Path: "/dev/mmcblk2p3", Name: "rescued"}
				if s.Detached() {
					o.Header = s.Header
				}
				o.Identities = identityFile(newIdentity(t))
				_, err := volume.New(sys).Recover(ctx, o)
				refused(t, err, fault.IdentityWrong)
				o.Identities = strings.NewReader("no identity")
				_, err = volume.New(sys).Recover(ctx, o)
				refused(t, err, fault.Usage)

				o.Identities = identityFile(id)
				r, err := volume.New(sys).Recover(ctx, o)
				if must(t, r, err); r.Mapping != "/dev/mapper/rescued" || r.Volume != "data" {
					t.Fatalf("%+v", r)
				}
				f, err := pc.Mapping("rescued", false)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				text := make([]byte, 19)
				if _, err := f.ReadAt(text, userData); err != nil || string(text) != "the quick brown fox" {
					t.Fatalf("%q, %v", text, err)
				}
				if info, err := pc.DM.Info("rescued"); err != nil || !info.ReadOnly {
					t.Fatalf("%+v, %v", info, err)
				}
				if table, _ := pc.DM.Table("rescued"); strings.Contains(table.String(), "tk(") || !strings.Contains(table.String(), ":32:logon:") {
					t.Fatalf("table %s", table)
				}
				if !bytes.Equal(before, disk.Bytes()) || pc.Ring.Left() != 0 {
					t.Fatal("the disk was written, or a key is left")
				}
			})
		}
	}
}

func TestAVolumeIsGivenToAReplacementBoard(t *testing.T) {
	t.Parallel()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			id := newIdentity(t)
			disk := crashtest.NewImage(16 * mib)
			b := withRecovery(t, s, disk, id)
			old := disk.Bytes()

			// The board that opens it has nothing to do.
			r, err := b.Manager().Reseal(ctx, s, noted(b, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}}))
			if must(t, r, err); !r.Already {
				t.Fatal("resealed without need")
			}
			next := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			next.Directories = b.Directories
			_, err = next.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			refused(t, err, fault.BlobRejected)
			_, err = next.Manager().Reseal(ctx, s, noted(next, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(newIdentity(t))}}))
			refused(t, err, fault.IdentityWrong)
			r, err = next.Manager().Reseal(ctx, s, noted(next, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, DryRun: true}))
			must(t, r, err)
			if !bytes.Equal(old, disk.Bytes()) {
				t.Fatal("refused and dry runs wrote")
			}
			r, err = next.Manager().Reseal(ctx, s, noted(next, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}}))
			must(t, r, err)
			if !bytes.Equal(old[32<<10:], disk.Bytes()[32<<10:]) {
				t.Fatal("the data or the check was changed")
			}
			hasItsData(t, powerCycle(next), s)
			// The recovery copy is still good for the next board.
			third := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			third.Directories = b.Directories
			r, err = third.Manager().Reseal(ctx, s, noted(third, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}}))
			must(t, r, err)
			hasItsData(t, third, s)
		})
	}
}

// Reseal is the only way to keep a volume when its chip is closed.
func TestResealingAfterTheChipWasClosed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	s := newSpec()
	s.AllowOpenState = true
	chip := caamtest.NewChip([32]byte{7}, false)
	b := volumetest.New(chip, volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: crashtest.NewImage(16 * mib)})
	b.Directories, b.State = []string{"/data"}, caam.Open
	r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}})
	must(t, r, err)
	put(t, b, "the quick brown fox")
	chip.BurnFuse()
	b = powerCycle(b)
	b.State = caam.Closed
	s.AllowOpenState = false
	if _, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err == nil {
		t.Fatal("a closed chip opened what an open one had sealed")
	}
	r, err = b.Manager().Reseal(ctx, s, noted(b, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}}))
	if must(t, r, err); r.SecurityState != "closed" {
		t.Fatalf("%+v", r)
	}
	hasItsData(t, b, s)
}

func TestRecoveryIsNotForEverything(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	b := provisioned(t, newSpec(), crashtest.NewImage(16*mib))
	_, err := b.Manager().Recover(ctx, volume.RecoverOptions{Path: "/dev/mmcblk2p3", Opener: volume.Opener{Identities: identityFile(id)}})
	refused(t, err, fault.RecoveryMissing)
	_, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}})
	refused(t, err, fault.RecoveryMissing)

	empty := newBoard(crashtest.NewImage(16 * mib))
	for _, recipient := range []string{"age1nonsense", "ssh-ed25519 AAAA", id.String()} {
		_, err := empty.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{Recipients: []string{recipient}})
		refused(t, err, fault.Usage)
		if strings.Contains(err.Error(), id.String()) {
			t.Fatal("an identity stands in an error")
		}
	}
	_, err = empty.Manager().Provision(ctx, devSpec(), volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}})
	refused(t, err, fault.Usage)
}

// A driver that cuts or changes the key that it is given is noticed before the first byte
// of data.
func TestAChipThatChangesTheKeyIsFoundOut(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	b := newBoard(crashtest.NewImage(16 * mib))
	sys := b.System()
	sys.Chip = func() (source.Chip, error) { return changing{b.Chip}, nil }
	_, err := volume.New(sys).Provision(ctx, newSpec(), volume.ProvisionOptions{Recipients: []string{id.Recipient().String()}})
	refused(t, err, fault.CAAMFailed)
	if len(b.Made()) != 0 {
		t.Fatal("a filesystem was made")
	}
	// With a chip that does not, the next run finishes, and the copy is good. The
	// recipient in the header alone is not trusted.
	_, err = b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{NoMount: true})
	refused(t, err, fault.Usage)
	r, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{NoMount: true, Recipients: []string{id.Recipient().String()}})
	must(t, r, err)
	r, err = b.Manager().Recover(ctx, volume.RecoverOptions{Path: "/dev/mmcblk2p3", Opener: volume.Opener{Identities: identityFile(id)}})
	must(t, r, err)
}

// A rotation seals the new key to the recipients of the old one, and not to anyone who
// can merely write to the disk.
func TestARotatedVolumesRecoveryCopy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id, thief := newIdentity(t), newIdentity(t)
	s := newSpec()
	disk := crashtest.NewImage(8 * mib)
	b := withRecovery(t, s, disk, id)
	r, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, r.Result, err)
	recovered, err := b.Manager().Recover(ctx, volume.RecoverOptions{Path: "/dev/mmcblk2p3", Opener: volume.Opener{Identities: identityFile(id)}})
	if must(t, recovered, err); recovered.Generation != 2 {
		t.Fatalf("%+v", recovered)
	}
	f, err := b.Mapping("recovered-data", false)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 19)
	if _, err := f.ReadAt(text, userData); err != nil || string(text) != "the quick brown fox" {
		t.Fatalf("%q, %v", text, err)
	}
	if err := errors.Join(f.Close(), b.DM.Remove(ctx, "recovered-data")); err != nil {
		t.Fatal(err)
	}

	h, _, err := luks2.Read(disk, disk.Size())
	if err != nil {
		t.Fatal(err)
	}
	token := h.Metadata.Tokens["0"]
	var member struct {
		Recovery struct {
			Recipients []string `json:"recipients"`
			Sealed     string   `json:"sealed"`
		} `json:"recovery"`
	}
	if err := token.Extra.Decode(&member); err != nil {
		t.Fatal(err)
	}
	member.Recovery.Recipients = []string{thief.Recipient().String()}
	if err := token.Extra.Set(member); err != nil {
		t.Fatal(err)
	}
	h.Metadata.Tokens["0"] = token
	if err := h.Write(disk); err != nil {
		t.Fatal(err)
	}
	_, err = b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	refused(t, err, fault.KeyWrong)
}
