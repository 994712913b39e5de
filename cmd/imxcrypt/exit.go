// SPDX-License-Identifier: Apache-2.0

package main

import "imxcrypt/internal/fault"

// Exit codes. They are an interface: scripts and units act on them.
const (
	exitDone          = 0
	exitFailed        = 1
	exitUsage         = 2
	exitKeyRejected   = 3
	exitMissing       = 4
	exitBusy          = 5
	exitRefused       = 6
	exitInterrupted   = 7
	exitHeaderDamaged = 8
)

const exitCodesHelp = `Exit codes:
  0  done
  1  failed
  2  usage or configuration
  3  key rejected (wrong chip, wrong security state, damaged blob)
  4  device or kernel support missing
  5  busy
  6  refused to protect data
  7  interrupted, the next run goes on
  8  header damaged`

// exitCode is the one place where errors become exit codes.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	switch fault.CodeOf(err) {
	case fault.Usage, fault.ConfigInvalid, fault.ConfigMissing, fault.ConfigUntrusted, fault.GeneratorFailed, fault.VolumeUnknown,
		fault.CipherNotAllowed, fault.ConfirmationNeeds:
		return exitUsage
	case fault.BlobRejected, fault.BlobDamaged, fault.BlobOpenState, fault.KeyWrong, fault.KeyFileDamaged,
		fault.KeyLengthMismatch, fault.IdentityWrong, fault.StaysSuspended, fault.KeysLost:
		return exitKeyRejected
	case fault.DeviceMissing, fault.DeviceAmbiguous, fault.DeviceUnsuitable, fault.DeviceReadOnly, fault.CAAMMissing,
		fault.CAAMNotReady, fault.CAAMBadArgument, fault.CipherMissing, fault.DMMissing, fault.DMCryptMissing,
		fault.KeyringMissing, fault.ProgramMissing, fault.PermissionMissing, fault.SuspendMissing:
		return exitMissing
	case fault.Busy, fault.LockHeld, fault.DeviceInUse, fault.MountBusy, fault.NotFrozen:
		return exitBusy
	case fault.NotEmpty, fault.ForeignHeader, fault.PlaintextFound, fault.HeaderMismatch, fault.MappingMismatch,
		fault.OpenStateRefused, fault.SecurityStateUnknown, fault.InsecureRefused, fault.FilesystemMissing, fault.FilesystemWrong, fault.FilesystemDamaged,
		fault.NotProvisioned, fault.FileExists, fault.MountPointMissing, fault.MountPointOccupied, fault.RollbackRefused, fault.HeaderRolledBack,
		fault.FileUnsafe, fault.AdoptMismatch, fault.RecoveryMissing, fault.SleepRefused:
		return exitRefused
	case fault.Interrupted, fault.ProvisioningStarted, fault.EraseStarted:
		return exitInterrupted
	case fault.HeaderDamaged, fault.HeaderInvalid, fault.HeaderVersion, fault.HeaderRequirement,
		fault.RotationDamaged:
		return exitHeaderDamaged
	}
	return exitFailed
}
