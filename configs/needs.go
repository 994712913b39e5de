// SPDX-License-Identifier: Apache-2.0

package configs

// The reasons why a volume cannot be opened and mounted before another: the field that
// makes it depend on the other.
const (
	NeedsDevice     = "device"       // its device is the other's mapping, or its image is in the other's mount
	NeedsMountPoint = "mount.path"   // its mount point is in the other's mount
	NeedsHeader     = "header"       // its header is in the other's mount
	NeedsKey        = "state_dir"    // its key file is in the other's mount
	NeedsRecord     = "on_plaintext" // the record that it was encrypted is in the other's mount
)

// Need returns why a cannot be opened and mounted before b, or "" if it can. For a == b
// it returns why a volume needs itself, by its device or by what is in state_dir, which
// is a mistake.
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
