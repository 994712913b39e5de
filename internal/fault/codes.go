// SPDX-License-Identifier: Apache-2.0

package fault

// Failed is the code of an error that nothing more is known about.
const Failed Code = "failed"

// Usage and configuration.
const (
	Usage             Code = "usage"
	ConfigInvalid     Code = "config-invalid"
	ConfigMissing     Code = "config-missing"
	ConfigUntrusted   Code = "config-untrusted" // owner or mode
	GeneratorFailed   Code = "generator-failed" // reported by the unit that replaces those that could not be generated
	VolumeUnknown     Code = "volume-unknown"
	CipherNotAllowed  Code = "cipher-not-allowed"
	FileMissing       Code = "file-missing" // named on the command line, but does not exist
	ConfirmationNeeds Code = "confirmation-needed"
)

// The key was rejected.
const (
	BlobRejected      Code = "blob-rejected" // the hardware's integrity check failed
	BlobDamaged       Code = "blob-damaged"  // not a blob, or a broken one; found before the hardware is asked
	BlobOpenState     Code = "blob-open-state"
	KeyWrong          Code = "key-wrong" // the key opened, but the check shows that it is another one
	KeyFileDamaged    Code = "key-file-damaged"
	KeyLengthMismatch Code = "key-length-mismatch"
	IdentityWrong     Code = "identity-wrong"         // does not open the recovery copy
	KeysLost          Code = "keys-lost"              // lost in the kernel because of a suspend in the middle of a rotation
	StaysSuspended    Code = "volume-stays-suspended" // the key was not proved after a sleep
)

// Something is missing in the device, the chip or the kernel.
const (
	DeviceMissing     Code = "device-missing"
	DeviceAmbiguous   Code = "device-ambiguous"
	DeviceUnsuitable  Code = "device-unsuitable" // too small, read-only, or not a multiple of the sector size
	PartitionShrunk   Code = "partition-shrunk"  // the volume extends beyond its end
	PartitionGrown    Code = "partition-grown"   // since the volume was made
	DeviceNoMedium    Code = "device-no-medium"  // no size: a loop device without a file, a reader without a card
	DeviceReadOnly    Code = "device-read-only"
	SourceMissing     Code = "source-missing" // nothing that auto could stand for
	CAAMMissing       Code = "caam-missing"
	CAAMNotReady      Code = "caam-not-initialised"
	CAAMFailed        Code = "caam-failed"
	CAAMBadArgument   Code = "caam-bad-argument"
	TrustMissing      Code = "trust-source-missing"    // no trusted keys, or nothing that seals them
	TrustOther        Code = "trust-source-other"      // not the trust source that sealed the key
	TrustParent       Code = "trust-parent-missing"    // a TPM without its persistent primary key
	TrustFailed       Code = "trust-source-failed"     // it makes no keys
	ProtectedMissing  Code = "protected-keys-missing"  // or dm-crypt does not accept their cipher
	CipherMissing     Code = "cipher-missing"          // tk(cbc(aes)) is not in this kernel
	SoftCipherMissing Code = "software-cipher-missing" // one of the kernel's own ciphers
	DMMissing         Code = "device-mapper-missing"
	DMCryptMissing    Code = "dm-crypt-missing"
	KeyringMissing    Code = "keyring-missing"
	KeyNotInKeyring   Code = "key-not-in-keyring" // not possessed by the thread that loads the table
	ProgramMissing    Code = "program-missing"
	ProgramFailed     Code = "program-failed"
	PermissionMissing Code = "permission-missing" // not root
	SuspendMissing    Code = "suspend-missing"    // no suspend-to-RAM, or nothing to freeze processes with
)

// Busy.
const (
	Busy        Code = "busy"
	LockHeld    Code = "lock-held" // another imxcrypt works on the volume
	DeviceInUse Code = "device-in-use"
	VolumeNotUp Code = "volume-not-up" // a required volume is locked or not provisioned
	// NotMounted means unlocked, but not mounted where the configuration says.
	NotMounted      Code = "not-mounted"
	MountedReadOnly Code = "mounted-read-only" // although the configuration asks for read-write
	MountBusy       Code = "mount-busy"
	KeyQuota        Code = "key-quota" // the kernel's quota of keys
	// RotationUnderWay means that the request must wait until the volume has one key.
	RotationUnderWay Code = "rotation-under-way"
	NotFrozen        Code = "not-frozen" // a process did not stop for the sleep
)

// Refused to protect data.
const (
	NotEmpty         Code = "device-not-empty"
	ForeignHeader    Code = "foreign-header"
	PlaintextFound   Code = "plaintext-filesystem"
	HeaderMismatch   Code = "header-mismatch"  // header and configuration disagree
	MappingMismatch  Code = "mapping-mismatch" // a live mapping differs from the wanted one
	OpenStateRefused Code = "open-state-refused"
	// SecurityStateUnknown means that a closed chip is required, and nothing readable
	// shows that it is closed.
	SecurityStateUnknown Code = "security-state-unknown"
	InsecureRefused      Code = "insecure-refused" // source dev, which is not allowed
	FilesystemMissing    Code = "filesystem-missing"
	FilesystemWrong      Code = "filesystem-wrong"
	FilesystemDamaged    Code = "filesystem-damaged"
	FilesystemUnclean    Code = "filesystem-unclean" // to be encrypted, but was not cleanly unmounted
	// PlaintextRefused means that on_plaintext: encrypt does not apply: the volume was
	// encrypted before, or nothing could be remembered about it.
	PlaintextRefused   Code = "plaintext-refused"
	NotProvisioned     Code = "not-provisioned"
	VolumeGone         Code = "volume-gone"
	FileExists         Code = "file-exists"
	MountPointMissing  Code = "mount-point-missing"
	MountPointOccupied Code = "mount-point-occupied"
	RollbackRefused    Code = "rollback-refused"
	HeaderRolledBack   Code = "header-rolled-back"     // an old copy, from before the filesystem was used or before a rotation
	AdoptMismatch      Code = "adopt-parameters-wrong" // blob, cipher, sector size and offset do not fit the device
	VolumeReplaced     Code = "volume-replaced"        // by another volume of the same name
	NoVolume           Code = "no-volume"              // what recover was given holds none
	RecoveryMissing    Code = "recovery-missing"       // no recovery copy of the key in the header
	RecoveryLost       Code = "recovery-lost"          // the new key cannot have a recovery copy
	SectorsRefused     Code = "sectors-refused"        // larger than what the volume holds can use
	BenchRefused       Code = "bench-device-refused"   // --device is in use, or not empty
	FingerprintWrong   Code = "fingerprint-wrong"      // the recovery copy is not the one that was recorded
	ResizeRefused      Code = "resize-refused"         // smaller, or larger than there is room for
	ShrinkRefused      Code = "shrink-refused"         // a filesystem that encrypt would have to make smaller
	DecryptRefused     Code = "decrypt-refused"        // no room behind the data for the bytes whose place the header has
	RenameRefused      Code = "rename-refused"         // the configuration has the old name, or nothing binds the key to a name
	SleepRefused       Code = "sleep-refused"          // a key would not survive it
)

// Interrupted, the next run continues.
const (
	Interrupted         Code = "interrupted"
	ProvisioningStarted Code = "provisioning-unfinished"
	EraseStarted        Code = "erase-unfinished"
	EncryptionStarted   Code = "encryption-unfinished" // before the key was proved, or while the header was written; no data has moved
	DecryptionEnding    Code = "decryption-unfinished" // not all of the filesystem's first bytes are back where the header was
	ShrinkStarted       Code = "shrink-unfinished"     // a filesystem is being made smaller, and cannot be mounted meanwhile
)

// The header.
const (
	HeaderDamaged     Code = "header-damaged"
	HeaderCopyDamaged Code = "header-copy-damaged" // the other copy is used
	HeaderMissing     Code = "header-missing"      // there was one
	HeaderInvalid     Code = "header-invalid"
	HeaderVersion     Code = "header-version"
	HeaderRequirement Code = "header-requirement"
	RotationDamaged   Code = "rotation-damaged" // no valid record, or a journal that fails its digest
)

// Storage.
const (
	IOFailed    Code = "io-failed"
	StorageFull Code = "storage-full"
	FileUnsafe  Code = "file-unsafe" // a link, not a regular file, wrong owner, too large
)
