// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
)

// CheckHeader checks any LUKS2 header, cryptsetup's too, by the specification,
// at the start of a device, an image or a file. The report is filled in as far
// as possible with an error too; the error is of code header-damaged,
// header-invalid or header-version where the header is not valid, of code
// header-requirement where it demands what no known program knows, and what
// opening or reading gave otherwise.
func (m *Manager) CheckHeader(path string) (r header.Report, err error) {
	r = header.Report{Path: path, Requirements: []string{}, Copies: []header.Copy{}, Problems: []string{}}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if err := r.Check(dev); err != nil {
		var rule *luks2.InvalidError
		if r.Rule == "" && errors.As(err, &rule) {
			r.Rule = string(rule.Rule)
		}
		return r, fmt.Errorf("header on %s: %w", path, err)
	}
	r.Valid = true
	return r, nil
}
