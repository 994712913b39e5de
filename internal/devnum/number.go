// SPDX-License-Identifier: Apache-2.0

// Package devnum handles device numbers as they appear in device-mapper tables, sysfs and
// stat(2).
package devnum

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of Linux's 32-bit device numbers (include/linux/kdev_t.h: 12 and 20
// bits).
const (
	MaxMajor = 1<<12 - 1
	MaxMinor = 1<<20 - 1
)

// Number is a block device's number. Tables name devices only by number, because a path
// may name another device the next time it is resolved.
type Number struct{ Major, Minor uint32 }

// String returns the kernel's notation, "8:1".
func (n Number) String() string {
	return strconv.FormatUint(uint64(n.Major), 10) + ":" + strconv.FormatUint(uint64(n.Minor), 10)
}

// IsZero reports whether n is 0:0, which names no device.
func (n Number) IsZero() bool { return n == Number{} }

// Parse reads the notation of String.
func Parse(s string) (Number, error) {
	major, minor, ok := strings.Cut(s, ":")
	if !ok {
		return Number{}, fmt.Errorf("device %q: not of the form major:minor", s)
	}
	a, err := ParseDecimal(major, MaxMajor)
	if err != nil {
		return Number{}, fmt.Errorf("device %q: major: %w", s, err)
	}
	b, err := ParseDecimal(minor, MaxMinor)
	if err != nil {
		return Number{}, fmt.Errorf("device %q: minor: %w", s, err)
	}
	return Number{uint32(a), uint32(b)}, nil
}

// Of splits a dev_t from stat(2) or device-mapper.
func Of(dev uint64) Number { return Number{unix.Major(dev), unix.Minor(dev)} }

// Dev returns the dev_t that mknod(2) and device-mapper take.
func (n Number) Dev() uint64 { return unix.Mkdev(n.Major, n.Minor) }

// ParseDecimal reads an unsigned number as the kernel prints it: digits only, at most
// limit. It is strict so that a table has only one spelling.
func ParseDecimal(s string, limit uint64) (uint64, error) {
	if s == "" {
		return 0, fmt.Errorf("empty number")
	}
	if s[0] == '0' && len(s) > 1 {
		return 0, fmt.Errorf("number %q has leading zeros", s)
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%q is not a decimal number", s)
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("number %s is greater than %d", s, limit)
	}
	return n, nil
}
