// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"imxcrypt/internal/fault"
)

// passphraseJSON is the line that `--recovery-passphrase --json` prints before the
// result.
type passphraseJSON struct {
	Event      string `json:"event"`
	Volume     string `json:"volume"`
	Passphrase string `json:"passphrase"`
}

// passphraseShown returns a function that shows a recovery passphrase, once and on
// stdout, or nil if none is wanted. It refuses if stdout is the journal, which would keep
// the passphrase.
func (a *app) passphraseShown(wanted bool, name string) (func(words string) error, error) {
	if !wanted {
		return nil, nil
	}
	if a.isJournal(a.stdout) {
		return nil, fault.New(fault.Usage, "--recovery-passphrase: standard output is the journal, which would keep the passphrase", nil)
	}
	return func(words string) error {
		if a.json {
			return a.printJSON(passphraseJSON{"recovery-passphrase", name, words})
		}
		_, err := fmt.Fprintf(a.stdout, "%s: recovery passphrase, shown this once: %s\n", name, words)
		return err
	}, nil
}
