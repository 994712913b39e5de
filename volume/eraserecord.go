// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"

	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// eraseRecordOf looks for the erase record of volume s. data is its device.
func (m *Manager) eraseRecordOf(s spec.Volume, data header.Device) (r header.EraseRecord, ok bool, err error) {
	if !s.Detached() {
		return header.ReadEraseRecord(data)
	}
	b, err := m.sys.Files.Read(s.Header+header.EraseRecordSuffix, atomicfile.ReadOptions{MaxSize: header.BlockAlign})
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if r, ok = header.ParseEraseRecord(b); !ok {
		return r, false, nil
	}
	sum, err := header.DataSum(data)
	return r, err == nil && sum == r.Data, err
}

// erasedBefore reports whether an erase has left the device free for provisioning. The
// record alone does not show that: a device that has been put to another use since may
// still have it. So the rest of the header area must be as the erase left it, or as an
// interrupted provisioning after that left it.
func (m *Manager) erasedBefore(s spec.Volume, data header.Device) (bool, error) {
	r, ok, err := m.eraseRecordOf(s, data)
	if err != nil || !ok || r.State != header.EraseDone {
		return false, err
	}
	if s.Detached() {
		return true, nil // the data is still the ciphertext that was erased
	}
	if r.Area > data.Size() {
		return false, nil
	}
	area := make([]byte, r.Area)
	if _, err := data.ReadAt(area, 0); err != nil {
		return false, fault.New(fault.IOFailed, "read "+data.Path(), err)
	}
	clear(area[header.EraseRecordOffset : header.EraseRecordOffset+header.BlockAlign])
	if blank.Zero(area) {
		return true, nil
	}
	_, unfinished, err := luks2.Unfinished(header.NewImage(area, data.Size()), data.Size())
	return err == nil && unfinished && blank.Zero(area[header.MetadataSize:]), err
}

// dropEraseRecord removes the record of an earlier erase. It is called when a new header
// is there and nothing has been encrypted with its key yet: from then on nothing may
// permit overwriting the device.
func (m *Manager) dropEraseRecord(s spec.Volume, c *header.Storage) error {
	if s.Detached() {
		if err := m.sys.Files.Remove(s.Header + header.EraseRecordSuffix); err != nil {
			return fmt.Errorf("remove the record of an erase: %w", err)
		}
		return nil
	}
	r, ok, err := m.eraseRecordOf(s, c.Data)
	if err != nil || !ok {
		return err
	}
	m.sys.Log.Debug("record of an erase removed", "volume", s.Name, "record", r.String())
	if _, err := c.Header.WriteAt(make([]byte, header.BlockAlign), header.EraseRecordOffset); err != nil {
		return fmt.Errorf("remove the record of an erase: %w", err)
	}
	return c.Header.Flush()
}
