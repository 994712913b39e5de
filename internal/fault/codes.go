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
	GeneratorFailed   Code = "generator-failed" // said by the unit that stands for those that could not be made
	VolumeUnknown     Code = "volume-unknown"
	CipherNotAllowed  Code = "cipher-not-allowed"
	ConfirmationNeeds Code = "confirmation-needed"
)

// The key was rejected.
const (
	BlobRejected      Code = "blob-rejected" // the hardware's integrity check failed
	BlobDamaged       Code = "blob-damaged"  // not a blob, or a broken one, seen before the hardware
	BlobOpenState     Code = "blob-open-state"
	KeyWrong          Code = "key-wrong" // the key opened, the check says it is another one
	KeyFileDamaged    Code = "key-file-damaged"
	KeyLengthMismatch Code = "key-length-mismatch"
	IdentityWrong     Code = "identity-wrong"         // does not open the recovery copy
	KeysLost          Code = "keys-lost"              // in the kernel, by a suspend in the middle of a rotation
	StaysSuspended    Code = "volume-stays-suspended" // after a sleep the key was not proved
)

// Something is missing in the device, the chip or the kernel.
const (
	DeviceMissing     Code = "device-missing"
	DeviceAmbiguous   Code = "device-ambiguous"
	DeviceUnsuitable  Code = "device-unsuitable" // too small, read-only, no multiple of the sector
	DeviceReadOnly    Code = "device-read-only"
	CAAMMissing       Code = "caam-missing"
	CAAMNotReady      Code = "caam-not-initialised"
	CAAMFailed        Code = "caam-failed"
	CAAMBadArgument   Code = "caam-bad-argument"
	CipherMissing     Code = "cipher-missing" // tk(cbc(aes)) is not in this kernel
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
	MountBusy   Code = "mount-busy"
	NotFrozen   Code = "not-frozen" // a process did not stop for the sleep
)

// Refused to protect data.
const (
	NotEmpty         Code = "device-not-empty"
	ForeignHeader    Code = "foreign-header"
	PlaintextFound   Code = "plaintext-filesystem"
	HeaderMismatch   Code = "header-mismatch"  // header and configuration disagree
	MappingMismatch  Code = "mapping-mismatch" // a live mapping differs from the wanted one
	OpenStateRefused Code = "open-state-refused"
	// SecurityStateUnknown: closed is required, and nothing readable says so.
	SecurityStateUnknown Code = "security-state-unknown"
	InsecureRefused      Code = "insecure-refused" // dev source without being allowed
	FilesystemMissing    Code = "filesystem-missing"
	FilesystemWrong      Code = "filesystem-wrong"
	FilesystemDamaged    Code = "filesystem-damaged"
	NotProvisioned       Code = "not-provisioned"
	FileExists           Code = "file-exists"
	MountPointMissing    Code = "mount-point-missing"
	MountPointOccupied   Code = "mount-point-occupied"
	RollbackRefused      Code = "rollback-refused"
	HeaderRolledBack     Code = "header-rolled-back"     // an old copy: of before the filesystem was used, or before a rotation
	AdoptMismatch        Code = "adopt-parameters-wrong" // blob, cipher, sector size and offset do not fit the device
	RecoveryMissing      Code = "recovery-missing"       // no recovery copy of the key in the header
	SleepRefused         Code = "sleep-refused"          // a key would not survive it
)

// Interrupted, the next run goes on.
const (
	Interrupted         Code = "interrupted"
	ProvisioningStarted Code = "provisioning-unfinished"
	EraseStarted        Code = "erase-unfinished"
)

// The header.
const (
	HeaderDamaged     Code = "header-damaged"
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
