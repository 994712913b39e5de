// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/devnum"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// The only copy of something, such as a volume's header or the log of a filesystem being
// made smaller, must be on storage that survives a power cut.

// Fleeting returns why what is written below a path is gone, or may be gone, after a
// power cut; empty if nothing shows that.
func Fleeting(path string) string {
	st, err := existing(path)
	if err != nil {
		return ""
	}
	mounts, err := mount.System{}.List()
	if err != nil {
		return ""
	}
	for _, e := range mounts {
		if unix.Mkdev(e.Major, e.Minor) != st.Dev {
			continue
		}
		switch e.Type {
		case "tmpfs", "ramfs", "rootfs", "devtmpfs":
			return "is in memory"
		case "overlay":
			return overlaid
		}
		number := devnum.Of(st.Dev)
		var source unix.Stat_t // btrfs has a number that is not a device's
		if e.Major == 0 && unix.Stat(e.Source, &source) == nil {
			number = devnum.Of(source.Rdev)
		}
		return fleetingDevice(number)
	}
	return ""
}

const overlaid = "is an overlay, of which the upper layer may be in memory"

// existing returns the status of the longest part of a path that exists: the rest may be
// made later.
func existing(path string) (st unix.Stat_t, err error) {
	err = unix.Stat(path, &st)
	for ; errors.Is(err, unix.ENOENT) && filepath.Dir(path) != path; err = unix.Stat(path, &st) {
		path = filepath.Dir(path)
	}
	return st, err
}

// fleetingDevice is Fleeting for a device, and those below it.
func fleetingDevice(n blockdev.Number) string {
	sys := blockdev.System{}
	for _, n := range append([]blockdev.Number{n}, sys.Below(n)...) {
		path, err := sys.Node(n)
		if err != nil {
			continue
		}
		if name := filepath.Base(path); strings.HasPrefix(name, "zram") || strings.HasPrefix(name, "ram") {
			return "is on " + path + ", which is memory"
		}
		dev, err := sys.Open(path, blockdev.Flags{})
		if err != nil {
			continue
		}
		marked := header.HasScratchMark(dev)
		if dev.Close() == nil && marked {
			return "is on a volume that gets a new key at each start (key: ephemeral)"
		}
	}
	return ""
}

// keyLocations returns the fields of the configuration that name where the only copy of a
// volume's key is, with their values.
func keyLocations(s spec.Volume) map[string]string {
	places := map[string]string{}
	if s.Detached() {
		places["header"] = s.Header
	}
	if s.Source == spec.SourceDev {
		places["state_dir"] = s.StateDir
	}
	return places
}

// warnFleeting warns of parts of a new volume that a power cut may take away. It does not
// refuse them: a person may well try a volume out in memory.
func (p *provisioning) warnFleeting() {
	places := keyLocations(p.s)
	if p.s.Size > 0 {
		places["device"] = p.s.Device
	}
	for _, field := range slices.Sorted(maps.Keys(places)) {
		if why := p.sys.Fleeting(places[field]); why != "" {
			p.j.warn(fmt.Sprintf("%s: %s %s: without it nothing opens the volume, so the volume is lost in a power cut", field, places[field], why))
		}
	}
}

// requireLasting checks that the only copy of a volume's key will survive a power cut. In
// an attended run an overlay is only a warning: its upper layer may well be on storage.
func (x *rotating) requireLasting() error {
	for field, path := range keyLocations(x.s) {
		switch why := x.sys.Fleeting(path); {
		case why == "":
		case why == overlaid && !x.unattended:
			x.j.warn(fmt.Sprintf("%s: %s %s: without that file nothing opens the volume", field, path, why))
		default:
			return fault.Newf(fault.ConfigInvalid, "%s: %s %s, and without it nothing would open the volume: name a place on storage that survives a power cut", field, path, why)
		}
	}
	return nil
}
