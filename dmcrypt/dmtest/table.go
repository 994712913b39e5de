// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/keysource"
)

// table is a loaded table: the text it was made from, and what does its I/O.
type table struct {
	text  dmcrypt.Table
	parts []part
	holds []*mapping // mappings under it, each opened by it
}

type part struct {
	start, length int64 // bytes
	below         Backing
	lower         *mapping // instead of below
	offset        int64
	crypt         *cryptPart
	zero, fail    bool
	flush         *part // where flushes go instead
}

// build makes a table as the kernel does: targets in order, and for each crypt target
// first the cipher, then the key, then the device. The lock is held.
func (k *Kernel) build(t dmcrypt.Table, above *mapping) (_ *table, err error) {
	loaded := &table{text: slices.Clone(t)}
	defer func() {
		if err != nil {
			k.drop(loaded)
		}
	}()
	for _, target := range t {
		if _, known := targets()[target.Kind()]; !known || k.lacks(target.Kind()) {
			return nil, &dmcrypt.Error{Kind: dmcrypt.ErrNoTarget, Detail: target.Kind(), Err: unix.EINVAL,
				KernelLog: []string{target.Kind() + ": unknown target type"}}
		}
		start, length := target.Extent()
		p := part{start: int64(start) * dmcrypt.SectorBytes, length: int64(length) * dmcrypt.SectorBytes}
		var device dmcrypt.Number
		switch x := target.(type) {
		case dmcrypt.Crypt:
			if p.crypt, err = k.newCrypt(x); err != nil {
				return nil, err
			}
			device, p.offset = x.Device, int64(x.Offset)*dmcrypt.SectorBytes
		case dmcrypt.Linear:
			device, p.offset = x.Device, int64(x.Offset)*dmcrypt.SectorBytes
		case dmcrypt.Delay:
			device, p.offset = x.Device, int64(x.Offset)*dmcrypt.SectorBytes
			p.flush = &part{length: p.length, offset: int64(x.FlushOffset) * dmcrypt.SectorBytes}
			if err := k.attach(loaded, p.flush, x.Flush, above); err != nil {
				return nil, err
			}
		case dmcrypt.Flakey:
			device, p.offset = x.Device, int64(x.Offset)*dmcrypt.SectorBytes
			p.fail = x.Up == 0 && len(x.Options) == 0
		case dmcrypt.Zero:
			p.zero = true
		case dmcrypt.Fail:
			p.fail = true
		}
		if !device.IsZero() {
			if err := k.attach(loaded, &p, device, above); err != nil {
				return nil, err
			}
		}
		loaded.parts = append(loaded.parts, p)
	}
	return loaded, nil
}

// attach opens the device under a part.
func (k *Kernel) attach(t *table, p *part, n dmcrypt.Number, above *mapping) error {
	var size int64
	if n.Major == k.o.Major {
		lower := k.byMinor(n.Minor)
		if lower == nil || lower == above {
			return &dmcrypt.Error{Kind: dmcrypt.ErrNoDevice, Detail: "device " + n.String(), Err: unix.ENODEV}
		}
		lower.opens++
		t.holds = append(t.holds, lower)
		p.lower = lower
		if lower.live != nil {
			size = int64(lower.live.text.Sectors()) * dmcrypt.SectorBytes
		}
	} else {
		below, err := k.o.Device(n)
		switch err {
		case nil:
		case unix.EBUSY:
			return &dmcrypt.Error{Kind: dmcrypt.ErrDeviceInUse, Detail: "device " + n.String(), Err: err}
		default:
			return &dmcrypt.Error{Kind: dmcrypt.ErrNoDevice, Detail: "device " + n.String(), Err: err}
		}
		p.below, size = below, below.Size()
	}
	if p.offset+p.length > size {
		return &dmcrypt.Error{Kind: dmcrypt.ErrDeviceTooSmall, Err: unix.EINVAL,
			Detail: fmt.Sprintf("device %s has %d sectors, the table needs %d", n, size/dmcrypt.SectorBytes, (p.offset+p.length)/dmcrypt.SectorBytes)}
	}
	return nil
}

// drop closes what a table held; the lock is held.
func (k *Kernel) drop(t *table) {
	if t == nil {
		return
	}
	for _, lower := range t.holds {
		k.release(lower)
	}
	t.holds = nil
	for _, p := range t.parts {
		if p.crypt != nil {
			clear(p.crypt.payload)
		}
	}
}

// release closes a mapping once; the last release carries out a deferred removal.
func (k *Kernel) release(m *mapping) {
	if m.opens--; m.opens == 0 && m.removing && !m.gone {
		k.destroy(m)
	}
}

// The black keys that tk takes: the length of the tagged object by the length of the red
// key, for ECB and CCM.
var tkSizes = map[uint32][2]int{16: {36, 48}, 24: {52, 56}, 32: {52, 64}}

// setKey checks what drivers check by themselves: tk the tag ("OgaT", little endian
// 0x5461674f, then version, type, red key length, object length), AES the length.
func setKey(algorithm string, payload []byte) error {
	sizes := map[string][]int{"cbc(aes)": {16, 24, 32}, "xts(aes)": {32, 48, 64}, "adiantum(xchacha12,aes)": {32}}
	if want, ok := sizes[algorithm]; ok {
		if !slices.Contains(want, len(payload)) {
			return unix.EINVAL
		}
		return nil
	}
	if algorithm == "cbc(paes)" {
		if len(payload) != keysource.ProtectedSize || payload[0] != 1 {
			return unix.EINVAL
		}
		return nil
	}
	if len(payload) < 20 || !bytes.Equal(payload[:4], []byte("OgaT")) {
		return unix.EINVAL
	}
	red, object := binary.LittleEndian.Uint32(payload[12:]), binary.LittleEndian.Uint32(payload[16:])
	if want, ok := tkSizes[red]; !ok || !slices.Contains(want[:], len(payload)) || int(object) != len(payload)-20 {
		return unix.EINVAL
	}
	return nil
}
