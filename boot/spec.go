// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"imxcrypt/configs"
	"imxcrypt/volume"
)

// Spec is what the configuration says of one of its volumes, in the terms of
// package volume.
func Spec(c *configs.Config, v configs.Volume) volume.Spec {
	s := volume.Spec{
		Name: v.Name, Mapping: c.MappingName(v.Name), Device: v.Device, Source: string(v.Source),
		Wrap: string(v.Wrap), KeySize: v.KeySize, Cipher: v.Cipher, SectorSize: v.SectorSize,
		Header: v.Header, HeaderSize: v.HeaderSize, Gap: v.Gap,
		AllowDiscards: v.AllowDiscards, CryptFlags: v.CryptFlags, AllowOpenState: v.AllowOpenState,
		AllowInsecure: c.AllowInsecure, UUID: v.UUID,
		Filesystem: volume.Filesystem{Type: v.Filesystem.Type, Label: v.Filesystem.Label, Options: v.Filesystem.Options},
		Mount:      volume.MountSpec{Path: v.Mount.Path, Options: v.Mount.Options},
		StateDir:   c.StateDir, Timeout: v.Timeout,
	}
	if !v.Detached() {
		s.Header = volume.HeaderOnDevice
	}
	return s
}
