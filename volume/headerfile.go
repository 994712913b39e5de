// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"bytes"
	"context"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// BackupHeader writes a volume's whole header area, including the check area, to a new
// file that only root can read. The file opens the volume on this chip forever, even
// after an erase: the caller says so.
func (m *Manager) BackupHeader(ctx context.Context, s spec.Volume, file string) (Result, error) {
	j := m.begin(s, nil)
	err := m.onHeader(ctx, s, blockdev.Flags{Direct: true}, j, func(c *header.Storage, h *header.Header) error {
		return m.backupHeader(s, c, h, file, j)
	})
	return j.result, Failed(ctx, "header backup", s, err)
}

func (m *Manager) backupHeader(s spec.Volume, c *header.Storage, h *header.Header, file string, j *runLog) error {
	if err := h.SameVolume(s, c.Header.Path()); err != nil {
		return err
	}
	if err := h.Keepable(); err != nil {
		return err
	}
	if !h.Copies.Intact() {
		j.warn("one copy of the header is damaged; the backup holds the good one twice")
	}
	area, err := header.AreaOf(h, c.Header)
	if err != nil {
		return err
	}
	if err := m.sys.Files.Create(file, area, 0o600); err != nil {
		return err
	}
	back, err := m.sys.Files.Read(file, atomicfile.ReadOptions{MaxSize: header.MaxHeaderArea})
	if err != nil || !bytes.Equal(back, area) {
		return fault.New(fault.IOFailed, file+" does not read back as it was written", err)
	}
	j.did("header area written to " + file)
	return nil
}
