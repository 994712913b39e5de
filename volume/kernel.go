// SPDX-License-Identifier: Apache-2.0

package volume

import "imxcrypt/dmcrypt"

// CryptVersion returns the version of the kernel's crypt target, such as "1.24.0". The
// kernel may load dm-crypt to answer. Errors are those of package dmcrypt: no permission,
// no device-mapper, no such target.
func CryptVersion() (string, error) {
	m, err := dmcrypt.New(dmcrypt.Options{})
	if err != nil {
		return "", err
	}
	defer m.Close()
	v, err := m.TargetVersion("crypt")
	if err != nil {
		return "", err
	}
	return v.String(), nil
}
