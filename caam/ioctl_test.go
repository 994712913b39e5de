// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

func TestIoctlIsAnEngine(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	caamtest.TestEngine(t, caamtest.Suite{
		Open:    func(testing.TB) caamtest.Engine { return engine(&driver{chip: chip}) },
		Foreign: func(testing.TB) caamtest.Engine { return engine(&driver{chip: caamtest.RandomChip()}) },
	})
}

func TestDriverErrorsAreTyped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		errno              unix.Errno
		onCreate, onImport caam.Kind
	}{
		{unix.ENODEV, caam.NotInitialised, caam.NotInitialised},
		{unix.EBADMSG, caam.Rejected, caam.Rejected},
		{unix.EINVAL, caam.BadArgument, caam.Damaged},
		{unix.ENOTTY, caam.NoDevice, caam.NoDevice},
		{unix.ENOMEM, caam.Failed, caam.Failed},
		{unix.EFAULT, caam.Failed, caam.Failed},
	} {
		t.Run(c.errno.Error(), func(t *testing.T) {
			t.Parallel()
			chip := caamtest.RandomChip()
			key, blob, err := chip.Create(context.Background(), caam.CCM, 32)
			if err != nil {
				t.Fatal(err)
			}
			key.Wipe()
			chip.SetFault(func(string) error { return c.errno })
			e := engine(&driver{chip: chip})
			_, _, err = e.Create(context.Background(), caam.CCM, 32)
			check := func(err error, kind caam.Kind) {
				t.Helper()
				wantKind(t, err, kind)
				if !errors.Is(err, c.errno) {
					t.Errorf("the errno is lost in %v", err)
				}
				if !strings.Contains(err.Error(), "/dev/test") {
					t.Errorf("no device in %v", err)
				}
			}
			check(err, c.onCreate)
			_, err = e.Import(context.Background(), blob)
			check(err, c.onImport)
		})
	}
}

func TestKernelsWordsAreKept(t *testing.T) {
	t.Parallel()
	const words = "Unable to allocate memory for temporary buffer.\n"
	e := caam.NewTestIoctl("/dev/test", func(_ uint, command []byte) error {
		// CREATE: into the blob's buffer.
		return errors.Join(unix.ENOMEM, say(uint64FromLE(command[48:]), words))
	})
	_, _, err := e.Create(context.Background(), caam.CCM, 32)
	if got := wantKind(t, err, caam.Failed); got.Text != strings.TrimSpace(words) {
		t.Errorf("text %q", got.Text)
	}
	e = caam.NewTestIoctl("/dev/test", func(_ uint, command []byte) error {
		// IMPORT: into the black key's.
		return errors.Join(unix.EINVAL, say(uint64FromLE(command[32:]), words))
	})
	key, blob, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	_, err = e.Import(context.Background(), blob)
	if got := wantKind(t, err, caam.Damaged); got.Text != strings.TrimSpace(words) {
		t.Errorf("text %q", got.Text)
	}
}

func uint64FromLE(b []byte) uint64 {
	var v uint64
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func TestOnlyTextIsTakenForText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ buffer, want string }{
		{"", ""},
		{"\x00\x00\x00\x00", ""},
		{"Invalid key size.\n\x00\x00", "Invalid key size."},
		{"Invalid key size.\n", ""},              // no end: not from the driver
		{"Invalid key size.\n\x00then more", ""}, // it only ever wrote one sentence
		{"OgaT\x00\x00\x00\x00", ""},             // a tagged object's start
		{"Invalid \xfe size.\x00", ""},           // not text
		{strings.Repeat("k", 32) + "\x01" + "\x00", ""},
	} {
		if got := caam.KernelText([]byte(c.buffer)); got != c.want {
			t.Errorf("%q: %q, want %q", c.buffer, got, c.want)
		}
	}
}

func TestWhatTheDriverReturnsIsNotTrusted(t *testing.T) {
	t.Parallel()
	set := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	other, _, err := caamtest.RandomChip().Create(context.Background(), caam.ECB, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Wipe)
	for _, c := range []struct {
		name    string
		kind    caam.Kind
		tamper  func(key, blob []byte) ([]byte, []byte)
		lengths [2]uint32
	}{
		{name: "key without a header", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return k[20:], b }},
		{name: "key one byte short", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return k[:len(k)-1], b }},
		{name: "key of the wrong magic", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return set(k, 0, 0), b }},
		{name: "key of another version", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return set(k, 4, 1), b }},
		{name: "red key", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return set(k, 8, 8), b }},
		{name: "key wrapped otherwise", kind: caam.Mismatch, tamper: func(_, b []byte) ([]byte, []byte) { return bytes.Clone(other.Bytes()), b }},
		{name: "blob without a header", kind: caam.Failed, tamper: func(k, b []byte) ([]byte, []byte) { return k, b[20:] }},
		{name: "key in place of the blob", kind: caam.Failed, tamper: func(k, _ []byte) ([]byte, []byte) { return k, k }},
		{name: "blob of the other wrap", kind: caam.Mismatch, tamper: func(k, b []byte) ([]byte, []byte) { return k, set(b, 8, 1) }},
		{name: "no key at all", kind: caam.Failed, lengths: [2]uint32{0, 112}},
		{name: "no blob at all", kind: caam.Failed, lengths: [2]uint32{64, 0}},
		{name: "key longer than its buffer", kind: caam.Failed, lengths: [2]uint32{97, 112}},
		{name: "endless key", kind: caam.Failed, lengths: [2]uint32{1<<32 - 1, 112}},
		{name: "blob longer than its buffer", kind: caam.Failed, lengths: [2]uint32{64, 145}},
		{name: "endless blob", kind: caam.Failed, lengths: [2]uint32{64, 1<<32 - 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := &driver{chip: caamtest.RandomChip(), tamper: c.tamper, lengths: c.lengths}
			_, _, err := engine(d).Create(context.Background(), caam.CCM, 32)
			wantKind(t, err, c.kind)
		})
	}
}

func TestKeyOfAnotherLengthIsNotPassedOff(t *testing.T) {
	t.Parallel()
	short, sealed, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(short.Wipe)
	d := &driver{chip: caamtest.RandomChip(), tamper: func(_, _ []byte) ([]byte, []byte) {
		return bytes.Clone(short.Bytes()), sealed
	}}
	_, _, err = engine(d).Create(context.Background(), caam.CCM, 32)
	wantKind(t, err, caam.Mismatch)
	if fault.CodeOf(err) != fault.KeyLengthMismatch {
		t.Errorf("code %s", fault.CodeOf(err))
	}
}

// Kernels up to 5.10 read a given key as a C string, and past its end.
func TestGivenKeyIsWholeOnOldKernelsToo(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		chip := caamtest.RandomChip()
		chip.SetOldKernel(old)
		red, err := secret.New(32)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(red.Wipe)
		for i := range red.Bytes() {
			red.Bytes()[i] = byte(255 - i)
		}
		key, _, err := engine(&driver{chip: chip}).CreateFrom(context.Background(), caam.CCM, red)
		if err != nil {
			t.Fatalf("old kernel %t: %v", old, err)
		}
		t.Cleanup(key.Wipe)
		if got, err := chip.Unwrap(key.Bytes()); err != nil || !bytes.Equal(got, red.Bytes()) {
			t.Errorf("old kernel %t: sealed %x, %v", old, got, err)
		}
	}
}

// A zero byte in a given key is not a reason to refuse it, but older kernels cut the key
// short there. What they then seal is never taken for the key.
func TestGivenKeyWithAZeroByte(t *testing.T) {
	t.Parallel()
	for _, at := range []int{0, 15, 16, 31} {
		for _, old := range []bool{false, true} {
			chip := caamtest.RandomChip()
			chip.SetOldKernel(old)
			red, err := secret.New(32)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(red.Wipe)
			for i := range red.Bytes() {
				red.Bytes()[i] = byte(i - at)
			}
			key, _, err := engine(&driver{chip: chip}).CreateFrom(context.Background(), caam.CCM, red)
			if old {
				if e := wantKind(t, err, caam.Mismatch); !strings.Contains(e.Reason, "zero byte") {
					t.Errorf("byte %d: %v", at, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("byte %d: %v", at, err)
			}
			t.Cleanup(key.Wipe)
			if got, err := chip.Unwrap(key.Bytes()); err != nil || !bytes.Equal(got, red.Bytes()) {
				t.Errorf("byte %d: sealed %x, %v", at, got, err)
			}
		}
	}
}

func TestUnusableBlobsNeverReachTheDriver(t *testing.T) {
	t.Parallel()
	d := &driver{chip: caamtest.RandomChip()}
	for n := range 300 {
		if _, err := engine(d).Import(context.Background(), make(caam.Blob, n)); err == nil {
			t.Errorf("%d zero bytes were imported", n)
		}
	}
	if d.calls != 0 {
		t.Errorf("%d calls", d.calls)
	}
}

func TestMissingDeviceSaysWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := caam.OpenIoctl(filepath.Join(dir, "caam-keygen"))
	e := wantKind(t, err, caam.NoDevice)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(e.Reason, "module") || fault.CodeOf(err) != fault.CAAMMissing {
		t.Errorf("got %v, code %s", err, fault.CodeOf(err))
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = caam.OpenIoctl(file)
	wantKind(t, err, caam.NoDevice)
}

func TestAStaleNodeIsNoMissingOne(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: making a device node takes root")
	}
	node := filepath.Join(t.TempDir(), "caam-keygen")
	// A misc minor that nothing uses.
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200<<2))); err != nil {
		t.Fatal(err)
	}
	_, err := caam.OpenIoctl(node)
	e := wantKind(t, err, caam.NoDevice)
	if errors.Is(err, unix.ENOENT) || !strings.Contains(e.Reason, "no driver") {
		t.Errorf("got %v", err)
	}
}

func TestSomeOtherDeviceIsNotMistakenForTheCAAM(t *testing.T) {
	t.Parallel()
	e, err := caam.OpenIoctl("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Create(context.Background(), caam.CCM, 32)
	wantKind(t, err, caam.NoDevice)
	if !errors.Is(err, unix.ENOTTY) {
		t.Errorf("the errno is lost in %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = e.Create(context.Background(), caam.CCM, 32)
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPrintingABlackKeyShowsNothing(t *testing.T) {
	t.Parallel()
	key, _, err := caamtest.RandomChip().Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	for _, s := range []string{fmt.Sprint(key), fmt.Sprintf("%+v", key), fmt.Sprintf("%#v", key)} {
		if s != "[black key]" {
			t.Errorf("printed as %q", s)
		}
	}
}
