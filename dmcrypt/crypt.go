// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	devmapper "github.com/anatol/devmapper.go"

	"imxcrypt/internal/keysource"
)

// Crypt is a dm-crypt target of a table. Start, Length and Offset count sectors of 512
// bytes, whatever the encryption sector is.
type Crypt struct {
	Start, Length uint64
	Cipher        Cipher
	Key           KeyRef
	// IVOffset is added to the sector's number before the initialization vector is made
	// from it, in 512-byte sectors; LUKS2 calls it iv_tweak.
	IVOffset uint64
	// Device holds the ciphertext, starting at Offset.
	Device Number
	Offset uint64
	// Options are dm-crypt's optional parameters, in the kernel's order; see
	// CryptOptions.
	Options []string
}

// Extent implements Target.
func (c Crypt) Extent() (start, length uint64) { return c.Start, c.Length }

// Kind implements Target.
func (c Crypt) Kind() string { return "crypt" }

// Params implements Target.
func (c Crypt) Params() string {
	fields := append([]string{
		string(c.Cipher), c.Key.String(), strconv.FormatUint(c.IVOffset, 10),
		c.Device.String(), strconv.FormatUint(c.Offset, 10),
	}, optionFields(c.Options)...)
	return strings.Join(fields, " ")
}

// optionFields returns the count and the options, or nothing if there are none, as the
// kernel prints them.
func optionFields(options []string) []string {
	if len(options) == 0 {
		return nil
	}
	return append([]string{strconv.Itoa(len(options))}, options...)
}

// SectorSize returns the encryption sector in bytes.
func (c Crypt) SectorSize() int {
	for _, o := range c.Options {
		if v, ok := strings.CutPrefix(o, "sector_size:"); ok {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return SectorBytes
}

// Has reports whether an option without a value is set.
func (c Crypt) Has(option string) bool { return slices.Contains(c.Options, option) }

func (c Crypt) validate() error {
	if err := c.Cipher.Validate(); err != nil {
		return &cipherError{err}
	}
	spec, err := c.Cipher.Parse()
	if err != nil {
		return err
	}
	if err := c.Key.validate(spec); err != nil {
		return err
	}
	options, err := canonical(c.Options)
	if err != nil {
		return err
	}
	if !slices.Equal(options, c.Options) {
		return fmt.Errorf("options %q are not in the kernel's order and form, %q", c.Options, options)
	}
	if err := validateExtent(c.Device, c.Offset, c.Length); err != nil {
		return err
	}
	unit := uint64(c.SectorSize() / SectorBytes)
	for _, f := range []struct {
		name  string
		value uint64
	}{{"start", c.Start}, {"length", c.Length}, {"offset on the device", c.Offset}, {"iv offset", c.IVOffset}} {
		if f.value%unit != 0 {
			return fmt.Errorf("%s of %d sectors is not a multiple of the encryption sector of %d bytes", f.name, f.value, c.SectorSize())
		}
	}
	if err := c.validateIV(spec, unit); err != nil {
		return &cipherError{err}
	}
	return nil
}

// cipherError distinguishes a refused cipher from other mistakes in a table.
type cipherError struct{ err error }

func (e *cipherError) Error() string { return e.err.Error() }
func (e *cipherError) Unwrap() error { return e.err }

func (c Crypt) validateIV(spec CipherSpec, unit uint64) error {
	if c.IVOffset > maxSectors-c.Length {
		return fmt.Errorf("iv offset of %d sectors is too large", c.IVOffset)
	}
	numbers := c.IVOffset + c.Length
	if c.Has("iv_large_sectors") {
		numbers /= unit
	}
	switch {
	case spec.IV == "plain" && numbers > 1<<32:
		return fmt.Errorf("cipher %q: plain counts 32 bits of sectors and would repeat itself, take plain64", string(c.Cipher))
	case spec.Wrapped() && !keysource.FitsSector(spec.IV, c.SectorSize()):
		return fmt.Errorf("cipher %q: eboiv costs a job of the coprocessor for each sector, and is supported with sectors of 4096 bytes only", string(c.Cipher))
	case spec.Wrapped() && c.Has("no_read_workqueue") && !keysource.FitsFlag(spec.IV, "no_read_workqueue"):
		return fmt.Errorf("cipher %q: eboiv waits for the coprocessor and cannot go with no_read_workqueue", string(c.Cipher))
	}
	return nil
}

func (c Crypt) library() devmapper.Table {
	return devmapper.CryptTable{
		Start:         c.Start * SectorBytes,
		Length:        c.Length * SectorBytes,
		BackendDevice: c.Device.String(),
		BackendOffset: c.Offset * SectorBytes,
		Encryption:    string(c.Cipher),
		KeyID:         c.Key.String(),
		IVTweak:       c.IVOffset,
		Flags:         c.Options, // including the sector size, in the kernel's order
	}
}

func (c Crypt) diff(live Target) []string {
	l, ok := live.(Crypt)
	if !ok {
		return diffKind(c, live)
	}
	var d differences
	d.extent(c, l)
	d.add("cipher", string(c.Cipher), string(l.Cipher))
	d.add("key", c.Key.shown(), l.Key.shown())
	d.add("iv offset", c.IVOffset, l.IVOffset)
	d.add("device", c.Device, l.Device)
	d.add("offset on the device", c.Offset, l.Offset)
	d.add("options", sortedWords(c.Options), sortedWords(l.Options))
	return d
}

// shown returns the reference for a message.
func (k KeyRef) shown() string {
	if k.InTheClear {
		return fmt.Sprintf("a key of %d bytes in the clear", k.Size)
	}
	return k.String()
}
