// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	devmapper "github.com/anatol/devmapper.go"

	"imxcrypt/internal/devnum"
)

// Target is one piece of a table. The types are Crypt, Linear, Delay, Fail, Zero,
// Flakey and, read back only, Unknown.
type Target interface {
	// Extent returns the piece of the mapped device, in sectors of 512 bytes.
	Extent() (start, length uint64)
	// Kind returns the target's name: "crypt".
	Kind() string
	// Params returns the target's parameters in dmsetup's notation, as the kernel echoes
	// them.
	Params() string

	validate() error
	diff(live Target) []string
	library() devmapper.Table // nil if it cannot be loaded
}

// Linear maps a piece of another device.
type Linear struct {
	Start, Length uint64
	Device        Number
	Offset        uint64
}

// Extent implements Target.
func (l Linear) Extent() (start, length uint64) { return l.Start, l.Length }

// Kind implements Target.
func (l Linear) Kind() string { return "linear" }

// Params implements Target.
func (l Linear) Params() string {
	return l.Device.String() + " " + strconv.FormatUint(l.Offset, 10)
}

func (l Linear) validate() error { return validateExtent(l.Device, l.Offset, l.Length) }

func (l Linear) library() devmapper.Table {
	return devmapper.LinearTable{
		Start: l.Start * SectorBytes, Length: l.Length * SectorBytes,
		BackendDevice: l.Device.String(), BackendOffset: l.Offset * SectorBytes,
	}
}

func (l Linear) diff(live Target) []string {
	o, ok := live.(Linear)
	if !ok {
		return diffKind(l, live)
	}
	var d differences
	d.extent(l, o)
	d.add("device", l.Device, o.Device)
	d.add("offset on the device", l.Offset, o.Offset)
	return d
}

// Delay maps a piece of another device, and directs flushes to a separate device. The
// kernel's target (since 4.18 with three devices) can also delay requests; this one does
// not.
type Delay struct {
	Start, Length uint64
	Device        Number
	Offset        uint64
	Flush         Number
	FlushOffset   uint64
}

// Extent implements Target.
func (x Delay) Extent() (start, length uint64) { return x.Start, x.Length }

// Kind implements Target.
func (x Delay) Kind() string { return "delay" }

// Params implements Target: device, offset and milliseconds of reads, of writes and of
// flushes.
func (x Delay) Params() string {
	to := fmt.Sprintf("%v %d 0", x.Device, x.Offset)
	return fmt.Sprintf("%s %[1]s %v %d 0", to, x.Flush, x.FlushOffset)
}

func (x Delay) validate() error {
	if err := validateExtent(x.Flush, x.FlushOffset, x.Length); err != nil {
		return fmt.Errorf("flushes: %w", err)
	}
	return validateExtent(x.Device, x.Offset, x.Length)
}

func (x Delay) library() devmapper.Table {
	device, offset := x.Device.String(), x.Offset*SectorBytes
	return devmapper.DelayTable{
		Start: x.Start * SectorBytes, Length: x.Length * SectorBytes,
		ReadDevice: device, ReadOffset: offset, WriteDevice: device, WriteOffset: offset,
		FlushDevice: x.Flush.String(), FlushOffset: x.FlushOffset * SectorBytes,
	}
}

func (x Delay) diff(live Target) []string {
	o, ok := live.(Delay)
	if !ok {
		return diffKind(x, live)
	}
	var d differences
	d.extent(x, o)
	d.add("parameters", x.Params(), o.Params())
	return d
}

// Fail is the target named "error": every request fails with EIO.
type Fail struct{ Start, Length uint64 }

// Extent implements Target.
func (f Fail) Extent() (start, length uint64) { return f.Start, f.Length }

// Kind implements Target.
func (f Fail) Kind() string { return "error" }

// Params implements Target; there are none.
func (f Fail) Params() string { return "" }

func (f Fail) validate() error { return nil }

func (f Fail) library() devmapper.Table {
	return devmapper.ErrorTable{Start: f.Start * SectorBytes, Length: f.Length * SectorBytes}
}

func (f Fail) diff(live Target) []string { return diffPlain(f, live) }

// Zero reads as zeros and discards what is written.
type Zero struct{ Start, Length uint64 }

// Extent implements Target.
func (z Zero) Extent() (start, length uint64) { return z.Start, z.Length }

// Kind implements Target.
func (z Zero) Kind() string { return "zero" }

// Params implements Target; there are none.
func (z Zero) Params() string { return "" }

func (z Zero) validate() error { return nil }

func (z Zero) library() devmapper.Table {
	return devmapper.ZeroTable{Start: z.Start * SectorBytes, Length: z.Length * SectorBytes}
}

func (z Zero) diff(live Target) []string { return diffPlain(z, live) }

// Flakey alternates between Up seconds in which it serves a device and Down seconds in
// which it misbehaves. It is for tests of what happens on I/O errors.
type Flakey struct {
	Start, Length uint64
	Device        Number
	Offset        uint64
	Up, Down      uint32
	// Options are none (all requests fail), drop_writes, error_writes or error_reads.
	Options []string
}

var flakeyOptions = []string{"error_reads", "drop_writes", "error_writes"}

// Extent implements Target.
func (f Flakey) Extent() (start, length uint64) { return f.Start, f.Length }

// Kind implements Target.
func (f Flakey) Kind() string { return "flakey" }

// Params implements Target. The kernel prints the count of options even if it is 0.
func (f Flakey) Params() string {
	fields := append([]string{
		f.Device.String(), strconv.FormatUint(f.Offset, 10),
		strconv.FormatUint(uint64(f.Up), 10), strconv.FormatUint(uint64(f.Down), 10),
		strconv.Itoa(len(f.Options)),
	}, f.Options...)
	return strings.Join(fields, " ")
}

func (f Flakey) validate() error {
	for _, o := range f.Options {
		if !slices.Contains(flakeyOptions, o) {
			return fmt.Errorf("option %q is not known", clip(o))
		}
	}
	if uint64(f.Up)+uint64(f.Down) == 0 {
		return fmt.Errorf("both intervals are zero")
	}
	return validateExtent(f.Device, f.Offset, f.Length)
}

func (f Flakey) library() devmapper.Table {
	return devmapper.FlakeyTable{
		Start: f.Start * SectorBytes, Length: f.Length * SectorBytes,
		Device: f.Device.String(), Offset: f.Offset * SectorBytes,
		UpInterval: uint64(f.Up), DownInterval: uint64(f.Down), Features: f.Options,
	}
}

func (f Flakey) diff(live Target) []string {
	o, ok := live.(Flakey)
	if !ok {
		return diffKind(f, live)
	}
	var d differences
	d.extent(f, o)
	d.add("parameters", f.Params(), o.Params())
	return d
}

// Unknown is a target of a kind that this package does not load, in someone else's
// table. Its parameters are not kept: they may hold a key.
type Unknown struct {
	Start, Length uint64
	Name          string
}

// Extent implements Target.
func (u Unknown) Extent() (start, length uint64) { return u.Start, u.Length }

// Kind implements Target.
func (u Unknown) Kind() string { return u.Name }

// Params implements Target; they were not kept.
func (u Unknown) Params() string { return "" }

func (u Unknown) validate() error {
	return fmt.Errorf("target %q is not one that can be loaded", u.Name)
}

func (u Unknown) library() devmapper.Table { return nil }

// diff never finds an Unknown equal to anything, since its behavior is unknown.
func (u Unknown) diff(live Target) []string {
	return []string{fmt.Sprintf("target %s is not understood", u.Name)}
}

// maxSectors limits starts, lengths and offsets: in bytes they fit a signed 64 bit
// number, so that no sum or product below overflows.
const maxSectors = 1<<63/SectorBytes - 1

func validateExtent(n Number, offset, length uint64) error {
	if n.IsZero() || n.Major > devnum.MaxMajor || n.Minor > devnum.MaxMinor {
		return fmt.Errorf("device %s does not exist", n)
	}
	if offset > maxSectors || length > maxSectors-offset {
		return fmt.Errorf("offset %d and length %d in sectors are too large", offset, length)
	}
	return nil
}
