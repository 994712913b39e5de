// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
)

// programs looks for the programs that make and check the filesystems in use, or ext4 if
// nothing is configured.
func (x *examination) programs() {
	types := []string{}
	for _, v := range x.Volumes {
		if mkfs.Known(v.Filesystem) && !slices.Contains(types, v.Filesystem) {
			types = append(types, v.Filesystem)
		}
	}
	if len(x.Volumes) == 0 {
		types = append(types, "ext4")
	}
	var have []string
	for _, t := range types {
		make, check := mkfs.Programs(t)
		if x.program(make) == "" {
			x.found("mkfs-missing", make)
		} else {
			have = append(have, make)
		}
		if check == "" {
			continue
		}
		if x.program(check) == "" {
			x.found("fsck-missing", check)
		} else {
			have = append(have, check)
		}
	}
	if len(have) > 0 {
		x.ok("programs", "%s", strings.Join(have, ", "))
	}
}

// entropy checks the entropy for UUIDs, checks and keys of source dev; the CAAM generates
// its own. Kernels from 5.18 report 256 once they have enough, older ones up to 4096; the
// older ones wanted 128 for a good start.
func (x *examination) entropy() {
	text := x.text("/proc/sys/kernel/random/entropy_avail")
	bits, err := strconv.Atoi(text)
	generator := x.text("/sys/class/misc/hw_random/rng_current")
	switch {
	case err != nil:
		x.found("entropy-unknown")
	case bits < 128:
		x.found("entropy-low", bits)
	case generator == "" || generator == "none":
		x.ok("entropy", "%d bits, no hardware generator", bits)
	default:
		x.ok("entropy", "%d bits, hardware generator %s", bits, generator)
	}
}

// firstYear is the earliest year that a correct clock can show.
const firstYear = 2024

func (x *examination) clock() {
	if x.Now.Year() < firstYear {
		x.found("clock-unset", x.Now.UTC().Format("2006-01-02"))
		return
	}
	rtc := "no clock that runs without power"
	if name := x.text("/sys/class/rtc/rtc0/name"); name != "" {
		rtc = name
	}
	x.ok("clock", "%s, %s", x.Now.UTC().Format("2006-01-02 15:04 MST"), rtc)
}

func (x *examination) configuration() {
	switch {
	case x.Config.Problem != "":
		x.add(Check{Name: "configuration", Level: Problem, ID: string(x.Config.Code), Text: x.Config.Problem, Remedy: x.Config.Remedy, Code: x.Config.Code})
	case len(x.Volumes) == 0:
		x.found("configuration-empty", x.Config.Path)
	default:
		x.ok("configuration", "%s, %s", x.Config.Path, count(len(x.Volumes), "volume"))
	}
}

// storage checks the storage of detached headers and key files.
func (x *examination) storage() {
	var places, onDevices []string
	for _, v := range x.Volumes {
		if v.Header != "" && !slices.Contains(places, v.Header) {
			places = append(places, v.Header)
		}
		if v.Header == "" && v.Node != "" {
			// What remains to check is who may read them.
			if info, err := os.Stat(x.path(v.Node)); err == nil && info.Mode().Perm()&0o007 != 0 {
				x.found("storage-device-open", v.Node, info.Mode().Perm())
			} else if v.IntactHeader {
				onDevices = append(onDevices, v.Node)
			}
		}
	}
	if x.uses("dev") {
		places = append(places, x.StateDir)
		for _, f := range x.glob(filepath.Join(x.StateDir, "dev", "*.key")) {
			if !slices.Contains(places, f) {
				places = append(places, f)
			}
		}
	}
	if len(onDevices) > 0 {
		x.ok("storage", "two copies of the header on %s", strings.Join(onDevices, ", "))
	}
	if len(places) == 0 {
		return
	}
	mounts, err := mount.ListAt(x.path("/proc"))
	if err != nil {
		x.found("storage-unknown", err)
		return
	}
	sound := 0
	for _, p := range places {
		if x.place(mounts, p) {
			sound++
		}
	}
	if sound == len(places) {
		x.ok("storage", "%s", strings.Join(places, ", "))
	}
}

// place reports whether a path survives a power cut and is not open to everyone.
func (x *examination) place(mounts []mount.Entry, path string) bool {
	before := x.report.Problems + x.report.Warnings
	if e, ok := under(mounts, path); ok {
		switch e.Type {
		case "ext4", "ext3", "xfs", "btrfs", "f2fs", "ubifs", "jffs2", "bcachefs", "nilfs2", "squashfs", "erofs", "cramfs", "romfs", "iso9660", "overlay":
		case "tmpfs", "ramfs", "rootfs", "devtmpfs":
			x.found("storage-volatile", path, e.Type)
		default:
			x.found("storage-not-power-fail-safe", path, e.Type)
		}
		for _, o := range append(slices.Clone(e.Options), e.SuperOptions...) {
			if o == "nobarrier" || o == "barrier=0" || o == "data=writeback" {
				x.found("storage-unsafe-option", path, o)
			}
		}
	}
	info, err := os.Stat(x.path(path))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return true // closed even to us
	case err == nil && info.Mode().Perm()&0o077 != 0 && strings.HasSuffix(path, ".key"):
		x.found("storage-key-readable", path, info.Mode().Perm())
	case err == nil && !info.IsDir() && info.Mode().Perm()&0o077 != 0:
		x.found("storage-world-readable", path, info.Mode().Perm())
	}
	return x.report.Problems+x.report.Warnings == before
}

// under returns the mount that a path is on: the last one of the longest target.
func under(mounts []mount.Entry, path string) (best mount.Entry, ok bool) {
	for _, e := range mounts {
		inside := e.Target == "/" || path == e.Target || strings.HasPrefix(path, e.Target+"/")
		if inside && len(e.Target) >= len(best.Target) {
			best, ok = e, true
		}
	}
	return best, ok
}

func (x *examination) volumes() {
	for _, v := range x.Volumes {
		c := Check{Name: "volume " + v.Name, Level: v.Level, ID: string(v.Code), Text: v.Text, Remedy: v.Remedy}
		switch v.Level {
		case OK, "":
			c.Level, c.Text = OK, v.State
			if v.Generation > 0 {
				c.Text += ", generation " + strconv.Itoa(v.Generation)
			}
		case Problem:
			c.Code = v.Code
		}
		x.add(c)
		if v.EncryptsPlain && v.Generation > 0 {
			x.found("plaintext-permitted", v.Name)
		}
		if v.Shrinks && v.Generation == 0 {
			mounts, err := mount.ListAt(x.path("/proc"))
			if at, ok := under(mounts, x.StateDir); err == nil && ok && at.Target == "/" {
				x.found("plaintext-log-in-slot", x.StateDir, v.Name)
			}
		}
		for _, w := range v.Warnings {
			w.Name, w.Level = c.Name, Warning
			x.add(w)
		}
	}
}

func (x *examination) privileges() {
	if !x.Superuser {
		x.found("not-root")
	}
}
