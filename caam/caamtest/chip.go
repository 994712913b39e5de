// SPDX-License-Identifier: Apache-2.0

// Package caamtest is a CAAM for tests: a simulated chip in plain Go, and the suite of
// tests that every engine of package caam has to pass, with the simulated chip or a real
// one.
package caamtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/internal/secret"
)

// Chip is a simulated i.MX chip with the semantics of the BSP driver. Blobs are sealed
// under its OTPMK or, while it is open, under a test key that all open chips share. Black
// keys are encrypted under a JDKEK that each power cycle makes. It is an engine like
// [caam.Ioctl], and several goroutines may use it.
//
// The cryptography is real, so that a wrong key really is a wrong key, but it is not
// CAAM's: objects have the right sizes and open only on a Chip.
type Chip struct {
	mu     sync.Mutex
	otpmk  [32]byte
	closed bool
	jdkek  [32]byte
	old    bool
	fault  func(op string) error
}

// NewChip returns a chip with that fused master key, just powered on.
func NewChip(otpmk [32]byte, closed bool) *Chip {
	c := &Chip{otpmk: otpmk, closed: closed}
	c.PowerCycle()
	return c
}

// RandomChip returns a closed chip unlike any other.
func RandomChip() *Chip {
	var otpmk [32]byte
	random(otpmk[:])
	return NewChip(otpmk, true)
}

// PowerCycle makes a new JDKEK: black keys made before are stale.
func (c *Chip) PowerCycle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	random(c.jdkek[:])
}

// BurnFuse closes the chip: blobs made while it was open are lost.
func (c *Chip) BurnFuse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// Close does nothing; code that uses an engine closes it.
func (c *Chip) Close() error { return nil }

// SetFault has fault called before each operation, "create" or "import". Its error,
// usually an errno, fails the operation. nil removes it.
func (c *Chip) SetFault(fault func(op string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

// SetOldKernel gives the chip a driver that treats a given key as a C string, as kernels
// up to 5.10 do.
func (c *Chip) SetOldKernel(old bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.old = old
}

type state struct {
	OTPMK, JDKEK []byte
	Closed, Old  bool
}

// Save returns the chip's whole state, for [Load] in another process of the same test, in
// the same power cycle.
func (c *Chip) Save() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, err := json.Marshal(state{OTPMK: c.otpmk[:], JDKEK: c.jdkek[:], Closed: c.closed, Old: c.old})
	if err != nil {
		panic(err) // byte slices and booleans always marshal
	}
	return data
}

// Load returns the saved chip.
func Load(data []byte) (*Chip, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("saved chip: %w", err)
	}
	c := &Chip{closed: s.Closed, old: s.Old}
	if copy(c.otpmk[:], s.OTPMK) != len(c.otpmk) || copy(c.jdkek[:], s.JDKEK) != len(c.jdkek) {
		return nil, errors.New("saved chip: keys cut short")
	}
	return c, nil
}

// DriverCreate is the CREATE ioctl: enc is "ecb" or "ccm", mode is "-s" with the size in
// decimal and a NUL, or "-t" with a key. The error is an errno, with the driver's text if
// it has one.
func (c *Chip) DriverCreate(enc, mode string, value []byte) (key, blob []byte, text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ask("create"); err != nil {
		return nil, nil, "", err
	}
	wrap, err := caam.ParseWrap(enc)
	if err != nil {
		return nil, nil, "Invalid argument for Encrypted Key Type, expected ecb or ccm.\n", unix.EINVAL
	}
	var red []byte
	switch mode {
	case "-s":
		digits, _, _ := bytes.Cut(value, []byte{0})
		n, err := strconv.ParseUint(string(digits), 10, 32)
		if err != nil {
			return nil, nil, "Invalid key size.\n", unix.EINVAL
		}
		if !redSize(int(n)) {
			return nil, nil, badSize, unix.EINVAL
		}
		red = make([]byte, n)
		random(red)
	case "-t":
		red = bytes.Clone(value)
		if c.old {
			if end := bytes.IndexByte(red, 0); end >= 0 {
				red = red[:end]
			} else {
				// Nothing ends the string: the driver reads whatever follows it.
				red = append(red, 0xa5)
			}
		}
		if !redSize(len(red)) {
			return nil, nil, badSize, unix.EINVAL
		}
	default:
		return nil, nil, "Invalid argument for Key Mode, expected -s or -t.\n", unix.EINVAL
	}
	return c.blacken(wrap, red), c.seal(wrap, red), "", nil
}

const badSize = "Invalid key size, expected values are between 16 and 64 bytes.\n"

func redSize(n int) bool { return n >= 16 && n <= 64 }

// DriverImport is the IMPORT ioctl.
func (c *Chip) DriverImport(blob []byte) (key []byte, text string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ask("import"); err != nil {
		return nil, "", err
	}
	// The driver looks at the header, and its reasons go to the kernel log.
	info, err := caam.Inspect(blob)
	if err != nil || info.Form != caam.FormBlob {
		return nil, "", unix.EINVAL
	}
	red, err := c.unseal(blob, info.RedKeyLen)
	if err != nil {
		return nil, "", err
	}
	return c.blacken(info.Wrap, red), "", nil
}

func (c *Chip) ask(op string) error {
	if c.fault == nil {
		return nil
	}
	return c.fault(op)
}

// Create is [caam.Ioctl.Create] on this chip.
func (c *Chip) Create(ctx context.Context, w caam.Wrap, keySize int) (*caam.BlackKey, caam.Blob, error) {
	if !caam.IsAESKeySize(keySize) {
		return nil, nil, fail("create", unix.EINVAL, badSize)
	}
	return c.create(ctx, w, "-s", append(strconv.AppendInt(nil, int64(keySize), 10), 0))
}

// CreateFrom is [caam.Ioctl.CreateFrom] on this chip.
func (c *Chip) CreateFrom(ctx context.Context, w caam.Wrap, red *secret.Buffer) (*caam.BlackKey, caam.Blob, error) {
	if !caam.IsAESKeySize(red.Len()) {
		return nil, nil, fail("create", unix.EINVAL, badSize)
	}
	value := red.Bytes()
	c.mu.Lock()
	old := c.old
	c.mu.Unlock()
	if old {
		if bytes.IndexByte(value, 0) >= 0 {
			return nil, nil, &caam.Error{Op: "create", Kind: caam.Mismatch, Reason: "the key was cut short at its zero byte"}
		}
		value = append(bytes.Clone(value), 0)
	}
	return c.create(ctx, w, "-t", value)
}

func (c *Chip) create(ctx context.Context, w caam.Wrap, mode string, value []byte) (*caam.BlackKey, caam.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	key, sealed, text, err := c.DriverCreate(string(w), mode, value)
	if err != nil {
		return nil, nil, fail("create", err, text)
	}
	blob, err := caam.ParseBlob(sealed)
	if err != nil {
		return nil, nil, err
	}
	black, err := blackKey(key)
	if err != nil {
		return nil, nil, err
	}
	return black, blob, nil
}

// Import is [caam.Ioctl.Import] on this chip.
func (c *Chip) Import(ctx context.Context, blob caam.Blob) (*caam.BlackKey, error) {
	if _, err := caam.ParseBlob(blob); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, text, err := c.DriverImport(blob)
	if err != nil {
		return nil, fail("import", err, text)
	}
	return blackKey(key)
}

// Unwrap returns what tk(cbc(aes)) would encrypt with if it were given this black key
// now. A stale CCM key is EBADMSG; a stale ECB key silently gives another key. The error
// is EINVAL if it is not a black key.
func (c *Chip) Unwrap(black []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := caam.Inspect(black)
	if err != nil || info.Form != caam.FormBlackKey {
		return nil, unix.EINVAL
	}
	return c.whiten(info.Wrap, info.RedKeyLen, black[tagSize:])
}

func blackKey(data []byte) (*caam.BlackKey, error) {
	mem, err := secret.New(len(data))
	if err != nil {
		return nil, err
	}
	copy(mem.Bytes(), data)
	return caam.NewBlackKey(mem)
}

func fail(op string, err error, text string) error {
	e := &caam.Error{Op: op, Path: "simulated chip", Kind: caam.Failed, Err: err, Text: string(bytes.TrimSpace([]byte(text)))}
	switch {
	case errors.Is(err, unix.EBADMSG):
		e.Kind = caam.Rejected
	case errors.Is(err, unix.ENODEV):
		e.Kind = caam.NotInitialised
	case errors.Is(err, unix.ENOENT):
		e.Kind = caam.NoDevice
	case errors.Is(err, unix.EINVAL) && op == "create":
		e.Kind = caam.BadArgument
	case errors.Is(err, unix.EINVAL):
		e.Kind = caam.Damaged
	}
	return e
}

func random(b []byte) {
	// This never fails (crypto/rand ends the program instead).
	_, _ = rand.Read(b)
}
