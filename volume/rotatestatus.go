// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// rotationStatus adds the progress of a rotation.
func rotationStatus(h *header.Header, c *header.Storage, st *Status) error {
	if h.Next == nil {
		return nil
	}
	st.Phase = header.PhaseRotating
	st.Rotation = &Rotation{Total: h.Segment.Size, Generation: h.Next.Token.Generation}
	switch {
	case h.Encrypting():
		st.Phase = header.PhaseEncrypting
	case h.Decrypting():
		st.Phase, st.Rotation.Generation = header.PhaseDecrypting, 0
	}
	r, err := h.RotationRecord(c)
	if err != nil {
		return err
	}
	st.Rotation.Done = r.Done()
	return nil
}

// verifyNext proves the second key of a volume that is being rotated.
func (m *Manager) verifyNext(ctx context.Context, s spec.Volume, h *header.Header, c *header.Storage, j *runLog) error {
	if h.Next == nil || h.Encrypting() || h.Decrypting() {
		return nil
	}
	r, err := h.RotationRecord(c)
	if err != nil {
		return err
	}
	if err = m.proveOpens(ctx, s, h.Next, c); err == nil {
		j.did("new key proved")
		return nil
	}
	if r.Untouched() {
		j.warn(fmt.Sprintf("the new key is not proved, and no data is under it; the next rotation makes another: %v", err))
		return nil
	}
	return err
}
