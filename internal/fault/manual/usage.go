// SPDX-License-Identifier: Apache-2.0

package manual

import "imxcrypt/internal/fault"

// usage has the faults of the command line and the configuration.
func usage() []Entry {
	return []Entry{
		{
			Code:    fault.Usage,
			Exit:    fault.ExitUsage,
			Meaning: "The program does not accept this command line.",
			Messages: []string{
				`there is no command "…"`,
				"unknown flag: --…",
			},
			Hint: "see `COMMAND --help`",
		},
		{
			Code:    fault.ConfigInvalid,
			Exit:    fault.ExitUsage,
			Meaning: "The configuration has a mistake.",
			Messages: []string{
				"FILE:LINE:COLUMN: volumes[0].FIELD: …; …",
			},
			Cause: "Each mistake is listed with its place, the field, the reason and the remedy, all of them at once.",
			Hint:  "correct the field named above; `imxcrypt config check` tests the file, `imxcrypt config show` prints every default",
			More:  "[configuration.md](configuration.md) describes each field.",
		},
		{
			Code:    fault.ConfigMissing,
			Exit:    fault.ExitUsage,
			Meaning: "There is no configuration at the place where it was expected.",
			Messages: []string{
				"/etc/imxcrypt/imxcrypt.yaml: there is no such file",
			},
			Cause: "The place is what `--config` says, else `$IMXCRYPT_CONFIG`, else `/etc/imxcrypt/imxcrypt.yaml`.",
			Hint:  "write /etc/imxcrypt/imxcrypt.yaml, or name another file with --config; `imxcrypt config example minimal` prints one to start from",
		},
		{
			Code:    fault.ConfigUntrusted,
			Exit:    fault.ExitUsage,
			Meaning: "Others than root can write the configuration.",
			Messages: []string{
				"FILE: …owner…",
				"FILE: …can be written by others…",
			},
			Cause: "A writer of it decides what is mounted and with which options, so it must belong to root.",
			Hint:  "a writer of the configuration decides what is mounted: give the file named above to root (chown root:root) and to nobody else (chmod go-w)",
			More:  "The directory that it lies in must be root's, too.",
		},
		{
			Code:    fault.GeneratorFailed,
			Exit:    fault.ExitUsage,
			Meaning: "Systemd's generator could not make the units of the volumes, because the configuration has a mistake or cannot be read.",
			Messages: []string{
				"no volume is opened: FILE:LINE:COLUMN: volumes[0].FIELD: …",
			},
			Cause: "Nothing was opened, and local-fs.target failed, as it does for a required volume, so that no service writes into the empty directories. The line says what is wrong; `systemctl status imxcrypt-generator-failed` shows it again.",
			Hint:  "correct the configuration (`imxcrypt config check`), then: systemctl daemon-reload; systemctl default",
			More:  "The boot continues then.",
		},
		{
			Code:    fault.VolumeUnknown,
			Exit:    fault.ExitUsage,
			Meaning: "The configuration has no volume of this name.",
			Messages: []string{
				`no volume "…" in …`,
			},
			Hint: "`imxcrypt config show` lists the volumes of the configuration",
		},
		{
			Code:    fault.CipherNotAllowed,
			Exit:    fault.ExitUsage,
			Meaning: "The cipher is not safe with keys of this source.",
			Messages: []string{
				`cipher "…" cannot be used with keys of source "…"`,
				`cipher "…" cannot be adopted with … keys: one of … can`,
				`cipher aes-cbc-plain64 is for volumes that adopt takes over: its IVs can be predicted`,
			},
			Cause: "Each source has a list of ciphers that are. With `aes-cbc-plain64` a trusted key is adopted, and no key is made. IV modes that hash the raw key bytes (essiv, lmk, tcw) lose the data at the next boot, since a black key differs at each boot.",
			Hint:  "leave `cipher` out of the configuration to get the right one for the source",
		},
		{
			Code:    fault.FileMissing,
			Exit:    fault.ExitUsage,
			Meaning: "A file or device that the command line names is not there.",
			Messages: []string{
				"open …: no such file or directory",
				"the backup: …: there is no such file",
			},
			Hint: "check the name of the file or device; relative names start from the current directory",
		},
		{
			Code:    fault.ConfirmationNeeds,
			Exit:    fault.ExitUsage,
			Meaning: "A command that destroys something was not confirmed.",
			Messages: []string{
				"…: not confirmed",
			},
			Cause: "It wants the volume's name typed, and there is no terminal, or another name was typed. Nothing was changed.",
			Hint:  "type the volume's name when asked, or give --yes in a script",
		},
	}
}
