// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"fmt"
	"io"
)

// Report is the verdict over a header that is valid.
type Report struct {
	Header *Header
	Copies Copies
	// Problems are what is wrong without making the header unusable: a copy to
	// be repaired, copies in conflict. One sentence each.
	Problems []string
}

// Check validates any LUKS2 header, cryptsetup's too, by the specification. size
// is that of the device or file in bytes; dataSize that of the device with the
// data, negative where it is not known (a detached header, a backup file).
// Mandatory requirements are reported, not checked. Report.Header is nil with an
// error; Report.Copies is filled in all the same. Errors as [Read]; an
// *InvalidError names the first rule that is broken.
func Check(r io.ReaderAt, size, dataSize int64) (*Report, error) {
	return check(r, place{size: size, kind: anywhere, data: dataSize})
}

// CheckForeign is Check for headers of other programs, no stricter than cryptsetup
// where that takes more than the specification says: key derivations that it does not
// know, parameters that another one left, segments larger than any device, alignments
// that dm-crypt would refuse. Texts that are no JSON, or that two readers may
// understand in two ways, are refused all the same. Numbers that no device has are not
// in Report.Header as they are in the header.
func CheckForeign(r io.ReaderAt, size, dataSize int64) (*Report, error) {
	return check(r, place{size: size, kind: foreign, data: dataSize})
}

func check(r io.ReaderAt, at place) (*Report, error) {
	s := scan(r, at)
	report := &Report{Copies: s.copies()}
	if s.err != nil {
		return report, s.err
	}
	report.Header = s.header(at)
	for _, c := range []struct {
		name string
		Copy
	}{{"first", s.primary.Copy}, {"second", s.secondary.Copy}} {
		switch {
		case c.State == CopyOlder:
			report.Problems = append(report.Problems, fmt.Sprintf("the %s copy is older: sequence number %d, not %d", c.name, c.SeqID, s.best.SeqID))
		case c.Err != nil:
			report.Problems = append(report.Problems, fmt.Sprintf("the %s copy is %s: %v", c.name, c.State, c.Err))
		}
	}
	if s.conflict {
		report.Problems = append(report.Problems, fmt.Sprintf("the copies have the same sequence number %d and different content", s.best.SeqID))
	}
	return report, nil
}
