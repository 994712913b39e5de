// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"fmt"
	"io"
)

// Report is the result of checking a valid header.
type Report struct {
	Header *Header
	Copies Copies
	// Problems are faults that do not make the header unusable, such as a copy to be
	// repaired or copies in conflict. Each is one sentence.
	Problems []string
}

// Check validates any LUKS2 header, including cryptsetup's, by the specification. size is
// that of the device or file in bytes. dataSize is that of the device with the data,
// negative if it is not known (a detached header, a backup file). Mandatory requirements
// are reported, not checked. With an error Report.Header is nil, but Report.Copies is
// still filled in. Errors are as for [Read]; an *InvalidError names the first broken
// rule.
func Check(r io.ReaderAt, size, dataSize int64) (*Report, error) {
	return check(r, place{size: size, kind: anywhere, data: dataSize})
}

// CheckForeign is Check for headers of other programs. It is no stricter than cryptsetup
// where cryptsetup accepts more than the specification says: key derivations that it does
// not know, parameters that another program left, segments larger than any device,
// alignments that dm-crypt would refuse. Texts that are not JSON, or that two readers may
// understand in two ways, are still refused. Numbers larger than any device differ in
// Report.Header from those in the header.
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
