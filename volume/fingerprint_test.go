// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

func known(fingerprint string) func() (string, error) {
	return func() (string, error) { return fingerprint, nil }
}

// The recipient is public: anyone who can write the storage can make a volume of the same
// name and UUID, with a known key and a copy of it sealed to the recipient. All of it is
// consistent; only the fingerprint that was noted when the volume was made reveals it.
func TestAForgedRecoveryCopyGivesNoChipItsKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := newIdentity(t)
			o := volume.ProvisionOptions{NoMount: true, Recipients: []string{id.Recipient().String()}}
			b := newBoard(crashtest.NewImage(16 * mib))
			r, err := b.Manager().Provision(ctx, s, o)
			must(t, r, err)
			factory := r.RecoveryFingerprint
			if len(factory) != 39 || !strings.Contains(strings.Join(r.Warnings, " "), factory) {
				t.Fatalf("fingerprint %q, said: %q", factory, r.Warnings)
			}
			s.UUID = r.UUID

			forged := crashtest.NewImage(16 * mib)
			thief := newBoard(forged)
			r, err = thief.Manager().Provision(ctx, s, o)
			must(t, r, err)
			before := forged.Bytes()
			next := volumetest.New(caamtest.RandomChip(), thief.Files, thief.Disks...)
			for noted, code := range map[string]fault.Code{factory: fault.FingerprintWrong, "": fault.Usage, factory[1:]: fault.Usage} {
				_, err = next.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, Fingerprint: known(noted)})
				refused(t, err, code)
			}
			_, err = next.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}})
			refused(t, err, fault.Usage)
			if !bytes.Equal(before, forged.Bytes()) {
				t.Fatal("something was written")
			}
			_, err = next.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			refused(t, err, fault.BlobRejected)

			// The fingerprint that was noted, as a person may write it.
			own := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
			own.Directories = b.Directories
			r, err = own.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, Fingerprint: known(strings.ToUpper(strings.ReplaceAll(factory, "-", " ")) + "\n")})
			if must(t, r, err); r.RecoveryFingerprint != factory {
				t.Fatalf("the fingerprint has changed: %q", r.RecoveryFingerprint)
			}
		})
	}
}

// A restored backup has the copy that was noted; a rotation makes a new one, and says so.
func TestTheFingerprintIsThatOfTheCopy(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	s := newSpec()
	disk := crashtest.NewImage(16 * mib)
	b := withRecovery(t, s, disk, id)
	first := b.Manager().Status(ctx, s).RecoveryFingerprint
	report, err := b.Manager().CheckHeader("/dev/mmcblk2p3")
	if err != nil || report.Volume.Fingerprint != first {
		t.Fatalf("%+v, %v", report.Volume, err)
	}
	r, err := b.Manager().BackupHeader(ctx, s, "/root/backup")
	must(t, r, err)
	write(disk, make([]byte, 64<<10), 0)
	r, err = b.Manager().RestoreHeader(ctx, s, "/root/backup", volume.RestoreOptions{})
	if must(t, r, err); r.RecoveryFingerprint != first {
		t.Fatalf("after a restore %q, before %q", r.RecoveryFingerprint, first)
	}
	rotated, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rotated.Result, err)
	second := rotated.RecoveryFingerprint
	if second == first || second == "" || !strings.Contains(strings.Join(rotated.Warnings, " "), second) {
		t.Fatalf("%q after %q; %q", second, first, rotated.Warnings)
	}
	next := volumetest.New(caamtest.RandomChip(), b.Files, b.Disks...)
	_, err = next.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, Fingerprint: known(first)})
	refused(t, err, fault.FingerprintWrong)
	r, err = next.Manager().Reseal(ctx, s, volume.ResealOptions{Opener: volume.Opener{Identities: identityFile(id)}, Fingerprint: known(second)})
	must(t, r, err)
}
