// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"slices"
	"strings"

	"imxcrypt/configs"
)

// KernelOptions are what the kernel command line says to imxcrypt. It is not
// protected on every board, so it can only narrow what the configuration
// allows: choose among its volumes, or another file in the configuration's folders.
type KernelOptions struct {
	// Narrowed reports whether imxcrypt.volumes= was given.
	Narrowed bool
	// Volumes are its names; none at all opens nothing.
	Volumes []string
	// Config is imxcrypt.config=, a path.
	Config string
	// Debug is imxcrypt.debug.
	Debug bool
}

// ParseKernelOptions reads /proc/cmdline. Of an option that is given several
// times the last one counts, as the boot loader's additions come last.
func ParseKernelOptions(cmdline string) KernelOptions {
	var o KernelOptions
	for _, word := range kernelWords(cmdline) {
		name, value, given := strings.Cut(word, "=")
		switch name {
		case "--":
			return o // what follows is init's
		case "imxcrypt.volumes":
			o.Narrowed = given
			o.Volumes = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		case "imxcrypt.config":
			o.Config = value
		case "imxcrypt.debug":
			o.Debug = !given || value == "1" || value == "y" || value == "yes" || value == "on" || value == "true"
		}
	}
	return o
}

// kernelWords splits at white space outside of double quotes, and removes these
// (kernel, lib/cmdline.c, next_arg).
func kernelWords(cmdline string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := range len(cmdline) {
		switch c := cmdline[i]; {
		case c == '"':
			quoted = !quoted
			inWord = true
		case !quoted && strings.IndexByte(" \t\n\r\v\f", c) >= 0:
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// LeftOut are the volumes that the system cannot do without and that would be opened
// at boot, but for the kernel command line.
func (o KernelOptions) LeftOut(c *configs.Config) []string {
	var names []string
	for _, v := range c.Volumes {
		if o.Narrowed && v.Needed() && v.AtBoot && !slices.Contains(o.Volumes, v.Name) {
			names = append(names, v.Name)
		}
	}
	return names
}

// Narrow leaves only those volumes in a configuration that the kernel command
// line names. It returns the names that the configuration does not have.
func (o KernelOptions) Narrow(c *configs.Config) (narrowed *configs.Config, unknown []string) {
	if !o.Narrowed {
		return c, nil
	}
	copied := *c
	copied.Volumes = slices.DeleteFunc(slices.Clone(c.Volumes), func(v configs.Volume) bool {
		return !slices.Contains(o.Volumes, v.Name)
	})
	for _, name := range o.Volumes {
		if !slices.ContainsFunc(c.Volumes, func(v configs.Volume) bool { return v.Name == name }) {
			unknown = append(unknown, name)
		}
	}
	return &copied, unknown
}
