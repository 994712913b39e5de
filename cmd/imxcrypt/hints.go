// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"strings"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// hint returns the advice that the table of faults has for err. It is empty if the error
// itself says what to do, as errors of the configuration do.
func (a *app) hint(err error) string { return a.hintFor("", err) }

// hintFor is hint for an error of the named volume.
func (a *app) hintFor(name string, err error) string {
	if remedied := (*configs.Error)(nil); errors.As(err, &remedied) && remedied.Remedy != "" {
		return ""
	}
	name = cmp.Or(name, a.volume)
	if of := (*volume.Error)(nil); errors.As(err, &of) {
		name = of.Volume
	}
	f, _ := fault.Lookup(fault.CodeOf(err))
	return a.fill(f.Hint, name)
}

// fill puts the command that was called, the volume's name and its mapping into a hint,
// so that its commands can be typed. If no volume is known it omits the sentences that
// need one.
func (a *app) fill(hint, name string) string {
	command := a.command
	if command == "" {
		command = "imxcrypt"
	}
	hint = strings.ReplaceAll(hint, "COMMAND", command)
	if name != "" {
		return strings.NewReplacer("NAME", name, "MAPPING", a.mapping(name)).Replace(hint)
	}
	var kept []string
	for _, sentence := range strings.Split(hint, ". ") {
		if !strings.Contains(sentence, "NAME") && !strings.Contains(sentence, "MAPPING") {
			kept = append(kept, sentence)
		}
	}
	return strings.Join(kept, ". ")
}

// mapping returns the name of a volume's mapping, which may have a prefix.
func (a *app) mapping(name string) string {
	if a.config != nil {
		if v, err := a.config.Volume(name); err == nil {
			return boot.Spec(a.config, v).Mapping
		}
	}
	return name
}
