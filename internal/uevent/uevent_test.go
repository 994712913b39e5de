// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestOnlyDevicesThatAppearWakeTheWaiter(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		"add@/devices/mmc0/block/mmcblk2\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=mmcblk2\x00":       true,
		"change@/devices/virtual/block/dm-0\x00ACTION=change\x00SUBSYSTEM=block\x00DEVNAME=x\x00":       true,
		"remove@/devices/mmc0/block/mmcblk2\x00ACTION=remove\x00SUBSYSTEM=block\x00DEVNAME=mmcblk2\x00": false,
		"add@/devices/usb1\x00ACTION=add\x00SUBSYSTEM=usb\x00":                                          false,
		"add@/devices/x\x00SUBSYSTEM=DEVNAME=x\x00":                                                     false,
		"":                 false,
		"DEVNAME=sda":      false,
		"\x00\x00\x00\x00": false,
	} {
		if got := isDevice([]byte(message)); got != want {
			t.Errorf("%q: %v", message, got)
		}
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	l, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	for err == nil {
		err = l.Next(ctx)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func FuzzIsDevice(f *testing.F) {
	f.Add([]byte("add@/x\x00DEVNAME=x\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if isDevice(b) && !strings.Contains(string(b), "DEVNAME=") {
			t.Fatalf("%q taken for a device", b)
		}
	})
}
