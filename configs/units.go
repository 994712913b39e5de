// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// sizeUnits are in descending order; sizes are written with the largest that
// divides them.
var sizeUnits = [...]struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", gib}, {"MiB", mib}, {"KiB", kib}, {"B", 1}}

var (
	errSizeUnit     = errors.New("a size is a whole number with KiB, MiB or GiB, as in 1MiB")
	errSizeRange    = errors.New("the size is too large")
	errDurationUnit = errors.New("a duration is a number with ms, s, m or h, as in 10s")
)

// ParseSize parses a size such as 512KiB, without blanks or fractions. Decimal
// units are refused: 1MB is not a whole number of 4 KiB sectors.
func ParseSize(s string) (int64, error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits == 0 {
		return 0, errSizeUnit
	}
	for _, u := range sizeUnits {
		// 8M is short for 8MiB, as in cryptsetup and mkfs.
		if s[digits:] != u.name && (u.bytes == 1 || s[digits:] != u.name[:1]) {
			continue
		}
		n, err := strconv.ParseInt(s[:digits], 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes {
			return 0, errSizeRange
		}
		return n * u.bytes, nil
	}
	return 0, errSizeUnit
}

// formatSize formats a size so that ParseSize can parse it.
func formatSize(n int64) string {
	if n == 0 {
		return "0MiB"
	}
	unit := sizeUnits[len(sizeUnits)-1]
	for _, u := range sizeUnits {
		if n%u.bytes == 0 {
			unit = u
			break
		}
	}
	return strconv.FormatInt(n/unit.bytes, 10) + unit.name
}

// parseDuration parses a duration such as 10s or 1m30s: not negative, and never
// without a unit.
func parseDuration(s string) (time.Duration, error) {
	if strings.Trim(s, "0123456789.hms") != "" || strings.Trim(s, "0123456789.") == "" {
		return 0, errDurationUnit
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDurationUnit
	}
	return d, nil
}
