// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"errors"
	"strings"
)

// BusyboxApplets returns the names of the applets in a busybox binary of any
// architecture. It reads them from the binary's sorted table of NUL-terminated names,
// which begins with the names of test, because the binary may not run on this host.
func BusyboxApplets(binary []byte) ([]string, error) {
	start := bytes.Index(binary, []byte("[\x00[[\x00"))
	if start < 0 {
		return nil, errors.New("no table of applets in this busybox")
	}
	end := bytes.Index(binary[start:], []byte("\x00\x00"))
	if end < 0 {
		return nil, errors.New("busybox's table of applets has no end")
	}
	return strings.Split(string(binary[start:start+end]), "\x00"), nil
}
