// SPDX-License-Identifier: Apache-2.0

//go:build vm

package dmcrypt_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
	"imxcrypt/internal/fault"
)

const name = "imxcrypt-suite-vm"

func TestContract(t *testing.T) {
	dmtest.TestMapper(t, fixture(dmcrypt.Options{RemoveWait: 300 * time.Millisecond}))
}

// The errors are distinguished even if the kernel log cannot be read (dmesg_restrict,
// containers); only the kernel's words are then missing.
func TestContractWithoutTheKernelLog(t *testing.T) {
	dmtest.TestMapper(t, fixture(dmcrypt.Options{RemoveWait: 300 * time.Millisecond, KernelLog: "/nonexistent"}))
}

func xts(n dmcrypt.Number) dmcrypt.Crypt {
	return dmcrypt.Crypt{
		Length: 2048, Cipher: "aes-xts-plain64", Device: n, Options: []string{"sector_size:4096"},
		Key: dmcrypt.KeyRef{Size: 64, Type: "logon", Description: "imxcrypt:vm:1"},
	}
}

// activate makes a mapping, with a key if the table needs one, and removes it at the end.
func activate(t *testing.T, m *dmcrypt.Mapper, table dmcrypt.Table) dmcrypt.Number {
	t.Helper()
	var n dmcrypt.Number
	var err error
	if with := withKey("imxcrypt:vm:1", bytes.Repeat([]byte("key "), 16), func() {
		n, err = m.Activate(t.Context(), name, "", table, false)
	}); with != nil || err != nil {
		t.Fatal(with, err)
	}
	t.Cleanup(func() {
		// The test's own context has ended.
		if err := m.Remove(context.Background(), name); err != nil && !errors.Is(err, dmcrypt.ErrNotFound) {
			t.Error(err)
		}
	})
	return n
}

// refused activates an invalid table, with a key of 64 bytes available.
func refused(t *testing.T, m *dmcrypt.Mapper, table dmcrypt.Table) *dmcrypt.Error {
	t.Helper()
	var err error
	if with := withKey("imxcrypt:vm:1", bytes.Repeat([]byte("key "), 16), func() {
		_, err = m.Activate(t.Context(), name, "", table, false)
	}); with != nil {
		t.Fatal(with)
	}
	var e *dmcrypt.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an error of ours", err)
	}
	if _, err := m.Info(name); !errors.Is(err, dmcrypt.ErrNotFound) {
		t.Errorf("left behind (%v)", err)
	}
	return e
}

// The error contains the kernel's own words.
func TestErrorsCarryTheKernelsWords(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	for word, change := range map[string]func(*dmcrypt.Crypt){
		"Error allocating crypto tfm": func(c *dmcrypt.Crypt) { c.Cipher = "capi:cbc(nosuch)-plain64" },
		"Error decoding and setting key": func(c *dmcrypt.Crypt) {
			c.Key.Size = 32 // the payload has 64
		},
		"Device lookup failed": func(c *dmcrypt.Crypt) { c.Device = absent },
		"too small for target": func(c *dmcrypt.Crypt) { c.Length = 16384 },
	} {
		c := xts(n)
		change(&c)
		e := refused(t, m, dmcrypt.Table{c})
		if log := strings.Join(e.KernelLog, "\n"); !strings.Contains(log, word) {
			t.Errorf("kernel log %q of error %v does not say %q", log, e, word)
		}
		t.Log(e)
	}
}

func TestADeviceThatIsHeldIsNamedInUse(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	path, n := loopDevice(t, 4<<20, false)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	e := refused(t, m, dmcrypt.Table{xts(n)})
	if !errors.Is(e, dmcrypt.ErrDeviceInUse) || !errors.Is(e, unix.EBUSY) || fault.CodeOf(e) != fault.DeviceInUse {
		t.Errorf("got %v (%s)", e, fault.CodeOf(e))
	}
}

// An option that this kernel's dm-crypt does not know is named.
func TestAnOptionThatTheKernelDoesNotKnow(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	v, err := m.TargetVersion("crypt")
	if err != nil {
		t.Fatal(err)
	}
	c := xts(n)
	c.Options = []string{"high_priority"}
	if dmcrypt.SupportsOption(v, "high_priority") {
		activate(t, m, dmcrypt.Table{c})
		return
	}
	if e := refused(t, m, dmcrypt.Table{c}); !errors.Is(e, dmcrypt.ErrNoOption) || !strings.Contains(e.Error(), "high_priority") {
		t.Errorf("got %v", e)
	}
}

// A kernel without the simulated CAAM reports that it lacks the cipher. With it, bytes
// that are not a black key are refused.
func TestTk(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	c := xts(n)
	c.Cipher = "capi:tk(cbc(aes))-plain64"
	want, code := dmcrypt.ErrNoCipher, fault.CipherMissing
	if _, err := os.Stat("/dev/caam-keygen"); err == nil {
		want, code = dmcrypt.ErrKeyRefused, fault.KeyLengthMismatch
	}
	e := refused(t, m, dmcrypt.Table{c})
	if !errors.Is(e, want) || fault.CodeOf(e) != code {
		t.Errorf("got %v (%s), want %s", e, fault.CodeOf(e), code)
	}
}

// What udev would get, as the kernel sends it: quiet until the key has been proved,
// public once, and a removal without a cookie to wait on.
func TestUdevGetsItsFlags(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	events := listen(t)
	number := activate(t, m, dmcrypt.Table{xts(n)})
	if err := m.Announce(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events(number) {
		if e.cookie != "" {
			got = append(got, e.action+" "+e.cookie)
		}
	}
	// 0x6f0000, 0x400000, 0x400000.
	want := "change 7274496, change 4194304, remove 4194304"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestAKeyInTheClearIsSeenNotRead(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	const key = "00112233445566778899aabbccddeeff"
	foreign(t, m, "0 64 crypt aes-cbc-plain64 "+key+" 0 "+n.String()+" 0")
	table, err := m.Table(name)
	if err != nil {
		t.Fatal(err)
	}
	c, ok := table[0].(dmcrypt.Crypt)
	if !ok || !c.Key.InTheClear || c.Key.Size != 16 || strings.Contains(table.String(), key) {
		t.Errorf("got %s", table)
	}
	if _, err := m.Verify(name, "", dmcrypt.Table{xts(n)}, false); !errors.Is(err, dmcrypt.ErrMismatch) || strings.Contains(err.Error(), key) {
		t.Errorf("got %v", err)
	}
}

// The fast path's share of the device-mapper.
func TestActivationIsQuick(t *testing.T) {
	_, n := loopDevice(t, 4<<20, false)
	for log, path := range map[string]string{"with": "", "without": "/nonexistent"} {
		m := newMapper(t, dmcrypt.Options{KernelLog: path})
		const rounds = 10
		var up, announce, down time.Duration
		if err := withKey("imxcrypt:vm:1", bytes.Repeat([]byte("key "), 16), func() {
			for range rounds {
				began := time.Now()
				if _, err := m.Activate(t.Context(), name, "", dmcrypt.Table{xts(n)}, false); err != nil {
					t.Fatal(err)
				}
				up += time.Since(began)
				began = time.Now()
				if err := m.Announce(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				announce += time.Since(began)
				began = time.Now()
				if err := m.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				down += time.Since(began)
			}
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s the kernel log: activate %v, announce %v, remove %v", log, up/rounds, announce/rounds, down/rounds)
		if up/rounds > 5*time.Second {
			t.Errorf("activation takes %v", up/rounds)
		}
	}
}
