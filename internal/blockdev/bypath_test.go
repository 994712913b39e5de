// SPDX-License-Identifier: Apache-2.0

// These tests need no kernel of their own, so they need not run on an emulated one.
//go:build !vm

package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// Without udev, a link that names the controller finds the disk attached to it, whatever
// a foreign card is called.
func TestFindByController(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	place := func(name, at string) {
		t.Helper()
		b.mkdir(filepath.Dir("sys/devices/" + at))
		if err := os.Rename(filepath.Join(b.root, "sys/devices", name), filepath.Join(b.root, "sys/devices", at)); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Join(b.root, "sys/devices", at))
		if err != nil {
			t.Fatal(err)
		}
		moved := map[string]string{name: at}
		for _, e := range entries {
			if _, err := os.Lstat(filepath.Join(b.root, "sys/class/block", e.Name())); err == nil {
				moved[e.Name()] = at + "/" + e.Name()
			}
		}
		for name, at := range moved {
			if err := os.Remove(filepath.Join(b.root, "sys/class/block", name)); err != nil {
				t.Fatal(err)
			}
			b.link("sys/devices/"+at, "sys/class/block/"+name)
			b.link("sys/class/block", "sys/devices/"+at+"/subsystem")
		}
	}
	subsystem := func(dir, name string) {
		t.Helper()
		b.mkdir("sys/devices/" + dir)
		b.mkdir("sys/bus/" + name)
		b.link("sys/bus/"+name, "sys/devices/"+dir+"/subsystem")
	}
	for disk, host := range map[string]string{"mmcblk2": "30b60000.mmc", "mmcblk1": "30b50000.mmc"} {
		b.device("", disk, empty())
		b.device(disk, disk+"p3", empty(), "PARTNAME=data")
		n := disk[len("mmcblk"):]
		dir := "platform/soc@0/30800000.bus/" + host
		card := dir + "/mmc_host/mmc" + n + "/mmc" + n + ":0001"
		subsystem(dir, "platform")
		subsystem(dir+"/mmc_host/mmc"+n, "mmc_host")
		subsystem(card, "mmc")
		place(disk, card+"/block/"+disk)
		b.link("sys/devices/"+card, "sys/devices/"+card+"/block/"+disk+"/device")
		b.file("sys/devices/"+card+"/type", map[string]string{"mmcblk2": "MMC\n", "mmcblk1": "SD\n"}[disk])
		if disk == "mmcblk2" {
			for _, name := range []string{"mmcblk2boot0", "mmcblk2rpmb"} {
				b.device("", name, empty())
				place(name, card+"/block/mmcblk2/"+name)
			}
		}
	}
	// A USB reader is on a platform bus too, behind another bus.
	b.device("", "mmcblk3", empty())
	subsystem("platform/32e40000.usb", "platform")
	subsystem("platform/32e40000.usb/usb1/1-1", "usb")
	place("mmcblk3", "platform/32e40000.usb/usb1/1-1/block/mmcblk3")

	links := b.root + "/dev/disk/by-path/"
	for name, want := range map[string]string{
		"platform-30b60000.mmc-part3": "/dev/mmcblk2p3",
		"platform-30b50000.mmc-part3": "/dev/mmcblk1p3",
		"platform-30b60000.mmc":       "/dev/mmcblk2",
		"platform-30b60000.mmc-boot0": "/dev/mmcblk2boot0",
	} {
		if got, err := b.find(links + name); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"platform-30b60000.mmc-part4", "platform-30b40000.mmc-part3", "platform-32e40000.usb", "", "mmcblk2"} {
		var missing *NotFoundError
		if got, err := b.find(links + name); !errors.As(err, &missing) {
			t.Errorf("%q = %q, %v", name, got, err)
		}
	}

	// By a property on one controller: other devices with the property are not
	// considered.
	for spec, want := range map[string]string{
		"eMMC:PARTLABEL=data":         "/dev/mmcblk2p3",
		"eMMC:part3":                  "/dev/mmcblk2p3",
		"mmc@30b60000:PARTLABEL=data": "/dev/mmcblk2p3",
		"30b60000.mmc:PARTLABEL=data": "/dev/mmcblk2p3",
		"mmc@30b50000:PARTLABEL=data": "/dev/mmcblk1p3",
		"30b50000.mmc:part3":          "/dev/mmcblk1p3",
	} {
		if got, err := b.find(spec); got != want || err != nil {
			t.Errorf("%s = %q, %v, want %q", spec, got, err, want)
		}
	}
	_, err := b.find("PARTLABEL=data")
	for _, want := range []string{"is ambiguous", "mmcblk1p3 (", "on SD card 30b50000.mmc/mmc1:0001)", "on eMMC 30b60000.mmc/mmc2:0001)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	for spec, elsewhere := range map[string]string{
		"mmc@30b40000:PARTLABEL=data": "and elsewhere there is " + b.root + "/dev/mmcblk1p3 (",
		"eMMC:PARTLABEL=date":         "not found",
		"eMMC:part4":                  "not found",
		"mmc@30b60000:part03":         "not found",
	} {
		var missing *NotFoundError
		if got, err := b.find(spec); !errors.As(err, &missing) || fault.CodeOf(err) != fault.DeviceMissing || !strings.Contains(err.Error(), elsewhere) {
			t.Errorf("%s = %q, %v, want %q", spec, got, err, elsewhere)
		}
	}
	for _, spec := range []string{"emmc:PARTLABEL=data", "eMMC:/dev/mmcblk2p3", "eMMC:", "eMMC:data", "mmcblk2:part3", "part3"} {
		if got, err := b.find(spec); fault.CodeOf(err) != fault.ConfigInvalid {
			t.Errorf("%s = %q, %v, want a mistake", spec, got, err)
		}
	}
	if _, err := b.find("by-path=platform-30b60000.mmc"); err == nil {
		t.Error("a tag that there is not")
	}
}
