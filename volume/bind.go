// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// bind adds the check to an unbound header. The key is first proved by the filesystem, so
// the check binds what the volume shows at this moment.
func (m *Manager) bind(ctx context.Context, s spec.Volume, path string, j *runLog) (err error) {
	c, h, err := m.openHeader(s, path, blockdev.Flags{Direct: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if !h.Unbound() {
		return nil
	}
	key, err := m.openKey(ctx, s, h)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := m.verifyByFilesystem(ctx, s, h, c, key); err != nil {
		return err
	}
	if err := m.kernel.DeriveCheck(ctx, s, h, c, key); err != nil {
		return err
	}
	// Only the file is written; the device may be read-only.
	file, err := m.sys.Devices.Open(s.Header, blockdev.Flags{Write: true, Exclusive: true})
	if err != nil {
		return err
	}
	if err := errors.Join(h.Write(file), file.Close()); err != nil {
		return fmt.Errorf("write the header: %w", err)
	}
	written, err := header.Read(c)
	if err != nil {
		return fmt.Errorf("read the header back: %w", err)
	}
	if err := m.proveOpens(ctx, s, written, c); err != nil {
		return fmt.Errorf("prove the check that was added: %w", err)
	}
	j.did("check of the key added to " + s.Header)
	return nil
}
