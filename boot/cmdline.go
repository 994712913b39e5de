// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"slices"
	"strings"

	"imxcrypt/configs"
)

// KernelOptions are imxcrypt's options on the kernel command line. The command line is
// not protected on every board, so it can only narrow what the configuration allows:
// choose among its volumes, or name another file in the configuration's folders.
type KernelOptions struct {
	// Narrowed reports whether imxcrypt.volumes= was given.
	Narrowed bool
	// Volumes are the names given there; if there are none, no volume is opened.
	Volumes []string
	// Config is the path in imxcrypt.config=.
	Config string
	// Debug reports whether imxcrypt.debug is on.
	Debug bool
}

// ParseKernelOptions parses the content of /proc/cmdline. If an option is given several
// times the last one counts, because the boot loader's additions come last.
func ParseKernelOptions(cmdline string) KernelOptions {
	var o KernelOptions
	for _, word := range kernelWords(cmdline) {
		name, value, given := strings.Cut(word, "=")
		switch name {
		case "--":
			return o // what follows is for init
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

// kernelWords splits at white space outside double quotes, and removes the quotes
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

// LeftOut returns the required volumes that would be opened at boot if the kernel command
// line did not leave them out.
func (o KernelOptions) LeftOut(c *configs.Config) []string {
	var names []string
	for _, v := range c.Volumes {
		if o.Narrowed && v.Needed() && v.AtBoot && !slices.Contains(o.Volumes, v.Name) {
			names = append(names, v.Name)
		}
	}
	return names
}

// Narrow returns the configuration with only the volumes that the kernel command line
// names, and the names that the configuration does not have.
func (o KernelOptions) Narrow(c *configs.Config) (narrowed *configs.Config, unknown []string) {
	if !o.Narrowed {
		return c, nil
	}
	copied := *c
	copied.Volumes = nil
	for i := range c.Volumes {
		if slices.Contains(o.Volumes, c.Volumes[i].Name) {
			copied.Volumes = append(copied.Volumes, c.Volumes[i])
		}
	}
	for _, name := range o.Volumes {
		if !slices.ContainsFunc(c.Volumes, func(v configs.Volume) bool { return v.Name == name }) {
			unknown = append(unknown, name)
		}
	}
	return &copied, unknown
}
