// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// A mapping of the volume's name that belongs to someone else is noticed before a key is
// made, not when the volume is to be unlocked at the end.
func TestATakenNameIsNoticedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b := newBoard(crashtest.NewImage(16 * mib))
	other := dmcrypt.Table{dmcrypt.Zero{Length: 8}}
	if _, err := b.DM.Activate(ctx, "data", "", other, false); err != nil {
		t.Fatal(err)
	}
	b.Step = func(what string) error {
		t.Errorf("%s", what)
		return nil
	}
	_, err := b.Manager().Provision(ctx, newSpec(), volume.ProvisionOptions{})
	refused(t, err, fault.MappingMismatch)
}
