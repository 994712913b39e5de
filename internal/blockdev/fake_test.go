// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
)

// board is a fake system: sysfs, /proc and /dev under a temporary folder, with regular
// files for the devices.
type board struct {
	t    *testing.T
	root string
	System
	minor int
}

func newBoard(t *testing.T) *board {
	t.Helper()
	root := t.TempDir()
	b := &board{t: t, root: root, System: System{Sys: root + "/sys", Proc: root + "/proc", Dev: root + "/dev"}}
	for _, d := range []string{"sys/class/block", "sys/dev/block", "sys/devices", "proc/self", "dev/mapper"} {
		b.mkdir(d)
	}
	b.file("proc/self/mountinfo", "")
	return b
}

func (b *board) mkdir(rel string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.root, rel), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) file(rel, content string) {
	b.t.Helper()
	b.mkdir(filepath.Dir(rel))
	if err := os.WriteFile(filepath.Join(b.root, rel), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) link(target, rel string) {
	b.t.Helper()
	if err := os.Symlink(filepath.Join(b.root, target), filepath.Join(b.root, rel)); err != nil {
		b.t.Fatal(err)
	}
}

// device adds a device below parent ("" for a whole disk) and returns its number. uevent
// holds further lines of its uevent file.
func (b *board) device(parent, name string, content []byte, uevent ...string) Number {
	b.t.Helper()
	b.minor++
	n := Number{Major: 179, Minor: uint32(b.minor)}
	dir := "sys/devices/" + name
	if parent != "" {
		dir = "sys/devices/" + parent + "/" + name
	}
	lines := append([]string{fmt.Sprintf("MAJOR=%d", n.Major), fmt.Sprintf("MINOR=%d", n.Minor), "DEVNAME=" + name}, uevent...)
	b.file(dir+"/size", fmt.Sprintln(len(content)/512))
	b.mkdir(dir + "/holders")
	b.mkdir(dir + "/slaves")
	if parent != "" {
		number := strings.TrimLeft(strings.TrimPrefix(name, parent), "p")
		b.file(dir+"/partition", number+"\n")
		lines = append(lines, "DEVTYPE=partition", "PARTN="+number)
	}
	b.file(dir+"/uevent", strings.Join(lines, "\n")+"\n")
	b.link(dir, "sys/class/block/"+name)
	b.link(dir, "sys/dev/block/"+n.String())
	b.file("dev/"+name, string(content))
	return n
}

// mapping adds a device-mapper device over another device.
func (b *board) mapping(name, dm, uuid, over string, content []byte) Number {
	b.t.Helper()
	n := b.device("", name, content)
	b.file("sys/devices/"+name+"/dm/name", dm+"\n")
	b.file("sys/devices/"+name+"/dm/uuid", uuid+"\n")
	b.file("sys/devices/"+name+"/dm/suspended", "0\n")
	b.link("sys/class/block/"+name, "sys/class/block/"+over+"/holders/"+name)
	b.link("sys/class/block/"+over, "sys/class/block/"+name+"/slaves/"+over)
	b.link("dev/"+name, "dev/mapper/"+dm)
	return n
}

func (b *board) find(spec string) (string, error) {
	b.t.Helper()
	path, err := b.Find(b.t.Context(), spec)
	return strings.TrimPrefix(path, b.root), err
}

// The devices' contents.

func empty() []byte { return make([]byte, 64<<10) }

// luks returns the start of a device with a LUKS header at off.
func luks(version uint16, off int, uuid, label string) []byte {
	b := make([]byte, 64<<10)
	h := b[off:]
	copy(h, luksMagic)
	if off > 0 {
		copy(h, luksSecondMagic)
	}
	binary.BigEndian.PutUint16(h[luksVersionOffset:], version)
	copy(h[luksUUIDOffset:], uuid)
	if version == 2 {
		copy(h[luksLabelOffset:], label)
		binary.BigEndian.PutUint64(h[luksOffsetOffset:], uint64(off))
	}
	return b
}

// fatImage returns a FAT12 filesystem that is as small as possible.
func fatImage(serial uint32, label string) []byte {
	b := make([]byte, 64<<10)
	copy(b, "\xeb\x3c\x90mkfs.fat\x00\x02\x01\x01\x00\x02\x10\x00\x80\x00\xf8\x01\x00")
	binary.LittleEndian.PutUint16(b[19:], uint16(len(b)/512))
	b[38] = 0x29
	binary.LittleEndian.PutUint32(b[39:], serial)
	copy(b[43:], fmt.Sprintf("%-11s", label))
	b[510], b[511] = 0x55, 0xaa
	copy(b[512:], "\xf8\xff\xff")
	copy(b[1024:], "\xf8\xff\xff")
	return b
}

type part struct {
	number     int
	uuid, name string
}

// gptDisk returns a disk of 1 MiB with a GPT of the partitions.
func gptDisk(parts ...part) []byte {
	const block, entries, each = 512, 128, 128
	b := make([]byte, 1<<20)
	b[446+4], b[510], b[511] = 0xee, 0x55, 0xaa
	le := binary.LittleEndian
	table := make([]byte, entries*each)
	for _, p := range parts {
		e := table[(p.number-1)*each:]
		copy(e, "some type's guid")
		copy(e[16:], parseGUID(p.uuid))
		for i, u := range utf16.Encode([]rune(p.name)) {
			le.PutUint16(e[56+2*i:], u)
		}
	}
	last := uint64(len(b)/block - 1)
	write := func(lba, entriesAt uint64) {
		copy(b[entriesAt*block:], table)
		h := b[lba*block:][:92]
		copy(h, "EFI PART\x00\x00\x01\x00")
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], lba)
		le.PutUint64(h[32:], last+1-lba)
		le.PutUint64(h[72:], entriesAt)
		le.PutUint32(h[80:], entries)
		le.PutUint32(h[84:], each)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	}
	write(1, 2)
	write(last, last-entries*each/block)
	return b
}

func parseGUID(s string) []byte {
	var a uint32
	var b, c uint16
	var d, e uint64
	if _, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		panic(err)
	}
	le := binary.LittleEndian
	out := le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, a), b), c)
	return append(out, binary.BigEndian.AppendUint64(nil, d<<48|e)...)
}
