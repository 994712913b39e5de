// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"

	"imxcrypt/internal/blockdev"
	"imxcrypt/luks2"
	"imxcrypt/volume/header"
)

// CheckHeader checks any LUKS2 header, cryptsetup's too, against the specification, at
// the start of a device, an image or a file. The report is filled in as far as possible
// even if there is an error. The error has code header-damaged, header-invalid or
// header-version if the header is not valid, and code header-requirement if the header
// demands what no known program supports. Otherwise it is the error from opening or
// reading.
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
