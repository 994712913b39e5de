// SPDX-License-Identifier: Apache-2.0

package configs

// Why a volume cannot be opened and mounted before another: the field that makes
// it depend on the other.
const (
	NeedsDevice     = "device"       // the other's mapping is its device, or the other's mount has its image
	NeedsMountPoint = "mount.path"   // the other's mount has its mount point
	NeedsHeader     = "header"       // the other's mount has its header
	NeedsKey        = "state_dir"    // the other's mount has the file of its key
	NeedsRecord     = "on_plaintext" // the other's mount has the record that it was encrypted
)

// Need returns why a cannot be opened and mounted before b, or "" if it can. A
// volume that needs itself, by its device or by what is in state_dir, is a mistake.
func (c *Config) Need(a, b *Volume) string {
	inMount := func(path string) bool { return b.Mount.Path != "" && below(path, b.Mount.Path) }
	switch {
	case a.Device == "/dev/mapper/"+c.MappingName(b.Name):
		return NeedsDevice
	case a.InFile() && inMount(a.Device):
		return NeedsDevice
	case a != b && a.Mount.Path != "" && inMount(a.Mount.Path):
		return NeedsMountPoint
	case a != b && a.Detached() && inMount(a.Header):
		return NeedsHeader
	case a.Source == SourceDev && inMount(c.StateDir):
		return NeedsKey
	case a.OnPlaintext == EncryptPlaintext && inMount(c.StateDir):
		return NeedsRecord
	}
	return ""
}
