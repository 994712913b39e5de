// SPDX-License-Identifier: Apache-2.0

package mapping

import (
	"context"

	"imxcrypt/dmcrypt"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// The private mappings of a trial. They belong to no volume and are on no device, so they
// have a UUID of their own: the next trial removes what a killed run left.
const (
	TrialSuffix = ":trial"
	ErrorSuffix = ":error"
	trialUUID   = "00000000-0000-0000-0000-000000000000"
)

// Try has the kernel load, and unload again, a table with the volume's cipher, its
// options and a key, over a target that fails every request.
func (k Kernel) Try(ctx context.Context, s spec.Volume, key source.Key) error {
	trial := s.Mapping + TrialSuffix
	if err := k.RemoveLeftover(ctx, trial, dmcrypt.HelperUUID(trialUUID, trial)); err != nil {
		return err
	}
	h := &header.Header{Segment: luks2.Segment{Encryption: s.Cipher, SectorSize: s.SectorSize, Size: header.CheckAreaSize}}
	nothing := dmcrypt.Table{dmcrypt.Fail{Length: header.CheckAreaSize / header.SectorBytes}}
	return k.WithPrivate(ctx, s.Mapping+ErrorSuffix, trialUUID, 0, source.Plain{}, true, func(dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return nothing, nil
	}, func(under *Private) error {
		return k.WithPrivate(ctx, trial, trialUUID, 0, key, true, func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return DataTable(h, s, under.Num, ref)
		}, func(*Private) error { return nil })
	})
}
