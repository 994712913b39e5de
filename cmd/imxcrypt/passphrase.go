// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"imxcrypt/internal/fault"
)

// passphraseJSON is the line of `--recovery-passphrase --json` before the result.
type passphraseJSON struct {
	Event      string `json:"event"`
	Volume     string `json:"volume"`
	Passphrase string `json:"passphrase"`
}

// passphraseShown returns the function that shows a recovery passphrase, once and on
// stdout; nil where none is wanted. A log keeps what it is given, so it gets none.
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
