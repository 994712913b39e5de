// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"time"
	"unicode/utf8"
)

func defaults() *Config {
	return &Config{
		StateDir: "/var/lib/imxcrypt",
		CAAM: CAAM{
			Engine:   EngineIoctl,
			Device:   "/dev/caam-keygen",
			Program:  "/usr/bin/caam-keygen",
			Location: "/data/caam",
		},
	}
}

// volumeDefaults are those that depend on no other field; completeVolumes does
// the rest.
func volumeDefaults() Volume {
	return Volume{
		Source:     SourceCAAM,
		SectorSize: 4096,
		Header:     HeaderOnDevice,
		HeaderSize: 1 * mib,
		Filesystem: Filesystem{Type: "ext4"},
		AtBoot:     true,
		Required:   true,
		Timeout:    10 * time.Second,
	}
}

// completeVolumes fills the defaults that follow from another field. A field
// that is given stays as it is, even when it is empty or zero: the validation
// judges it.
func completeVolumes(c *Config, given map[string]position) {
	for i := range c.Volumes {
		v := &c.Volumes[i]
		absent := func(name string) bool {
			_, there := given[join(item("volumes", i), name)]
			return !there
		}
		s, _ := rulesOf(v.Source)
		if absent("wrap") {
			v.Wrap = s.wrap
		}
		if absent("key_size") {
			v.KeySize = s.keySize
		}
		if absent("cipher") && len(s.ciphers) > 0 {
			v.Cipher = s.ciphers[0]
		}
		if absent("gap") && !v.Detached() {
			v.Gap = 1 * mib
		}
		if absent("filesystem.label") {
			v.Filesystem.Label = defaultLabel(v.Name, v.Filesystem.Type)
		}
	}
}

// defaultLabel is the volume's name as far as the filesystem can hold it.
func defaultLabel(name, fstype string) string {
	fs, known := filesystemOf(fstype)
	if !known {
		return ""
	}
	if strings.ContainsAny(name, fs.noLabel) {
		name = strings.Map(func(c rune) rune {
			if strings.ContainsRune(fs.noLabel, c) {
				return '_'
			}
			return c
		}, name)
	}
	if len(name) <= fs.labelBytes {
		return name
	}
	n := fs.labelBytes
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}
