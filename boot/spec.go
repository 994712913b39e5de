// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"slices"

	"imxcrypt/configs"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/volume/spec"
)

// Spec converts the configuration of a volume, including what is configured for all
// volumes, to the type that package volume uses. The two types are separate: the one in
// configs has the file's form, which it reads, documents and shows field by field, with a
// type for each set of values; volume knows no configuration. A test finds fields that
// are forgotten here.
func Spec(c *configs.Config, v configs.Volume) spec.Volume {
	s := spec.Volume{
		Name: v.Name, Mapping: c.MappingName(v.Name), Device: v.Device, Size: v.Size, Under: under(c, &v), Source: string(v.Source),
		Key: string(v.Key), Trusted: spec.Trusted(v.Trusted), Protected: v.Protected, Wrap: string(v.Wrap), KeySize: v.KeySize, Cipher: v.Cipher, SectorSize: v.SectorSize,
		Header: v.Header, HeaderSize: v.HeaderSize, Gap: v.Gap,
		AllowDiscards: v.AllowDiscards, Grow: v.Grow, CryptFlags: v.CryptFlags, AllowOpenState: v.AllowOpenState, AllowUnboundHeader: v.AllowUnboundHeader,
		AllowInsecure: c.AllowInsecure, EncryptPlain: v.OnPlaintext == configs.EncryptPlaintext, UUID: v.UUID,
		Filesystem: spec.Filesystem(v.Filesystem), Mount: spec.Mount(v.Mount),
		StateDir: c.StateDir, Timeout: v.Timeout,
	}
	if fsprobe.IsReadOnly(s.Filesystem.Type) && s.Mount.Path != "" && !slices.Contains(s.Mount.Options, "ro") {
		s.Mount.Options = append([]string{"ro"}, s.Mount.Options...)
	}
	if !v.Detached() {
		s.Header = spec.HeaderOnDevice
	}
	return s
}

// under returns the mount point of the other volume that contains a volume's image, if
// any.
func under(c *configs.Config, v *configs.Volume) string {
	deepest := ""
	for i := range c.Volumes {
		if p := c.Volumes[i].Mount.Path; v.InFile() && len(p) > len(deepest) && c.Need(v, &c.Volumes[i]) == configs.NeedsDevice {
			deepest = p
		}
	}
	return deepest
}
