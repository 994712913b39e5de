// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"io"
)

// Trace is what the first bytes of a copy say about the container, whatever happened to
// the rest. None of it is checked. It comes from the disk and must be quoted when
// printed.
type Trace struct {
	Offset                 int64 // of the copy, in bytes
	UUID, Label, Subsystem string
}

// Traces lists the places that still show the magic number of a copy of a LUKS2 header.
// It shows whose damaged header it was, and is for nothing else. The error is the
// device's own.
func Traces(r io.ReaderAt, size int64) ([]Trace, error) {
	d := &devReader{r: r, size: size}
	var found []Trace
	for i := -1; i < len(headerSizes); i++ {
		off := int64(0)
		if i >= 0 {
			off = headerSizes[i]
		}
		if off+headerUsed > size {
			break
		}
		buf, err := d.fetch(off, headerUsed)
		if err != nil {
			return found, err
		}
		if !bytes.HasPrefix(buf, []byte(magicOf(off > 0))) {
			continue
		}
		found = append(found, Trace{
			Offset: off, UUID: untilZero(buf[offUUID : offUUID+lenUUID]),
			Label:     untilZero(buf[offLabel : offLabel+lenLabel]),
			Subsystem: untilZero(buf[offSubsystem : offSubsystem+lenLabel]),
		})
	}
	return found, nil
}

func untilZero(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}
