// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/klog"
)

// named adds the operation and the mapping to an error of this package.
func named(err error, op, name string) error {
	var e *Error
	if errors.As(err, &e) {
		c := *e
		c.Op, c.Name = op, name
		return &c
	}
	return &Error{Op: op, Name: name, Err: err}
}

// failure classifies the error of an ioctl on a mapping, not on its table. The error of
// opening the control device is complete and returned as it is.
func (m *Mapper) failure(op, name string, err error) error {
	var unopened *Error
	if errors.As(err, &unopened) {
		return unopened
	}
	e := &Error{Op: op, Name: name, Err: errnoOf(err)}
	switch {
	case errors.Is(err, unix.ENXIO):
		e.Kind = ErrNotFound
	case errors.Is(err, unix.EBUSY):
		e.Kind = ErrBusy
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Kind = ErrPermission
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTTY):
		e.Kind = ErrNoDeviceMapper
	}
	return e
}

// errnoOf strips the library's "dm ioctl (cmd=0x…)" from an errno; Op is clearer.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func (m *Mapper) createFailed(op, name, uuid string, err error, mark *klog.Mark) error {
	if !errors.Is(err, unix.EBUSY) {
		e := m.failure(op, name, err)
		return e
	}
	e := &Error{Op: op, Name: name, Kind: ErrExists, Err: errnoOf(err), KernelLog: kernelLog(mark, Number{})}
	if i, err := m.info(name); err == nil {
		e.Opens = i.Opens
		e.Detail = fmt.Sprintf("the name belongs to device %s with uuid %q", i.Number, i.UUID)
	} else {
		e.Detail = fmt.Sprintf("uuid %q belongs to another mapping", uuid)
	}
	return e
}

// What the kernel logs for the steps of loading a crypt table (crypt_ctr and
// dm_table_add_target), which the errno alone does not distinguish. We do not rely on it:
// if the log cannot be read, or a kernel words it differently, we check the device and
// the target.
const (
	logNoTarget   = "unknown target type"
	logCipher     = "Error allocating crypto tfm"
	logKey        = "Error decoding and setting key"
	logNoDevice   = "Device lookup failed"
	logBeyondDisk = "too small for target"
)

// tableFailed classifies the error of loading a table, or of making it live.
func (m *Mapper) tableFailed(op, name string, t Table, err error, mark *klog.Mark) error {
	e := &Error{Op: op, Name: name, Err: errnoOf(err)}
	i, gone := m.info(name)
	e.KernelLog = kernelLog(mark, i.Number)
	if gone != nil {
		e.Kind = ErrNotFound
		return e
	}
	log := strings.Join(e.KernelLog, "\n")
	switch {
	case errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EKEYEXPIRED), errors.Is(err, unix.EKEYREVOKED):
		e.Kind, e.Detail = ErrNoKey, keysOf(t)
	case errors.Is(err, unix.EBUSY):
		e.Kind, e.Detail = ErrDeviceInUse, devicesOf(t)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		e.Kind, e.Detail = ErrDeviceReadOnly, devicesOf(t)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		missing := m.missing(t)
		if strings.Contains(log, logCipher) || missing == "" && !strings.Contains(log, logNoDevice) && errors.Is(err, unix.ENOENT) {
			e.Kind, e.Detail = ErrNoCipher, ciphersOf(t)
			break
		}
		e.Kind, e.Detail = ErrNoDevice, missing
		if missing == "" {
			e.Detail = devicesOf(t)
		}
	case errors.Is(err, unix.EINVAL):
		m.whyInvalid(e, t, log)
	}
	return e
}

// whyInvalid finds the reason for EINVAL.
func (m *Mapper) whyInvalid(e *Error, t Table, log string) {
	small := m.tooSmall(t)
	switch {
	case strings.Contains(log, logNoTarget):
		e.Kind = ErrNoTarget
	case strings.Contains(log, logKey):
		e.Kind, e.Detail = ErrKeyRefused, keysOf(t)
	case strings.Contains(log, logCipher):
		e.Kind, e.Detail = ErrNoCipher, ciphersOf(t)
	case strings.Contains(log, logBeyondDisk) || small != nil:
		e.Kind = ErrDeviceTooSmall
		if small != nil {
			e.Detail = small.Detail
		}
	default:
		e.Kind = ErrInvalid
		for _, target := range t {
			v, err := m.TargetVersion(target.Kind())
			if errors.Is(err, ErrNoTarget) {
				e.Kind, e.Detail = ErrNoTarget, target.Kind()
				return
			}
			if c, ok := target.(Crypt); ok && err == nil {
				for _, o := range c.Options {
					if !SupportsOption(v, o) {
						e.Kind, e.Detail = ErrNoOption, o
						return
					}
				}
			}
		}
		if len(e.KernelLog) == 0 {
			e.Detail = "the kernel log, which has the reason, cannot be read"
		}
	}
}

// missing names a device of the table that the kernel does not know; empty if it knows
// them all, or sysfs cannot be read.
func (m *Mapper) missing(t Table) string {
	if _, err := os.Stat(filepath.Join(m.options.Sys, "dev/block")); err != nil {
		return ""
	}
	for _, n := range t.Devices() {
		if _, err := os.Stat(filepath.Join(m.options.Sys, "dev/block", n.String())); errors.Is(err, fs.ErrNotExist) {
			return "device " + n.String()
		}
	}
	return ""
}

// tooSmall compares what a table uses of its devices with their sizes in sysfs.
func (m *Mapper) tooSmall(t Table) *Error {
	for _, target := range t {
		var n Number
		var end uint64
		switch x := target.(type) {
		case Crypt:
			n, end = x.Device, x.Offset+x.Length
		case Linear:
			n, end = x.Device, x.Offset+x.Length
		case Delay:
			n, end = x.Device, x.Offset+x.Length
		case Flakey:
			n, end = x.Device, x.Offset+x.Length
		default:
			continue
		}
		text, err := os.ReadFile(filepath.Join(m.options.Sys, "dev/block", n.String(), "size"))
		if err != nil {
			continue
		}
		size, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && end > size {
			return &Error{Kind: ErrDeviceTooSmall, Err: unix.EINVAL,
				Detail: fmt.Sprintf("device %s has %d sectors, the table needs %d", n, size, end)}
		}
	}
	return nil
}

func ciphersOf(t Table) string {
	return list(t, func(c Crypt) string { return string(c.Cipher) })
}

func keysOf(t Table) string { return list(t, func(c Crypt) string { return c.Key.shown() }) }

func devicesOf(t Table) string {
	var all []string
	for _, n := range t.Devices() {
		all = append(all, "device "+n.String())
	}
	return strings.Join(all, ", ")
}

func list(t Table, what func(Crypt) string) string {
	var all []string
	for _, target := range t {
		if c, ok := target.(Crypt); ok {
			all = append(all, what(c))
		}
	}
	return strings.Join(all, ", ")
}

// kernelLog returns what the kernel has logged since the mark about the device n, or
// about any device if n is zero. Lines that name another mapping's device are left out.
func kernelLog(mark *klog.Mark, n Number) []string {
	const dm, table = "device-mapper: ", "table: "
	var specific, general []string
	for _, r := range mark.Since(func(r klog.Record) bool { return r.Facility == 0 && concernsUs(r.Text) }) {
		text := strings.TrimPrefix(r.Text, dm)
		about, ok := strings.CutPrefix(text, table)
		if !ok {
			general = append(general, text)
			continue
		}
		if number, reason, ok := strings.Cut(about, ": "); ok && !n.IsZero() {
			if parsed, err := devnum.Parse(number); err == nil {
				if parsed != n {
					continue
				}
				about = reason
			}
		}
		specific = append(specific, about)
	}
	if len(specific) > 0 {
		// "ioctl: error adding target to table" adds nothing.
		return specific
	}
	return general
}

func concernsUs(text string) bool {
	lower := strings.ToLower(text)
	return strings.HasPrefix(lower, "device-mapper: ") || strings.Contains(lower, "crypt") || strings.Contains(lower, "caam")
}
