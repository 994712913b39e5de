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
	// SourceAuto is whichever is bound to this hardware: caam, else trusted.
	SourceAuto Source = keysource.Auto
	// SourceCAAM keeps the key in the chip's CAAM as a black key.
	SourceCAAM Source = keysource.CAAM
	// SourceDev keeps the key in a plain file: no protection, for trials.
	SourceDev Source = keysource.Dev
	// SourceTrusted has the kernel make trusted keys, sealed by its trust source.
	SourceTrusted Source = keysource.Trusted
)

// Key says what becomes of a volume's key.
type Key string

const (
	// KeyStored is sealed and kept in the header.
	KeyStored Key = "stored"
	// KeyEphemeral is never stored.
	KeyEphemeral Key = "ephemeral"
)

// Wrap names the encryption of a black key. Its values are those of the CAAM
// driver's own interface.
type Wrap string

const (
	// WrapCCM is authenticated: a black key of another power cycle makes every
	// request fail.
	WrapCCM Wrap = "ccm"
	// WrapECB is not: with a black key of another power cycle data is silently
	// read and written as noise.
	WrapECB Wrap = "ecb"
)

// Engine names the interface to the CAAM.
type Engine string

const (
	// EngineIoctl talks to the driver itself.
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

// FilesystemSwap is the [Filesystem.Type] of a volume that is swapped on.
const FilesystemSwap = "swap"

// AnyUUID is the [Filesystem.UUID] of a filesystem that is not known by its UUID.
const AnyUUID = "any"

// Config is a configuration with every default filled in.
//
// The tags name the fields as they are written in the file. An int is a plain
// number there, an int64 a size with its unit. Options behind the name: must, the
// field is obligatory; short=F, the section may be written as the value of its
// field F alone; null, it may be null.
type Config struct {
	// Directory for what imxcrypt keeps outside volume headers: the record that a
	// volume was made here, headers that were replaced, the keys of volumes with source
	// dev; and where encrypt works when it makes a filesystem smaller (unless --workspace
	// names another). An absolute path; it may be read-only at boot, unless a volume has
	// on_plaintext: encrypt. Default: /var/lib/imxcrypt.
	StateDir string `mapstructure:"state_dir"`
	// Text put before a volume's name to make its mapping's:
	// /dev/mapper/PREFIXNAME. At most 32 of the characters A-Z, a-z, 0-9, '.',
	// '_' and '-', starting with a letter or digit. It is part of the mapping's
	// device-mapper UUID: change it only while the volumes are locked. Default: empty.
	MappingPrefix string `mapstructure:"mapping_prefix"`
	// Allows volumes with source dev, whose keys are not protected by anything.
	// Without it they are refused unless the command line has --allow-insecure.
	// Default: false.
	AllowInsecure bool `mapstructure:"allow_insecure"`
	// How the chip's CAAM is reached.
	CAAM CAAM `mapstructure:"caam"`
	// The volumes. Obligatory in one of the files; `[]` says that there are none.
	Volumes []Volume `mapstructure:"volumes,must"`

	file  string
	files []string            // in merge order
	given map[string]position // of each field that is in one of them

	definedIn map[string]string // the file of each volume, if there are several
}

// CAAM says how to reach the chip's key hardware. It has no meaning for
// volumes with another source.
type CAAM struct {
	// ioctl: talk to the driver. caam-keygen: run NXP's program of that name, for
	// BSPs whose driver has another interface. Default: ioctl.
	Engine Engine `mapstructure:"engine"`
	// The driver's device node. Default: /dev/caam-keygen.
	Device string `mapstructure:"device"`
	// The program of the engine caam-keygen: an absolute path. Default:
	// /usr/bin/caam-keygen.
	Program string `mapstructure:"program"`
	// The directory that the program was built to write to: an absolute path.
	// Nothing is left there: the program sees a directory of its own in its place.
	// Default: /data/caam.
	Location string `mapstructure:"location"`
}

// Trusted says what is expected of the kernel's trusted keys.
type Trusted struct {
	// The trust source: caam, dcp, tee or tpm. The kernel has one at a time, and
	// chooses it by itself or by trusted.source= on its command line. Default: empty,
	// whichever it is.
	Source string `mapstructure:"source"`
}

// Volume is one encrypted block device.
type Volume struct {
	// The volume's name, and its header's label. Obligatory. At most 47 of the
	// characters A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit.
	Name string `mapstructure:"name,must"`
	// The block device that holds the data. Obligatory. An absolute path, or
	// PARTLABEL=, PARTUUID=, LABEL= or UUID= with a value; found without udev too.
	// So are udev's links for eMMC and SD card,
	// /dev/disk/by-path/platform-30b60000.mmc-part3: no other disk can be taken for that.
	// eMMC:PARTLABEL=data looks on the eMMC only, mmc@30b60000:PARTLABEL=data on what hangs
	// on that controller of the device tree (or 30b60000.mmc, as sysfs has it), whatever
	// other disks and cards there are; eMMC:part3 is its third partition.
	// More than one device that fits is an error.
	// An absolute path may be that of a
	// regular file, with the volume's image in it (docs/images.md).
	Device string `mapstructure:"device,must"`
	// How large provisioning makes the file with the volume's image, where `device` is the
	// path of one that is not there: in multiples of 4KiB, all its blocks allocated. A file
	// of another size is not provisioned. Default: 0MiB, the file must be there.
	Size int64 `mapstructure:"size"`
	// Where the key comes from. caam: the chip's CAAM, by NXP's kernels. trusted: the
	// kernel's trusted keys, by mainline's. auto: provisioning takes caam if its driver
	// is there, else trusted; afterwards whichever of the two the header has, never dev.
	// wrap, trusted, cipher and key_size narrow the choice. dev: a plain file under
	// state_dir, for trying out (allow_insecure). Default: auto.
	Source Source `mapstructure:"source"`
	// stored: the key is sealed and kept in the header. ephemeral: a throw-away key, never
	// stored; the volume has another one, and is formatted, whenever it is unlocked: for
	// swap and for what need not outlive a boot, as /tmp (docs/scratch.md). Only on a
	// device that provisioning has marked, and that is given by what cannot name another:
	// PARTLABEL=, PARTUUID=, behind a controller, /dev/disk/by-path/, or an image file.
	// Default: stored.
	Key Key `mapstructure:"key"`
	// Which trust source a trusted key must be sealed by: `trusted: {source: caam}`.
	// Default: null, any.
	Trusted Trusted `mapstructure:"trusted,null"`
	// Has the kernel keep a trusted key sealed, and the CAAM open it for each request
	// (protected keys): only with source trusted and the CAAM as trust source, from Linux
	// 6.19 on, where dm-crypt takes the cipher; provisioning tries that. Default: false.
	Protected bool `mapstructure:"protected"`
	// How the black or protected key is encrypted: ccm fails when the key is not right,
	// ecb silently reads and writes noise. Only with source caam, which it chooses where
	// the source is auto, and with protected. Default: empty, which is ccm there.
	Wrap Wrap `mapstructure:"wrap"`
	// The plain key's length in bytes. caam: 16, 24 or 32. trusted and dev: 32 or 64
	// for aes-xts-plain64 (XTS uses two keys); trusted: 32 for the others and with protected; dev: as for
	// caam with aes-cbc-plain64. Default: 0, the
	// cipher's own: 32, or 64 for aes-xts-plain64.
	KeySize int `mapstructure:"key_size"`
	// The cipher in dm-crypt's notation. caam: capi:tk(cbc(aes))-plain64, or with
	// -plain (same bytes below 2 TiB, for volumes that exist already) or -eboiv
	// (IVs that cannot be predicted, one more job for the hardware per sector;
	// only with sector_size 4096). trusted: aes-xts-plain64;
	// capi:adiantum(xchacha12,aes)-plain64, for processors without instructions for
	// AES; for volumes that exist aes-cbc-essiv:sha256 and, where source says trusted,
	// aes-cbc-plain64 (IVs that can be predicted); with protected capi:cbc(paes)-plain64.
	// dev: aes-xts-plain64 or aes-cbc-plain64. Default: empty, the first named of the source;
	// for trusted provisioning chooses between the first two, by the processor and what
	// the kernel has, and the header has the choice.
	Cipher string `mapstructure:"cipher"`
	// Bytes that are encrypted at a time: 512, 1024, 2048 or 4096. Each sector is a
	// request to the hardware, so 4096 is fastest. A rotation changes it,
	// where the filesystem allows that. Default: 4096.
	SectorSize int `mapstructure:"sector_size"`
	// device: the header is at the start of the device. Otherwise the absolute
	// path of a file for it (detached), and the data starts at the device's first
	// byte. Default: device.
	Header string `mapstructure:"header"`
	// Room for the header, in multiples of 4KiB, from 64KiB to 16MiB. Used when the
	// volume is provisioned. Without a gap a rotation keeps its journal there, and 16MiB make
	// it faster. Default: 1MiB, or 4MiB with a detached header.
	HeaderSize int64 `mapstructure:"header_size"`
	// Free room between header and data, by which a rotation moves the data, in
	// multiples of 4KiB, up to 1GiB. On devices over 64MiB it is at least 4MiB, and
	// at least their preferred erase size. 0MiB leaves none, but for what aligning the
	// data to the erase size makes: rotation is then slower. Used when the volume is
	// provisioned. Default: 1MiB, or 0MiB with a detached header (no other value is
	// possible there).
	Gap int64 `mapstructure:"gap"`
	// Passes discards (TRIM) to the device. Good for flash; shows which sectors
	// are unused. Default: false.
	AllowDiscards bool `mapstructure:"allow_discards"`
	// Takes the space of the device when the volume is opened, if the partition has
	// grown, and grows the mounted filesystem: ext4, xfs and btrfs. Default: false.
	Grow bool `mapstructure:"grow"`
	// dm-crypt's optional flags by their names: same_cpu_crypt,
	// submit_from_crypt_cpus, no_read_workqueue, no_write_workqueue, high_priority.
	// Measure before using any. Default: none.
	CryptFlags []string `mapstructure:"crypt_flags"`
	// Allows provisioning while the chip is open: its master key is then the same
	// on all chips, and closing the chip makes the volume unreadable for ever.
	// Default: false.
	AllowOpenState bool `mapstructure:"allow_open_state"`
	// Opens a detached header that has no check of its key, whatever filesystem it
	// names: for volumes that an earlier version adopted, until `imxcrypt provision`
	// has added the check. A writer of the file can then put another volume of
	// this chip in this one's place. Default: false.
	AllowUnboundHeader bool `mapstructure:"allow_unbound_header"`
	// What boot and unlock do with a device that holds a filesystem in plain text.
	// refuse: it is neither opened nor mounted. encrypt: it becomes the volume, once, if it
	// is what `imxcrypt encrypt` would accept, and the rest is encrypted in use. An ext4
	// that leaves no room for a header on the device is made smaller first. That it was done
	// is noted in state_dir, which must keep its files; from then on plain text is
	// refused. Take it out with the next update (docs/encrypt.md). Default: refuse.
	OnPlaintext OnPlaintext `mapstructure:"on_plaintext"`
	// Pins the header's UUID: a header with another one is refused, and
	// provisioning gives the volume this one. Default: empty, any.
	UUID string `mapstructure:"uuid"`
	// The filesystem that provisioning makes and opening expects. Its type alone
	// may be given: `filesystem: xfs`.
	Filesystem Filesystem `mapstructure:"filesystem,short=type"`
	// Where the filesystem is mounted. Its path alone may be given: `mount: /data`.
	// Default: null, not mounted by imxcrypt.
	Mount Mount `mapstructure:"mount,short=path,null"`
	// Whether the volume is opened at boot. Otherwise it is opened when somebody asks
	// for it (imxcrypt unlock, systemctl start, a line in fstab), and the system can
	// do without it, whatever required says. Default: true.
	AtBoot bool `mapstructure:"at_boot"`
	// Whether the system cannot do without the volume: if it cannot be opened, boot
	// fails. Default: true.
	Required bool `mapstructure:"required"`
	// How long to wait for the device (and for a header's file) to appear: a number with ms,
	// s, m or h, up to 1h. 0s does not wait. Default: 10s.
	Timeout time.Duration `mapstructure:"timeout"`
}

// Filesystem says what lies in a volume.
type Filesystem struct {
	// ext4, f2fs, xfs, btrfs, vfat; squashfs or erofs: an image that an updater writes to
	// the mapping, never made by imxcrypt and mounted read-only; swap: swapped on, only with
	// key: ephemeral; or none: the volume is used as a block device. Default: ext4.
	Type string `mapstructure:"type"`
	// The filesystem's label, given by mkfs: at most 16 bytes for ext4, 12 for xfs,
	// 11 for vfat, 255 for btrfs and f2fs. Default: the volume's name, cut to fit.
	Label string `mapstructure:"label"`
	// any: an updater writes other filesystems of the type over the one that provisioning
	// made, as into a slot. It is not compared with that one then, and the key is always
	// proved by the check in the header, never by the filesystem. Only with the header on the
	// device. Default: empty, the filesystem keeps the UUID that it was made with.
	UUID string `mapstructure:"uuid"`
	// Options handed to mkfs, each word an item of its own. Options by which the
	// filesystem would leave the volume, or that imxcrypt sets itself, are refused.
	// Default: none.
	Options []string `mapstructure:"options"`
}

// Mount says where a volume's filesystem is seen. A volume that is not mounted
// has an empty Path.
type Mount struct {
	// The mount point: an absolute path, which must exist. Obligatory where there
	// is a section mount.
	Path string `mapstructure:"path,must"`
	// Mount options, each an item of its own, as for mount -o. What only fstab
	// knows (nofail, noauto, x-systemd…) is refused. Default: none.
	Options []string `mapstructure:"options"`
}

// Needed reports whether the running system cannot do without the volume.
func (v *Volume) Needed() bool { return v.Required && v.AtBoot }

// Ephemeral reports whether the volume's key is thrown away.
func (v *Volume) Ephemeral() bool { return v.Key == KeyEphemeral }

// Detached reports whether the volume's header is in a file of its own.
func (v *Volume) Detached() bool { return v.Header != HeaderOnDevice }

// InFile reports whether the volume's device can only be a file with its image.
func (v *Volume) InFile() bool { return strings.HasPrefix(v.Device, "/") && !below(v.Device, "/dev") }

// File is the path the configuration was loaded from, as given. Loading it again
// gives the same configuration.
func (c *Config) File() string { return c.file }

// Files are the configuration's files, in merge order.
func (c *Config) Files() []string { return c.files }

// FileOf is the file that defines a volume.
func (c *Config) FileOf(volume string) string {
	if file, ok := c.definedIn[volume]; ok {
		return file
	}
	return c.files[0]
}

// MappingName is the name of the volume's mapping under /dev/mapper.
func (c *Config) MappingName(volume string) string { return c.MappingPrefix + volume }

// Volume returns the volume of that name. The error is an
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
