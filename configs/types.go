// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"time"

	"imxcrypt/internal/keysource"
)

// DefaultPath is where the configuration is looked for when neither --config
// nor IMXCRYPT_CONFIG names another file.
const DefaultPath = "/etc/imxcrypt/imxcrypt.yaml"

// Source names where a volume's key comes from.
type Source string

const (
	// SourceAuto is the source that this hardware has: caam, otherwise trusted.
	SourceAuto Source = keysource.Auto
	// SourceCAAM keeps the key in the chip's CAAM as a black key.
	SourceCAAM Source = keysource.CAAM
	// SourceDev keeps the key in a plain file: no protection, for trials.
	SourceDev Source = keysource.Dev
	// SourceTrusted uses the kernel's trusted keys, sealed by its trust source.
	SourceTrusted Source = keysource.Trusted
)

// Key says whether a volume's key is kept.
type Key string

const (
	// KeyStored is sealed and kept in the header.
	KeyStored Key = "stored"
	// KeyEphemeral is never stored.
	KeyEphemeral Key = "ephemeral"
)

// Wrap names the encryption of a black key. Its values are those of the CAAM driver's
// interface.
type Wrap string

const (
	// WrapCCM is authenticated: with a black key from another power cycle every request
	// fails.
	WrapCCM Wrap = "ccm"
	// WrapECB is not: with a black key from another power cycle data is silently read
	// and written as noise.
	WrapECB Wrap = "ecb"
)

// Engine names the interface to the CAAM.
type Engine string

const (
	// EngineIoctl talks to the driver directly.
	EngineIoctl Engine = "ioctl"
	// EngineProgram runs NXP's caam-keygen.
	EngineProgram Engine = "caam-keygen"
)

// OnPlaintext names what is done with a filesystem in plain text.
type OnPlaintext string

// The values of [Volume.OnPlaintext].
const (
	RefusePlaintext  OnPlaintext = "refuse"
	EncryptPlaintext OnPlaintext = "encrypt"
)

// HeaderOnDevice is the value of [Volume.Header] that places the header at the
// start of the volume's own device.
const HeaderOnDevice = "device"

// FilesystemNone is the [Filesystem.Type] of a volume without a filesystem.
const FilesystemNone = "none"

// FilesystemSwap is the [Filesystem.Type] of a volume that is used as swap.
const FilesystemSwap = "swap"

// AnyUUID is the [Filesystem.UUID] of a filesystem that is not recognised by its UUID.
const AnyUUID = "any"

// Config is a configuration with every default filled in.
//
// The tags name the fields as they are written in the file. In the file an int is a plain
// number, and an int64 is a size with its unit. Options after the name: must, the field
// is mandatory; short=F, the section may be written as the value of its field F alone;
// null, the value may be null.
type Config struct {
	// Directory for what imxcrypt keeps outside volume headers: the record that a volume
	// was made here, headers that were replaced, and the keys of volumes with source dev.
	// It is also where encrypt works when it makes a filesystem smaller (unless
	// --workspace names another directory). An absolute path; it may be read-only at boot,
	// unless a volume has on_plaintext: encrypt. Default: /var/lib/imxcrypt.
	StateDir string `mapstructure:"state_dir"`
	// Prefix that is put before a volume's name to form the name of its mapping:
	// /dev/mapper/PREFIXNAME. At most 32 of the characters A-Z, a-z, 0-9, '.',
	// '_' and '-', starting with a letter or digit. It is part of the mapping's
	// device-mapper UUID: change it only while the volumes are locked. Default: empty.
	MappingPrefix string `mapstructure:"mapping_prefix"`
	// Allows volumes with source dev, whose keys nothing protects. Otherwise they are
	// refused unless --allow-insecure is given. Default: false.
	AllowInsecure bool `mapstructure:"allow_insecure"`
	// How to access the chip's CAAM.
	CAAM CAAM `mapstructure:"caam"`
	// The volumes. Mandatory in one of the files; `[]` means that there are none.
	Volumes []Volume `mapstructure:"volumes,must"`

	file  string
	files []string            // in merge order
	given map[string]position // of each field that is in one of them

	definedIn map[string]string // the file of each volume, if there are several
}

// CAAM says how to access the chip's key hardware. It has no meaning for volumes with
// another source.
type CAAM struct {
	// ioctl: use the driver directly. caam-keygen: run NXP's program of that name, for
	// BSPs whose driver has another interface. Default: ioctl.
	Engine Engine `mapstructure:"engine"`
	// The driver's device node. Default: /dev/caam-keygen.
	Device string `mapstructure:"device"`
	// The program for the engine caam-keygen: an absolute path. Default:
	// /usr/bin/caam-keygen.
	Program string `mapstructure:"program"`
	// The directory that the program was built to write to: an absolute path. Nothing is
	// left there, because the program sees a private directory in its place. Default:
	// /data/caam.
	Location string `mapstructure:"location"`
}

// Trusted says what a volume requires of the kernel's trusted keys.
type Trusted struct {
	// The trust source: caam, dcp, tee or tpm. The kernel has one at a time, which it
	// chooses itself or by trusted.source= on its command line. Default: empty, any
	// trust source.
	Source string `mapstructure:"source"`
}

// Volume is one encrypted block device.
type Volume struct {
	// The volume's name, which is also its header's label. Mandatory. At most 47 of the
	// characters A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit.
	Name string `mapstructure:"name,must"`
	// The block device that holds the data. Mandatory. An absolute path, or PARTLABEL=,
	// PARTUUID=, LABEL= or UUID= with a value, which is found even without udev. So are
	// udev's links for eMMC and SD card, such as
	// /dev/disk/by-path/platform-30b60000.mmc-part3, which no other disk can match.
	// eMMC:PARTLABEL=data looks only on the eMMC, mmc@30b60000:PARTLABEL=data only on
	// what is attached to that controller of the device tree (or 30b60000.mmc, its name
	// in sysfs), whatever other disks and cards there are; eMMC:part3 is the third
	// partition of the eMMC. More than one matching device is an error. An absolute path
	// may also name a regular file that holds the volume's image (docs/images.md).
	Device string `mapstructure:"device,must"`
	// Size of the image file that provisioning makes if `device` is the path of a file
	// that does not exist: a multiple of 4KiB, with all blocks allocated. A file of
	// another size is not provisioned. Default: 0MiB, the file must exist.
	Size int64 `mapstructure:"size"`
	// Where the key comes from. caam: the chip's CAAM, with NXP's kernels. trusted: the
	// kernel's trusted keys, as in mainline. auto: provisioning takes caam if its driver
	// is there, otherwise trusted; afterwards the source is the one in the header, never
	// dev. wrap, trusted, cipher and key_size narrow the choice. dev: a plain file under
	// state_dir, for trying out (allow_insecure). Default: auto.
	Source Source `mapstructure:"source"`
	// stored: the key is sealed and kept in the header. ephemeral: a throw-away key that
	// is never stored; each time the volume is unlocked it gets a new key and is
	// formatted. This is for swap and for data that need not outlive a boot, such as /tmp
	// (docs/scratch.md). Only on a device that provisioning has marked, and that is
	// specified so that it cannot be another: by PARTLABEL=, PARTUUID=, a controller,
	// /dev/disk/by-path/, or an image file. Default: stored.
	Key Key `mapstructure:"key"`
	// The trust source that must seal a trusted key: `trusted: {source: caam}`. Default:
	// null, any.
	Trusted Trusted `mapstructure:"trusted,null"`
	// The kernel keeps a trusted key sealed, and the CAAM opens it for each request
	// (protected keys). Only with source trusted and the CAAM as trust source, from Linux
	// 6.19 on, and if dm-crypt accepts the cipher, which provisioning tries. Default:
	// false.
	Protected bool `mapstructure:"protected"`
	// How the black or protected key is encrypted: with a wrong key, ccm fails, but ecb
	// silently reads and writes noise. Only with source caam, which wrap selects if the
	// source is auto, and with protected. Default: empty, which means ccm there.
	Wrap Wrap `mapstructure:"wrap"`
	// The plain key's length in bytes. caam: 16, 24 or 32. trusted and dev: 32 or 64 for
	// aes-xts-plain64 (XTS uses two keys). trusted: 32 for other ciphers and with
	// protected. dev: as for caam with aes-cbc-plain64. Default: 0, the cipher's own: 32,
	// or 64 for aes-xts-plain64.
	KeySize int `mapstructure:"key_size"`
	// The cipher in dm-crypt's notation. caam: capi:tk(cbc(aes))-plain64, or with
	// -plain (same bytes below 2 TiB, for existing volumes) or -eboiv (unpredictable
	// IVs, one more job for the hardware per sector; only with sector_size 4096).
	// trusted: aes-xts-plain64; capi:adiantum(xchacha12,aes)-plain64, for processors
	// without AES instructions; for existing volumes aes-cbc-essiv:sha256 and, if source
	// is set to trusted, aes-cbc-plain64 (predictable IVs); with protected
	// capi:cbc(paes)-plain64. dev: aes-xts-plain64 or aes-cbc-plain64. Default: empty,
	// the source's first cipher in this list; for trusted, provisioning chooses between
	// the first two, by the processor and the kernel, and records the choice in the
	// header.
	Cipher string `mapstructure:"cipher"`
	// Bytes that are encrypted at a time: 512, 1024, 2048 or 4096. Each sector is a
	// request to the hardware, so 4096 is fastest. A rotation changes it, if the
	// filesystem allows that. Default: 4096.
	SectorSize int `mapstructure:"sector_size"`
	// device: the header is at the start of the device. Otherwise the absolute path of a
	// file for the header (detached); the data then starts at the device's first byte.
	// Default: device.
	Header string `mapstructure:"header"`
	// Room for the header, in multiples of 4KiB, from 64KiB to 16MiB. Used when the
	// volume is provisioned. Without a gap a rotation keeps its journal there, and is
	// faster with 16MiB. Default: 1MiB, or 4MiB with a detached header.
	HeaderSize int64 `mapstructure:"header_size"`
	// Free room between header and data, by which a rotation moves the data, in
	// multiples of 4KiB, up to 1GiB. On devices over 64MiB it is at least 4MiB, and
	// at least their preferred erase size. With 0MiB there is no gap except what aligning
	// the data to the erase size leaves; rotation is then slower. Used when the volume is
	// provisioned. Default: 1MiB, or 0MiB with a detached header (no other value is
	// possible there).
	Gap int64 `mapstructure:"gap"`
	// Passes discards (TRIM) to the device. Good for flash, but reveals which sectors are
	// unused. Default: false.
	AllowDiscards bool `mapstructure:"allow_discards"`
	// If the partition has grown, the volume takes the new space when it is opened, and
	// the mounted filesystem grows: ext4, xfs and btrfs. Default: false.
	Grow bool `mapstructure:"grow"`
	// dm-crypt's optional flags: same_cpu_crypt,
	// submit_from_crypt_cpus, no_read_workqueue, no_write_workqueue, high_priority.
	// Measure before using any. Default: none.
	CryptFlags []string `mapstructure:"crypt_flags"`
	// Allows provisioning while the chip is open: its master key is then the same on all
	// chips, and closing the chip makes the volume unreadable for ever. Default: false.
	AllowOpenState bool `mapstructure:"allow_open_state"`
	// Opens a detached header that has no check of its key, whatever filesystem it names.
	// This is for volumes that an earlier version adopted, until `imxcrypt provision` has
	// added the check. Anyone who can write to the file can then put another volume of
	// this chip in its place. Default: false.
	AllowUnboundHeader bool `mapstructure:"allow_unbound_header"`
	// What boot and unlock do with a device that holds a filesystem in plain text.
	// refuse: it is neither opened nor mounted. encrypt: it becomes the volume, once, if
	// `imxcrypt encrypt` would accept it, and is encrypted while in use. An ext4
	// filesystem that leaves no room for a header on the device is made smaller first.
	// The record that this was done is kept in state_dir, which must be persistent; from
	// then on plain text is refused. Remove the setting with the next update
	// (docs/encrypt.md). Default: refuse.
	OnPlaintext OnPlaintext `mapstructure:"on_plaintext"`
	// Pins the header's UUID: a header with another UUID is refused, and provisioning
	// gives the volume this one. Default: empty, any.
	UUID string `mapstructure:"uuid"`
	// The filesystem that provisioning makes and opening expects. Its type alone
	// may be given: `filesystem: xfs`.
	Filesystem Filesystem `mapstructure:"filesystem,short=type"`
	// Where the filesystem is mounted. Its path alone may be given: `mount: /data`.
	// Default: null, not mounted by imxcrypt.
	Mount Mount `mapstructure:"mount,short=path,null"`
	// Whether the volume is opened at boot. Otherwise it is opened on request (imxcrypt
	// unlock, systemctl start, a line in fstab), and is not required, whatever `required`
	// says. Default: true.
	AtBoot bool `mapstructure:"at_boot"`
	// Whether the system needs the volume: if it cannot be opened, boot fails. Default:
	// true.
	Required bool `mapstructure:"required"`
	// How long to wait for the device (and for a header's file) to appear: a number with
	// ms, s, m or h, up to 1h. With 0s imxcrypt does not wait. Default: 10s.
	Timeout time.Duration `mapstructure:"timeout"`
}

// Filesystem says what a volume contains.
type Filesystem struct {
	// ext4, f2fs, xfs, btrfs, vfat; squashfs or erofs: an image that an updater writes to
	// the mapping, never made by imxcrypt and mounted read-only; swap: used as swap, only
	// with key: ephemeral; or none: the volume is used as a block device. Default: ext4.
	Type string `mapstructure:"type"`
	// The filesystem's label, given by mkfs: at most 16 bytes for ext4, 12 for xfs,
	// 11 for vfat, 255 for btrfs and f2fs. Default: the volume's name, cut to fit.
	Label string `mapstructure:"label"`
	// any: an updater writes other filesystems of this type over the one that
	// provisioning made, as in an update slot. The UUID is then not compared, and the key
	// is always proved by the check in the header, never by the filesystem. Only with the
	// header on the device. Default: empty, the filesystem keeps the UUID that it was
	// made with.
	UUID string `mapstructure:"uuid"`
	// Options for mkfs, each word a separate item. Options that would put part of the
	// filesystem outside the volume, or that imxcrypt sets itself, are refused. Default:
	// none.
	Options []string `mapstructure:"options"`
}

// Mount says where a volume's filesystem is mounted. Path is empty if it is not.
type Mount struct {
	// The mount point: an absolute path, which must exist. Mandatory if there is a
	// section mount.
	Path string `mapstructure:"path,must"`
	// Mount options, each a separate item, as for mount -o. Options that only fstab knows
	// (nofail, noauto, x-systemd…) are refused. Default: none.
	Options []string `mapstructure:"options"`
}

// Needed reports whether the running system cannot do without the volume.
func (v *Volume) Needed() bool { return v.Required && v.AtBoot }

// Ephemeral reports whether the volume's key is thrown away.
func (v *Volume) Ephemeral() bool { return v.Key == KeyEphemeral }

// Detached reports whether the volume's header is in a file of its own.
func (v *Volume) Detached() bool { return v.Header != HeaderOnDevice }

// InFile reports whether the volume's device can only be an image file.
func (v *Volume) InFile() bool { return strings.HasPrefix(v.Device, "/") && !below(v.Device, "/dev") }

// File returns the path that the configuration was loaded from, as given. Loading it
// again gives the same configuration.
func (c *Config) File() string { return c.file }

// Files returns the configuration's files, in merge order.
func (c *Config) Files() []string { return c.files }

// FileOf returns the file that defines a volume.
func (c *Config) FileOf(volume string) string {
	if file, ok := c.definedIn[volume]; ok {
		return file
	}
	return c.files[0]
}

// MappingName returns the name of the volume's mapping under /dev/mapper.
func (c *Config) MappingName(volume string) string { return c.MappingPrefix + volume }

// Volume returns the volume with that name. The error is an
// [*UnknownVolumeError], with a similar name if there is one.
func (c *Config) Volume(name string) (Volume, error) {
	names := make([]string, len(c.Volumes))
	for i, v := range c.Volumes {
		if v.Name == name {
			return v, nil
		}
		names[i] = v.Name
	}
	return Volume{}, &UnknownVolumeError{Name: name, Near: nearest(name, names), File: c.file, Others: len(c.files) - 1}
}
