// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
)

// rotationStatus adds how far a rotation is.
func (h *header) rotationStatus(c *container, st *Status) error {
	if h.next == nil {
		return nil
	}
	st.Phase = PhaseRotating
	st.Rotation = &Rotation{Total: h.segment.Size, Generation: h.next.token.Generation}
	r, err := h.rotationRecord(c)
	if err != nil {
		return err
	}
	st.Rotation.Done = r.Done()
	return nil
}

// verifyNext proves the second key of a volume that is being rotated.
func (m *Manager) verifyNext(ctx context.Context, s Spec, h *header, c *container, j *journey) error {
	if h.next == nil {
		return nil
	}
	r, err := h.rotationRecord(c)
	if err != nil {
		return err
	}
	key, err := m.openProved(ctx, s, h.next, c)
	if err == nil {
		key.wipe()
		j.did("new key proved")
		return nil
	}
	if r.Untouched() {
		j.warn(fmt.Sprintf("the new key is not proved, and no data is under it; the next rotation makes another: %v", err))
		return nil
	}
	return err
}
