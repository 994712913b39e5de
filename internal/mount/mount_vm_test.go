// SPDX-License-Identifier: Apache-2.0

//go:build vm

package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/internal/blockdev/blocktest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"

	"golang.org/x/sys/unix"
)

func device(t *testing.T, readOnly bool) string {
	t.Helper()
	return blocktest.Loop(t, 16<<20, blocktest.Options{ReadOnly: readOnly, Setup: func(file string) {
		if err := (mkfs.Maker{}).Make(t.Context(), "ext4", file, mkfs.Options{}); err != nil {
			t.Fatal(err)
		}
	}})
}

func folder(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mount point")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMountAndUnmount(t *testing.T) {
	dev, target := device(t, false), folder(t)
	options := []string{"noatime", "nodev", "nosuid", "noexec", "commit=30", "nofail"}
	if err := (mount.System{}).Mount(dev, target, "ext4", options); err != nil {
		t.Fatal(err)
	}
	got, err := mount.System{}.Look(target)
	if err != nil || got.State != mount.TargetOccupied || got.Mounted.Source != dev || got.Mounted.Type != "ext4" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, o := range []string{"noatime", "nodev", "nosuid", "noexec", "rw"} {
		if !slices.Contains(got.Mounted.Options, o) {
			t.Errorf("option %s is not among %v", o, got.Mounted.Options)
		}
	}
	if !slices.Contains(got.Mounted.SuperOptions, "commit=30") {
		t.Errorf("commit=30 is not among %v", got.Mounted.SuperOptions)
	}
	if err := (mount.System{}).Mount(dev, target, "ext4", nil); fault.CodeOf(err) != fault.MountPointOccupied {
		t.Errorf("mounted a second time: %v", err)
	}
	if err := (mount.System{}).Unmount(target); err != nil {
		t.Error(err)
	}
	if err := (mount.System{}).Unmount(target); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("unmounted a second time: %v", err)
	}
}

func TestBusyMountNamesTheProcess(t *testing.T) {
	dev, target := device(t, false), folder(t)
	if err := (mount.System{}).Mount(dev, target, "ext4", nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(target, "log"))
	if err != nil {
		t.Fatal(err)
	}
	err = mount.System{}.Unmount(target)
	var busy *mount.BusyError
	if !errors.As(err, &busy) || !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("%v does not name this process", err)
	}
	_ = f.Close()
	inner := filepath.Join(target, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (mount.System{}).Mount("none", inner, "tmpfs", nil); err != nil {
		t.Fatal(err)
	}
	if err := (mount.System{}).Unmount(target); !errors.As(err, &busy) || !slices.Equal(busy.Users.Mounts, []string{inner}) {
		t.Errorf("%v does not name the mount below", err)
	}
	for _, p := range []string{inner, target} {
		if err := (mount.System{}).Unmount(p); err != nil {
			t.Error(err)
		}
	}
}

func TestMountRefused(t *testing.T) {
	dev, target := device(t, false), folder(t)
	for _, c := range []struct {
		source, target, fstype string
		options                []string
		code                   fault.Code
		errno                  error
	}{
		{dev, target + "/none", "ext4", nil, fault.MountPointMissing, nil},
		{dev, "/etc/passwd", "ext4", nil, fault.MountPointMissing, nil},
		{dev, target, "ext4", []string{"nosuchoption"}, fault.ConfigInvalid, unix.EINVAL},
		{dev, target, "nosuchfs", nil, fault.Failed, unix.ENODEV},
		{dev, target, "xfs", nil, fault.FilesystemWrong, unix.EINVAL},
		{"/dev/nosuchdevice", target, "ext4", nil, fault.DeviceMissing, unix.ENOENT},
		{device(t, true), target, "ext4", []string{"rw"}, fault.DeviceReadOnly, unix.EACCES},
	} {
		err := mount.System{}.Mount(c.source, c.target, c.fstype, c.options)
		if err == nil {
			_ = mount.System{}.Unmount(c.target)
		}
		if fault.CodeOf(err) != c.code || c.errno != nil && !errors.Is(err, c.errno) {
			t.Errorf("%s on %s (%s) %v: %v (fault %s)", c.source, c.target, c.fstype, c.options, err, fault.CodeOf(err))
		}
	}
	if err := os.WriteFile(target+".file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (mount.System{}).Mount(dev, target+".file", "ext4", nil); fault.CodeOf(err) != fault.MountPointMissing || !strings.Contains(err.Error(), "not a folder") {
		t.Errorf("on a file: %v", err)
	}
}
