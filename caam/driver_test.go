// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
)

// driver plays the kernel's side of /dev/caam-keygen with a simulated chip. It knows the
// command struct only by the byte offsets of NXP's header, and follows its addresses as a
// kernel does: by copying from, and to, a process.
type driver struct {
	chip *caamtest.Chip

	mu    sync.Mutex
	calls int
	// tamper, if set, changes what a successful call returns.
	tamper func(key, blob []byte) ([]byte, []byte)
	// lengths, if set, is what a successful call says it returned.
	lengths [2]uint32
}

const (
	create     = 0xC0384B00
	importBlob = 0xC0384B01
)

func engine(d *driver) *caam.Ioctl { return caam.NewTestIoctl("/dev/test", d.ioctl) }

func (d *driver) ioctl(request uint, command []byte) error {
	d.mu.Lock()
	d.calls++
	d.mu.Unlock()
	le := binary.LittleEndian
	keyCap, blobLen := le.Uint32(command[4:]), le.Uint32(command[40:])
	keyAt, blobAt := le.Uint64(command[32:]), le.Uint64(command[48:])
	var key, blob []byte
	switch request {
	case create:
		enc, err := d.word(le.Uint64(command[8:]), int(command[0]))
		if err != nil {
			return err
		}
		mode, err := d.word(le.Uint64(command[16:]), int(command[1]))
		if err != nil {
			return err
		}
		value, err := fetch(le.Uint64(command[24:]), int(le.Uint16(command[2:])))
		if err != nil {
			return err
		}
		var text string
		key, blob, text, err = d.chip.DriverCreate(enc, mode, value)
		if err != nil {
			return errors.Join(err, say(blobAt, text))
		}
	case importBlob:
		if blobLen > 144 {
			panic("the driver's stack was overrun")
		}
		sealed, err := fetch(blobAt, int(blobLen))
		if err != nil {
			return err
		}
		var text string
		key, text, err = d.chip.DriverImport(sealed)
		if err != nil {
			return errors.Join(err, say(keyAt, text))
		}
	default:
		return unix.ENOTTY
	}
	if d.tamper != nil {
		key, blob = d.tamper(key, blob)
	}
	if int(keyCap) < len(key) || request == create && int(blobLen) < len(blob) {
		return errors.Join(unix.EINVAL, say(blobAt, "Not enough space for black key.\n"))
	}
	le.PutUint32(command[4:], uint32(len(key)))
	if request == create {
		le.PutUint32(command[40:], uint32(len(blob)))
	}
	if d.lengths != [2]uint32{} {
		le.PutUint32(command[4:], d.lengths[0])
		le.PutUint32(command[40:], d.lengths[1])
	}
	return errors.Join(store(keyAt, key), store(blobAt, blob))
}

// word fetches an argument that has to end in a NUL.
func (d *driver) word(at uint64, n int) (string, error) {
	data, err := fetch(at, n)
	if err != nil {
		return "", err
	}
	s, found := strings.CutSuffix(string(data), "\x00")
	if !found {
		return "", unix.EFAULT
	}
	return s, nil
}

func say(at uint64, text string) error {
	if text == "" {
		return nil
	}
	return store(at, append([]byte(text), 0))
}

func fetch(at uint64, n int) ([]byte, error) {
	if n == 0 {
		return nil, unix.EFAULT
	}
	data := make([]byte, n)
	got, err := unix.ProcessVMReadv(os.Getpid(), iov(data), []unix.RemoteIovec{{Base: uintptr(at), Len: n}}, 0)
	if err != nil || got != n {
		return nil, unix.EFAULT
	}
	return data, nil
}

func store(at uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	put, err := unix.ProcessVMWritev(os.Getpid(), iov(data), []unix.RemoteIovec{{Base: uintptr(at), Len: len(data)}}, 0)
	if err != nil || put != len(data) {
		return unix.EFAULT
	}
	return nil
}

func iov(data []byte) []unix.Iovec {
	v := []unix.Iovec{{Base: &data[0]}}
	v[0].SetLen(len(data))
	return v
}

func wantKind(t *testing.T, err error, want caam.Kind) *caam.Error {
	t.Helper()
	var e *caam.Error
	if !errors.As(err, &e) || e.Kind != want {
		t.Fatalf("got %v, want an error of kind %q", err, want)
	}
	return e
}
