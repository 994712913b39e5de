// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/devnum"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// recipe is how a volume is opened by hand: a dm-crypt table without its key.
type recipe struct {
	cipher       string
	sectorSize   int
	offset, size int64 // bytes
	large        bool  // iv_large_sectors
	// keySize is the payload length that the table names, 0 if it names none.
	keySize int
	// sealedSize is the length of the plain key, for guesses.
	sealedSize int
}

// table returns the recipe as a table over a device.
func (r recipe) table(device blockdev.Number, key dmcrypt.KeyRef) (dmcrypt.Table, error) {
	var flags []string
	if r.large && r.sectorSize > header.SectorBytes {
		flags = append(flags, "iv_large_sectors")
	}
	options, err := dmcrypt.CryptOptions(r.sectorSize, flags...)
	if err != nil {
		return nil, err
	}
	return dmcrypt.Table{dmcrypt.Crypt{
		Length: uint64(r.size / header.SectorBytes), Cipher: dmcrypt.Cipher(r.cipher), Key: key,
		Device: device, Offset: uint64(r.offset / header.SectorBytes), Options: options,
	}}, nil
}

// wraps reports whether the data is so large that the numbers of plain, which count units
// of 512 bytes in 32 bits, start again from 0 while those of plain64 do not.
func (r recipe) wraps() bool {
	return strings.HasSuffix(strings.TrimSuffix(r.cipher, "64"), "-plain") && r.size > header.SectorBytes<<32
}

// fit rounds the size down to whole sectors.
func (r recipe) fit() recipe {
	r.size -= r.size % int64(r.sectorSize)
	return r
}

// recipeOf takes the recipe from the options, and what they leave out from the
// configuration.
func (m *Manager) recipeOf(ctx context.Context, s spec.Volume, o AdoptOptions, data header.Device) (recipe, error) {
	r := recipe{cipher: s.Cipher, sectorSize: s.SectorSize, offset: int64(o.Offset) * header.SectorBytes}
	if o.Offset > uint64(data.Size()/header.SectorBytes) {
		return r, fault.Newf(fault.AdoptMismatch, "offset %d is beyond the end of %s, which has %d sectors", o.Offset, data.Path(), data.Size()/header.SectorBytes)
	}
	if o.Cipher != "" {
		r.cipher = o.Cipher
	}
	if o.SectorSize != 0 {
		r.sectorSize = o.SectorSize
	}
	device := o.Device
	if o.Table != "" {
		var err error
		if r, device, err = parseRecipe(o.Table); err != nil {
			return r, fault.New(fault.Usage, "--table", err)
		}
	}
	r.cipher = keysource.Canonical(r.cipher)
	if device != "" {
		if err := m.requireSameDevice(ctx, device, data); err != nil {
			return r, err
		}
	}
	if r.size == 0 {
		r.size = data.Size() - r.offset
		r = r.fit()
	}
	if r.cipher == keysource.CBCPlain && s.Source == spec.SourceTrusted && r.size <= header.SectorBytes<<32 {
		r.cipher = keysource.CBC // the same bytes
	}
	return r, r.check(s.Keys(), data)
}

// check refuses a recipe that cannot be adopted, whatever is on the device.
func (r recipe) check(keys string, data header.Device) error {
	ciphers := keysource.CipherNames(keys)
	switch {
	case r.wraps() && strings.HasSuffix(r.cipher, "-plain"):
		return fault.Newf(fault.AdoptMismatch, "cipher %q repeats its IVs beyond 2 TiB, so such a volume cannot be adopted; copy its data into a new one", r.cipher)
	case keys != spec.SourceCAAM && !slices.Contains(ciphers, r.cipher):
		return fault.Newf(fault.CipherNotAllowed, "cipher %q cannot be adopted with %s keys: one of %s can", r.cipher, keys, strings.Join(ciphers, ", "))
	case !slices.Contains(ciphers, r.cipher):
		return fault.Newf(fault.CipherNotAllowed, "cipher %q cannot be adopted: one of %s can (others make their IVs from the bytes of the black key, which differ at every boot, or are not the CAAM's)",
			r.cipher, strings.Join(ciphers, ", "))
	case !slices.Contains(keysource.SectorSizes(), r.sectorSize):
		return fault.Newf(fault.Usage, "%d is not a sector size of dm-crypt: 512, 1024, 2048 or 4096", r.sectorSize)
	case !keysource.FitsSector(r.cipher, r.sectorSize):
		return fault.Newf(fault.CipherNotAllowed, "cipher %q with sectors of %d bytes cannot be adopted: eboiv takes a job of the hardware more for each sector, and is supported with 4096 only",
			r.cipher, r.sectorSize)
	case r.large:
		return fault.Newf(fault.AdoptMismatch, "iv_large_sectors: "+largeReason)
	case r.size < header.MinData || r.offset < 0 || r.offset > data.Size()-r.size:
		return fault.Newf(fault.AdoptMismatch, "%d bytes from byte %d are not on %s, which has %d", r.size, r.offset, data.Path(), data.Size())
	case r.size%int64(r.sectorSize) != 0:
		return fault.Newf(fault.AdoptMismatch, "%d bytes are not a multiple of the sector size %d", r.size, r.sectorSize)
	}
	return nil
}

// largeReason is the reason to refuse iv_large_sectors: a header that cannot describe
// what is on the disk would be a trap for every reader, cryptsetup included.
const largeReason = "a LUKS2 header cannot say that the sectors are numbered that way, so such a volume cannot be adopted; copy its data into a new one"

// parseRecipe parses a line in dmsetup's notation. The device is a number or a path, and
// the mapping's name may come first, as dmsetup prints it.
func parseRecipe(line string) (r recipe, device string, err error) {
	fields := strings.Fields(line)
	if len(fields) > 0 && strings.HasSuffix(fields[0], ":") {
		fields = fields[1:]
	}
	const deviceField = 6
	if len(fields) <= deviceField+1 || fields[2] != "crypt" {
		return r, "", errors.New("not a crypt target: START LENGTH crypt CIPHER KEY IV_OFFSET DEVICE OFFSET …")
	}
	device = fields[deviceField]
	// ParseTable accepts only numbers; the rest does not depend on which number it is.
	if _, err := devnum.Parse(device); err != nil {
		fields[deviceField] = "1:1"
	}
	t, err := dmcrypt.ParseTable(strings.Join(fields, " "))
	if err != nil {
		return r, "", err
	}
	c, ok := t[0].(dmcrypt.Crypt)
	if !ok || c.Start != 0 {
		return r, "", errors.New("not one crypt target from sector 0")
	}
	if c.IVOffset != 0 {
		return r, "", fmt.Errorf("iv_offset %d: only volumes whose IVs begin at 0 can be adopted; copy the data into a new volume", c.IVOffset)
	}
	r = recipe{
		cipher: string(c.Cipher), sectorSize: c.SectorSize(), offset: int64(c.Offset) * header.SectorBytes,
		size: int64(c.Length) * header.SectorBytes, large: c.Has("iv_large_sectors"),
	}
	if !c.Key.InTheClear {
		r.keySize = c.Key.Size
	}
	return r, device, nil
}

// requireSameDevice checks that the named device, given by path, label or number, is the
// configured one.
func (m *Manager) requireSameDevice(ctx context.Context, named string, data header.Device) error {
	differs := func(number string) error {
		return fault.Newf(fault.AdoptMismatch, "the parameters name the device %s (%s), the configuration means %s (%s)", named, number, data.Path(), data.Number())
	}
	if n, err := devnum.Parse(named); err == nil {
		if n.Major != data.Number().Major || n.Minor != data.Number().Minor {
			return differs(named)
		}
		return nil
	}
	path, err := m.locateUnattached(ctx, spec.Volume{Device: named})
	if err != nil {
		return err
	}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		return err
	}
	number := dev.Number()
	if err := dev.Close(); err != nil {
		return err
	}
	if number != data.Number() {
		return differs(number.String())
	}
	return nil
}
