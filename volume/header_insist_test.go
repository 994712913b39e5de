// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// A backup in which an attacker has replaced the key and the filesystem with those of
// another volume, and removed the check, is not restored.
func TestABackupWithoutACheckRestoresNoOtherVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, force := range []bool{false, true} {
		v := newTwoVolumes(t, bothPlacements()["detached"])
		own, err := v.b.Files.Read(v.data.Header, readAll())
		if err != nil {
			t.Fatal(err)
		}
		v.forge(t, func(h, other *luks2.Header) {
			take(h, other, "blob", "filesystem")
			unbind(h)
		})
		forged, err := v.b.Files.Read(v.data.Header, readAll())
		if err == nil {
			err = v.b.Files.Create("/forged", forged, 0o600)
		}
		if err == nil {
			err = v.b.Files.Replace(v.data.Header, own, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		was := everything(t, v.b, v.one)
		_, err = v.b.Manager().RestoreHeader(ctx, v.data, "/forged", volume.RestoreOptions{Confirm: confirmed, Force: force})
		if refused(t, err, fault.HeaderMismatch); everything(t, v.b, v.one) != was {
			t.Fatal("something was written")
		}
	}
}

// A backup from before an erase is refused once the device was provisioned again, even
// with Force when the new volume's header is damaged: the new key would be gone, and a
// repair through the old one would write noise.
func TestABackupOfBeforeAnEraseAfterProvisioning(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		for _, force := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				disk := crashtest.NewImage(16 * mib)
				b := provisioned(t, s, disk)
				r, err := b.Manager().BackupHeader(ctx, s, backupFile)
				must(t, r, err)
				erase(t, b, s)
				r, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{NoMount: true})
				must(t, r, err)
				r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, r, err)
				for _, damaged := range []bool{false, true} {
					code := fault.VolumeReplaced
					if damaged {
						code = fault.HeaderMismatch
						changeHeader(t, b, s, disk, func(im volumetest.Store) {
							turn(t, im, firstText+100)
							turn(t, im, secondText+200)
						})
					}
					was := everything(t, b, disk)
					_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: force})
					if refused(t, err, code); everything(t, b, disk) != was {
						t.Fatal("something was written")
					}
				}
				r, err = b.Manager().RepairHeader(ctx, s, volume.RepairOptions{})
				must(t, r, err)
				r, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				must(t, r, err)
			})
		}
	}
}

// Whatever happens to a header, the first advice of the hint leads to the data.
func TestTheFirstAdviceOfADamagedHeader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range bothPlacements() {
		for what, damage := range headerDamage() {
			disk := crashtest.NewImage(16 * mib)
			b := provisioned(t, s, disk)
			changeHeader(t, b, s, disk, func(im volumetest.Store) { damage.do(t, im) })
			_, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
			if err == nil {
				continue
			}
			hint := hintFor(fault.CodeOf(err))
			if !strings.Contains(strings.SplitN(hint, ";", 2)[0], "header repair") {
				t.Errorf("%s, %s: %v: %s", name, what, err, hint)
			}
		}
	}
}

func hintFor(code fault.Code) string {
	for _, f := range fault.Table() {
		if f.Code == code {
			return f.Hint
		}
	}
	return ""
}
