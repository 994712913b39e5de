// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// usage has the faults of the command line and the configuration.
func usage() []Entry {
	return []Entry{
		{
			Code:    fault.Usage,
			Meaning: "The program does not accept this command line.",
			Messages: []string{
				`there is no command "…"`,
				"unknown flag: --…",
			},
			Remedy: "`imxcrypt COMMAND --help` shows what the command accepts, with an example.",
		},
		{
			Code:    fault.ConfigInvalid,
			Meaning: "The configuration has a mistake.",
			Messages: []string{
				"FILE:LINE:COLUMN: volumes[0].FIELD: …; …",
			},
			Cause:  "Each mistake is listed with its place, the field, the reason and the remedy, all of them at once.",
			Remedy: "Correct the fields listed, then run `imxcrypt config check`. [configuration.md](configuration.md) describes each field.",
		},
		{
			Code:    fault.ConfigMissing,
			Meaning: "There is no configuration at the place where it was expected.",
			Messages: []string{
				"/etc/imxcrypt/imxcrypt.yaml: there is no such file",
			},
			Cause:  "The place is what `--config` says, else `$IMXCRYPT_CONFIG`, else `/etc/imxcrypt/imxcrypt.yaml`.",
			Remedy: "`imxcrypt config example minimal > /etc/imxcrypt/imxcrypt.yaml`, then set the device.",
		},
		{
			Code:    fault.ConfigUntrusted,
			Meaning: "Others than root can write the configuration.",
			Messages: []string{
				"FILE: …owner…",
				"FILE: …can be written by others…",
			},
			Cause:  "A writer of it decides what is mounted and with which options, so it must belong to root.",
			Remedy: "`chown root:root FILE; chmod go-w FILE`, and the same for its directory.",
		},
		{
			Code:    fault.GeneratorFailed,
			Meaning: "Systemd's generator could not make the units of the volumes, because the configuration has a mistake or cannot be read.",
			Messages: []string{
				"no volume is opened: FILE:LINE:COLUMN: volumes[0].FIELD: …",
			},
			Cause:  "Nothing was opened, and local-fs.target failed, as it does for a required volume, so that no service writes into the empty directories. The line says what is wrong; `systemctl status imxcrypt-generator-failed` shows it again.",
			Remedy: "Correct the configuration, run `imxcrypt config check`, then `systemctl daemon-reload` and `systemctl default`: the boot continues.",
		},
		{
			Code:    fault.VolumeUnknown,
			Meaning: "The configuration has no volume of this name.",
			Messages: []string{
				`no volume "…" in …`,
			},
			Remedy: "`imxcrypt config show` lists the volumes.",
		},
		{
			Code:    fault.CipherNotAllowed,
			Meaning: "The cipher is not safe with keys of this source.",
			Messages: []string{
				`cipher "…" cannot be used with keys of source "…"`,
			},
			Cause:  "Each source has a list of ciphers that are. IV modes that hash the raw key bytes (essiv, lmk, tcw) lose the data at the next boot, since a black key differs at each boot.",
			Remedy: "Leave `cipher` out of the configuration to get the right one.",
		},
		{
			Code:    fault.FileMissing,
			Meaning: "A file or device that the command line names is not there.",
			Messages: []string{
				"open …: no such file or directory",
				"the backup: …: there is no such file",
			},
			Remedy: "Check the name. A relative one starts from the current directory.",
		},
		{
			Code:    fault.ConfirmationNeeds,
			Meaning: "A command that destroys something was not confirmed.",
			Messages: []string{
				"…: not confirmed",
			},
			Cause:  "It wants the volume's name typed, and there is no terminal, or another name was typed. Nothing was changed.",
			Remedy: "Type the name, or give `--yes` in a script.",
		},
	}
}
