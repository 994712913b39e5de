// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"time"

	"imxcrypt/internal/keysource"
	"imxcrypt/internal/mkfs"
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

// volumeDefaults returns the defaults that depend on no other field; completeVolumes does
// the rest.
func volumeDefaults() Volume {
	return Volume{
		Source:      SourceAuto,
		Key:         KeyStored,
		SectorSize:  4096,
		Header:      HeaderOnDevice,
		HeaderSize:  1 * mib,
		OnPlaintext: RefusePlaintext,
		Filesystem:  Filesystem{Type: "ext4"},
		AtBoot:      true,
		Required:    true,
		Timeout:     10 * time.Second,
	}
}

// completeVolumes fills in the defaults that follow from another field. A field that is
// given is kept, even if it is empty or zero: validation checks it.
func completeVolumes(c *Config, given map[string]position) {
	for i := range c.Volumes {
		v := &c.Volumes[i]
		absent := func(name string) bool {
			_, there := given[join(item("volumes", i), name)]
			return !there
		}
		if absent("wrap") && keysource.Wraps(v.keys()) {
			v.Wrap = WrapCCM
		}
		if list := keysource.Defaults(v.keys()); absent("cipher") && len(list) == 1 {
			v.Cipher = list[0]
		}
		if sizes := keysource.KeySizes(v.keys(), v.Cipher); absent("key_size") && len(sizes) > 0 && v.Cipher != "" {
			v.KeySize = sizes[len(sizes)-1]
		}
		if absent("gap") && !v.Detached() {
			v.Gap = 1 * mib
		}
		if absent("header_size") && v.Detached() {
			// It holds a rotation's journal, each quarter of which costs three flushes
			// (docs/rotation.md).
			v.HeaderSize = 4 * mib
		}
		if absent("filesystem.label") {
			v.Filesystem.Label = mkfs.FitLabel(v.Filesystem.Type, v.Name)
		}
	}
}
