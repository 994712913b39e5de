// SPDX-License-Identifier: Apache-2.0

package volume

import "time"

// HeaderOnDevice is the value of [Spec.Header] for a header at the start of
// the device itself.
const HeaderOnDevice = "device"

// Names of key sources.
const (
	SourceCAAM = "caam"
	SourceDev  = "dev"
)

// FilesystemNone is the filesystem type of a volume that holds none: its users
// read and write the mapping itself.
const FilesystemNone = "none"

// Spec is what the configuration says of one volume. It is the authority:
// where the header on the device says otherwise, the volume is refused.
type Spec struct {
	// Name is the volume's name and the header's label.
	Name string
	// Mapping is the device-mapper name, /dev/mapper/Mapping.
	Mapping string
	// Device is a path or a tag (PARTLABEL=, PARTUUID=, LABEL=, UUID=).
	Device string
	// Source is where the key comes from.
	Source string
	// Wrap is how the black key is encrypted: "ecb" or "ccm".
	Wrap string
	// KeySize is the red key's size in bytes.
	KeySize int
	// Cipher in dm-crypt's notation, IV mode included.
	Cipher string
	// SectorSize is the encryption sector in bytes.
	SectorSize int
	// Header is HeaderOnDevice or the path of a detached header.
	Header string
	// HeaderSize is the whole header area at the start of the device in bytes.
	HeaderSize int64
	// Gap is the free zone between header and data in bytes.
	Gap int64
	// AllowDiscards and CryptFlags become optional parameters of the table.
	AllowDiscards bool
	CryptFlags    []string
	// AllowOpenState permits keys sealed by the test master key of an open chip.
	AllowOpenState bool
	// AllowInsecure permits the dev source.
	AllowInsecure bool
	// UUID pins the header's UUID; empty pins nothing.
	UUID       string
	Filesystem Filesystem
	Mount      MountSpec
	// StateDir is where the dev source keeps its keys.
	StateDir string
	// Timeout is how long to wait for the device to appear.
	Timeout time.Duration
}

// Filesystem is what provisioning makes and what unlocking expects.
type Filesystem struct {
	Type    string
	Label   string
	Options []string // handed to mkfs
}

// MountSpec is where a volume is mounted; an empty Path means nowhere.
type MountSpec struct {
	Path    string
	Options []string
}

// Detached tells whether the header lies in a file of its own.
func (s Spec) Detached() bool { return s.Header != HeaderOnDevice }
