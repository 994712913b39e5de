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
			Cause: "All mistakes are listed at once, each with its place, field, reason and remedy.",
			Hint:  "correct the field named above; `imxcrypt config check` tests the file, `imxcrypt config show` prints every default",
			More:  "[configuration.md](configuration.md) describes each field.",
		},
		{
			Code:    fault.ConfigMissing,
			Exit:    fault.ExitUsage,
			Meaning: "There is no configuration file where one was expected.",
			Messages: []string{
				"/etc/imxcrypt/imxcrypt.yaml: there is no such file",
			},
			Cause: "The file is the one that `--config` names, otherwise `$IMXCRYPT_CONFIG`, otherwise `/etc/imxcrypt/imxcrypt.yaml`.",
			Hint:  "write /etc/imxcrypt/imxcrypt.yaml, or name another file with --config; `imxcrypt config example minimal` prints one to start from",
		},
		{
			Code:    fault.ConfigUntrusted,
			Exit:    fault.ExitUsage,
			Meaning: "Users other than root can write to the configuration.",
			Messages: []string{
				"FILE: …owner…",
				"FILE: …can be written by users other than root…",
			},
			Cause: "Anyone who can write to it decides what is mounted and with which options, so it must belong to root.",
			Hint:  "anyone who can write to the configuration decides what is mounted: make root the owner of the file named above (chown root:root), and let no one else write to it (chmod go-w)",
			More:  "Its directory must belong to root too.",
		},
		{
			Code:    fault.GeneratorFailed,
			Exit:    fault.ExitUsage,
			Meaning: "The systemd generator could not make the units of the volumes, because the configuration has a mistake or cannot be read.",
			Messages: []string{
				"no volume is opened: FILE:LINE:COLUMN: volumes[0].FIELD: …",
			},
			Cause: "No volume was opened, and local-fs.target failed, as it does for a required volume, so that no service writes into the empty mount points. The message says what is wrong; `systemctl status imxcrypt-generator-failed` shows it again.",
			Hint:  "correct the configuration (`imxcrypt config check`), then: systemctl daemon-reload; systemctl default",
			More:  "The boot then continues.",
		},
		{
			Code:    fault.VolumeUnknown,
			Exit:    fault.ExitUsage,
			Meaning: "The configuration has no volume with this name.",
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
			Cause: "Each source has a list of ciphers that are safe. With `aes-cbc-plain64` a trusted key can be adopted, but no new key is made. IV modes that hash the raw key bytes (essiv, lmk, tcw) would lose the data at the next boot, because a black key is different at each boot.",
			Hint:  "leave `cipher` out of the configuration to get the right one for the source",
		},
		{
			Code:    fault.FileMissing,
			Exit:    fault.ExitUsage,
			Meaning: "A file or device named on the command line does not exist.",
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
				"…: not confirmed, so nothing was changed: …",
			},
			Cause: "The command asks for the volume's name, but there is no terminal, or a different name was typed. Nothing was changed.",
			Hint:  "type the volume's name when asked, or give --yes in a script",
		},
	}
}
