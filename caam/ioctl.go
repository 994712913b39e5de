// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/secret"
)

// Ioctl is the engine over /dev/caam-keygen. Several goroutines may use it at once;
// the driver takes a job ring for each call.
type Ioctl struct {
	path string
	// call issues one ioctl; it is a field so that tests can stand in for the kernel.
	call  func(request uint, c *command) error
	close func() error
}

// OpenIoctl opens the device node, [DefaultDevice] if path is empty. The
// error is an [*Error] of kind NoDevice, NoPermission or Failed.
func OpenIoctl(path string) (*Ioctl, error) {
	if path == "" {
		path = DefaultDevice
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	if st, err := file.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return nil, errors.Join(&Error{Op: "open", Path: path, Kind: NoDevice, Reason: "not a character device", Err: err}, file.Close())
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(&Error{Op: "open", Path: path, Kind: Failed, Err: err}, file.Close())
	}
	call := func(request uint, c *command) error {
		var failed error
		// Control holds the descriptor open while a Close waits, and fails
		// only once it is closed.
		if err := raw.Control(func(fd uintptr) { failed = keygen(fd, request, c) }); err != nil {
			return os.ErrClosed
		}
		return failed
	}
	return &Ioctl{path: path, call: call, close: file.Close}, nil
}

// keygen issues the ioctl itself. c escapes to the heap, whose objects do not move, and
// the conversion in the call keeps it alive. What c points to is mapped memory.
func keygen(fd uintptr, request uint, c *command) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(c)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func openError(path string, err error) error {
	e := &Error{Op: "open", Path: path, Kind: Failed, Err: err}
	switch {
	case errors.Is(err, unix.ENOENT):
		e.Kind, e.Reason = NoDevice, "no such device node: the kernel has no caam-keygen driver, or its module is not loaded"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		e.Kind, e.Reason = NoDevice, "there is a device node, but no driver behind it"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		e.Kind = NoPermission
	}
	return e
}

// Close closes the device. Calls in progress finish first; later ones fail.
func (d *Ioctl) Close() error { return d.close() }

// Create has the hardware generate a key of keySize bytes (16, 24 or 32) and seal it. The
// caller owns the BlackKey. The call cannot be interrupted; ctx is checked before it. The
// error is an [*Error], or ctx's.
func (d *Ioctl) Create(ctx context.Context, w Wrap, keySize int) (*BlackKey, Blob, error) {
	if why := unfit(w, keySize); why != "" {
		return nil, nil, d.fail("create", BadArgument, why, nil)
	}
	return d.create(ctx, w, "-s", append(strconv.AppendInt(nil, int64(keySize), 10), 0), keySize)
}

// CreateFrom seals a given key of 16, 24 or 32 bytes. Kernels up to 5.10 treat it as a C
// string and truncate it at a zero byte; the lengths they return reveal that, and the
// error is of kind Mismatch. The caller keeps red. Otherwise it is like [Ioctl.Create].
func (d *Ioctl) CreateFrom(ctx context.Context, w Wrap, red *secret.Buffer) (*BlackKey, Blob, error) {
	n := red.Len()
	if why := unfit(w, n); why != "" {
		return nil, nil, d.fail("create", BadArgument, why, nil)
	}
	key, blob, err := d.create(ctx, w, "-t", red.Bytes(), n)
	var e *Error
	if !errors.As(err, &e) || e.Kind != Mismatch && e.Kind != BadArgument {
		return key, blob, err
	}
	// The older kernels also read past a key that is not NUL-terminated, while newer ones
	// would count the NUL. So a NUL is added only if the result without one has another
	// length.
	terminated, err := secret.New(n + 1)
	if err != nil {
		return nil, nil, d.fail("create", Failed, "", err)
	}
	defer terminated.Wipe()
	copy(terminated.Bytes(), red.Bytes())
	key, blob, retried := d.create(ctx, w, "-t", terminated.Bytes(), n)
	if retried != nil && bytes.IndexByte(red.Bytes(), 0) >= 0 {
		return nil, nil, d.fail("create", Mismatch, "the key was cut short at its zero byte, as kernels up to 5.10 do: draw another one", e.Err)
	}
	if retried != nil {
		return nil, nil, e
	}
	return key, blob, nil
}

func (d *Ioctl) create(ctx context.Context, w Wrap, mode string, value []byte, keySize int) (*BlackKey, Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	x, err := newExchange()
	if err != nil {
		return nil, nil, d.fail("create", Failed, "", err)
	}
	defer x.wipe()
	c := x.createCommand(w, mode, value)
	if err := d.call(ioctlCreate, c); err != nil {
		return nil, nil, d.callError("create", err, x.blob())
	}
	if c.blobLen > MaxBlobSize {
		return nil, nil, d.fail("create", Failed, fmt.Sprintf("the driver returned a blob of %d bytes", c.blobLen), nil)
	}
	blob, err := ParseBlob(x.blob()[:c.blobLen])
	if err != nil {
		return nil, nil, d.fail("create", Failed, "the driver returned an invalid blob: "+reason(err), nil)
	}
	key, err := d.takeKey("create", x, c)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range []object{key, blob} {
		if why := mismatch(o, w, keySize); why != "" {
			key.Wipe()
			return nil, nil, d.fail("create", Mismatch, why, nil)
		}
	}
	return key, blob, nil
}

// Import has the hardware open a blob. The caller owns the BlackKey. The error is an
// [*Error], of kind Rejected if the blob is not this chip's in its current security
// state, or ctx's.
func (d *Ioctl) Import(ctx context.Context, blob Blob) (*BlackKey, error) {
	// This also refuses more than 144 bytes, which would overrun the driver's stack.
	blob, err := ParseBlob(blob)
	if err != nil {
		return nil, d.fail("import", Damaged, reason(err), nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x, err := newExchange()
	if err != nil {
		return nil, d.fail("import", Failed, "", err)
	}
	defer x.wipe()
	c := x.importCommand(blob)
	if err := d.call(ioctlImport, c); err != nil {
		return nil, d.callError("import", err, x.key.Bytes())
	}
	key, err := d.takeKey("import", x, c)
	if err != nil {
		return nil, err
	}
	if why := mismatch(key, blob.Wrap(), blob.RedKeyLen()); why != "" {
		key.Wipe()
		return nil, d.fail("import", Mismatch, why, nil)
	}
	return key, nil
}

// takeKey makes a BlackKey from what the driver returned.
func (d *Ioctl) takeKey(op string, x *exchange, c *command) (*BlackKey, error) {
	// The addresses in c are the only other reference to the pages.
	runtime.KeepAlive(x)
	mem, err := x.takeKey(int(min(c.blackKeyLen, MaxBlackKeySize+1)))
	if err != nil {
		return nil, d.fail(op, Failed, fmt.Sprintf("the driver returned a black key of %d bytes", c.blackKeyLen), nil)
	}
	key, err := NewBlackKey(mem)
	if err != nil {
		return nil, d.fail(op, Failed, "the driver returned an invalid black key: "+reason(err), nil)
	}
	return key, nil
}

func (d *Ioctl) fail(op string, kind Kind, reason string, err error) *Error {
	return &Error{Op: op, Path: d.path, Kind: kind, Reason: reason, Err: err}
}

// callError explains an ioctl's errno, according to the driver's error paths.
func (d *Ioctl) callError(op string, err error, text []byte) *Error {
	e := &Error{Op: op, Path: d.path, Kind: Failed, Err: err, Text: kernelText(text)}
	switch {
	case errors.Is(err, os.ErrClosed):
		e.Reason = "the device was closed before"
	case errors.Is(err, unix.EBADMSG):
		e.Kind = Rejected
		e.Reason = "the hardware rejected the blob: made by another chip or in another security state, or damaged"
	case errors.Is(err, unix.ENODEV):
		e.Kind, e.Reason = NotInitialised, "the CAAM has no job ring"
	case errors.Is(err, unix.ENOTTY):
		e.Kind, e.Reason = NoDevice, "this is not a caam-keygen device, or has another interface"
	case errors.Is(err, unix.EINVAL) && op == "import":
		e.Kind, e.Reason = Damaged, "the driver does not accept the blob"
	case errors.Is(err, unix.EINVAL):
		e.Kind, e.Reason = BadArgument, "the driver does not accept the request"
	}
	return e
}
