// SPDX-License-Identifier: Apache-2.0

// Package spec is what the configuration says about a volume. It is authoritative: if the
// header on the disk says otherwise, the volume is refused.
package spec

import (
	"slices"
	"time"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/keysource"
)

// HeaderOnDevice is the value of [Volume.Header] for a header at the start of the device
// itself.
const HeaderOnDevice = "device"

// Names of key sources.
const (
	SourceAuto    = keysource.Auto
	SourceCAAM    = keysource.CAAM
	SourceTrusted = keysource.Trusted
	SourceDev     = keysource.Dev
)

// FilesystemNone is the filesystem type of a volume that holds none: its users
// read and write the mapping itself.
const FilesystemNone = "none"

// Volume is what the configuration says about one volume. It is the authority: if the
// header on the device says otherwise, the volume is refused.
type Volume struct {
	// Name is the volume's name and the header's label.
	Name string
	// Mapping is the device-mapper name, /dev/mapper/Mapping.
	Mapping string
	// Device is a path or a tag (PARTLABEL=, PARTUUID=, LABEL=, UUID=), after the
	// controller to look for it on, if any.
	Device string
	// Size is the size in bytes of the image file that provisioning makes; 0 if the file
	// must exist. Under is the mount point of another volume that the file is in; empty
	// for none.
	Size  int64
	Under string
	// Source is where the key comes from.
	Source  string
	Trusted Trusted
	// Key is KeyEphemeral for a key that is never stored.
	Key string
	// Protected asks for trusted keys that only the CAAM sees.
	Protected bool
	// Wrap is how the black or protected key is encrypted: "ecb" or "ccm".
	Wrap string
	// KeySize is the red key's size in bytes.
	KeySize int
	// Cipher is in dm-crypt's notation, IV mode included.
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
	// Grow makes opening the volume take the space that the device has by then.
	Grow bool
	// AllowOpenState permits keys sealed by the test master key of an open chip.
	AllowOpenState bool
	// AllowUnboundHeader permits a detached header without a check of its key, as earlier
	// versions made when they adopted a volume, whatever filesystem it names.
	AllowUnboundHeader bool
	// AllowInsecure permits the dev source.
	AllowInsecure bool
	// EncryptPlain makes opening turn a filesystem in plain text on the device into the
	// volume, if the volume was not made before.
	EncryptPlain bool
	// UUID pins the header's UUID; empty pins nothing.
	UUID       string
	Filesystem Filesystem
	Mount      Mount
	// StateDir is where the dev source keeps its keys and where the record is kept that
	// the volume was made.
	StateDir string
	// Timeout is how long to wait for the device to appear.
	Timeout time.Duration
}

// Filesystem is what provisioning makes and what unlocking expects.
type Filesystem struct {
	Type  string
	Label string
	// UUID is AnyUUID if an updater writes other filesystems of the type over the one
	// that was made; otherwise empty.
	UUID    string
	Options []string // handed to mkfs
}

// AnyUUID is [Filesystem.UUID] of a filesystem that is not known by its UUID.
const AnyUUID = "any"

// Made reports whether provisioning makes the filesystem. Otherwise there is none, or
// it is an image that an updater writes.
func (f Filesystem) Made() bool { return f.Type != FilesystemNone && !fsprobe.IsReadOnly(f.Type) }

// ProvesKey reports whether the filesystem is, and stays, the one that provisioning made.
// Otherwise the key is proved by its check alone.
func (f Filesystem) ProvesKey() bool { return f.Made() && f.UUID != AnyUUID }

// String returns the filesystem as the configuration writes it.
func (f Filesystem) String() string {
	if f.UUID == "" {
		return f.Type
	}
	return "{type: " + f.Type + ", uuid: " + f.UUID + "}"
}

// Mount is where a volume is mounted; an empty Path means nowhere.
type Mount struct {
	Path    string
	Options []string
}

// Trusted is what the configuration expects of a trusted key. Source pins its trust
// source; empty pins nothing.
type Trusted struct{ Source string }

// KeyEphemeral is the [Volume.Key] of a volume whose key is never stored: the volume gets
// another one, and is formatted, whenever it is unlocked.
const KeyEphemeral = "ephemeral"

// FilesystemSwap is the filesystem type of a volume that is swapped on.
const FilesystemSwap = "swap"

// Ephemeral reports whether the volume's key is thrown away.
func (s Volume) Ephemeral() bool { return s.Key == KeyEphemeral }

// Swap reports whether the volume is swapped on instead of mounted.
func (s Volume) Swap() bool { return s.Filesystem.Type == FilesystemSwap }

// Mountable reports whether there is a place where the volume is used: a mount point, or
// swap.
func (s Volume) Mountable() bool { return s.Mount.Path != "" || s.Swap() }

// Detached reports whether the header is in a file of its own.
func (s Volume) Detached() bool { return s.Header != HeaderOnDevice }

// Keys returns package keysource's name for the volume's keys.
func (s Volume) Keys() string { return keysource.Kind(s.Source, s.Protected) }

// KeyWrap returns what a token says about how the key is encrypted; empty if it is not.
func (s Volume) KeyWrap() string {
	if !keysource.Wraps(s.Keys()) {
		return ""
	}
	return s.Wrap
}

// Chosen returns what the configuration says about the key, for [SourceAuto].
func (s Volume) Chosen() keysource.Chosen {
	return keysource.Chosen{Wrap: s.Wrap, Trust: s.Trusted.Source, Cipher: s.Cipher, KeySize: s.KeySize}
}

// For returns the configuration for keys of a source that [SourceAuto] may stand for, and
// for a header's cipher if the configuration names none and its key size does not exclude
// it. Any other source changes nothing: what is bound to hardware is never exchanged for
// what is not. With any other cipher the result has the default, from which the header
// then differs.
func (s Volume) For(source, cipher string) Volume {
	if s.Source == SourceAuto {
		if !slices.Contains(s.Chosen().Fitting(), source) {
			return s
		}
		s.Source = source
	}
	fits := s.KeySize == 0 || slices.Contains(keysource.KeySizes(s.Keys(), cipher), s.KeySize)
	if s.Cipher == "" && fits && slices.Contains(keysource.Defaults(s.Keys()), cipher) {
		s.Cipher = cipher
	}
	c := s.Chosen().Complete(s.Keys())
	s.Wrap, s.Cipher, s.KeySize = c.Wrap, c.Cipher, c.KeySize
	return s
}

// CipherOpen reports whether provisioning chooses the cipher because the configuration
// does not.
func (s Volume) CipherOpen() bool { return s.Cipher == "" && len(keysource.Defaults(s.Keys())) > 1 }

// Sealed reports whether the chip seals a source's keys, which then depend on its
// security state.
func Sealed(source string) bool {
	return source == SourceCAAM || source == SourceTrusted || source == SourceAuto
}

// Permitted returns an error if a volume may not use its source at all. That is known
// before any device is waited for.
func (s Volume) Permitted() error {
	if s.Swap() && !s.Ephemeral() {
		return fault.Newf(fault.ConfigInvalid, "filesystem: swap is for volumes with key: ephemeral")
	}
	if s.Protected && (s.Source != SourceTrusted || s.Trusted.Source != "" && s.Trusted.Source != keysource.TrustCAAM) {
		return fault.Newf(fault.ConfigInvalid, "protected keys are those of source trusted with the trust source caam")
	}
	if s.Source == SourceAuto {
		if len(s.Chosen().Fitting()) == 0 {
			return fault.Newf(fault.CipherNotAllowed, "source auto: no source that is bound to hardware has cipher %q, key_size %d, wrap %q and trusted.source %q", s.Cipher, s.KeySize, s.Wrap, s.Trusted.Source)
		}
		return nil
	}
	if !s.CipherOpen() && !slices.Contains(keysource.CipherNames(s.Keys()), s.Cipher) {
		return fault.Newf(fault.CipherNotAllowed, "cipher %q cannot be used with keys of source %q", s.Cipher, s.Source)
	}
	if s.Source == SourceDev && !s.AllowInsecure {
		return fault.Newf(fault.InsecureRefused, "source dev keeps its key readable beside the data and protects nothing")
	}
	return nil
}
