// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/devnum"
	"imxcrypt/internal/klog"
	"imxcrypt/internal/plainfile"
)

// Options say where a Mapper finds things. The zero value is right except in tests.
type Options struct {
	// Sys, Proc, Dev and Run are the roots of the kernel's and udev's
	// filesystems: "/sys", "/proc", "/dev", "/run". The ioctls always go to
	// the running kernel.
	Sys, Proc, Dev, Run string
	// KernelLog is read after a failure: "/dev/kmsg".
	KernelLog string
	// RemoveWait is how long Remove waits for a process that briefly has the mapping
	// open, such as udev's blkid; the default is 3 s.
	RemoveWait time.Duration
	// NodeWait is how long Announce waits for udev's node before it makes one itself; the
	// default is 3 s.
	NodeWait time.Duration
}

const (
	defaultRemoveWait = 3 * time.Second
	defaultNodeWait   = 3 * time.Second
)

// Mapper uses the kernel's device-mapper. Several goroutines may call its methods,
// for different mappings.
type Mapper struct {
	control func() (*os.File, error) // opens it on first use
	options Options
	nodes   nodes
}

// New opens the device-mapper's control device. The error is of the kind
// ErrNoDeviceMapper if the kernel lacks it (CONFIG_BLK_DEV_DM, or the module dm-mod is
// not loaded), and ErrPermission if it may not be used.
func New(o Options) (*Mapper, error) {
	m := Lazy(o)
	if _, err := m.control(); err != nil {
		return nil, err
	}
	return m, nil
}

// Lazy is New for a mapper that may never be used: the first method that needs the
// control device opens it, with New's errors.
func Lazy(o Options) *Mapper {
	for _, d := range []struct {
		where *string
		path  string
	}{{&o.Sys, "/sys"}, {&o.Proc, "/proc"}, {&o.Dev, "/dev"}, {&o.Run, "/run"}, {&o.KernelLog, klog.Path}} {
		if *d.where == "" {
			*d.where = d.path
		}
	}
	if o.RemoveWait == 0 {
		o.RemoveWait = defaultRemoveWait
	}
	if o.NodeWait == 0 {
		o.NodeWait = defaultNodeWait
	}
	return &Mapper{control: sync.OnceValues(openControl), options: o, nodes: newNodes(o)}
}

func openControl() (*os.File, error) {
	// Not below Options.Dev: the library opens this path too.
	control, err := plainfile.Open("/dev/mapper/control", os.O_RDWR)
	if err != nil {
		e := &Error{Op: "open the device-mapper", Err: err}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
			e.Kind = ErrNoDeviceMapper
		case errors.Is(err, fs.ErrPermission):
			e.Kind = ErrPermission
		}
		return nil, e
	}
	return control, nil
}

// Close closes the control device. Mappings stay.
func (m *Mapper) Close() error {
	control, err := m.control()
	if err != nil {
		return err
	}
	return control.Close()
}

// Version returns the version of the kernel's device-mapper interface.
func (m *Mapper) Version() (Version, error) {
	if _, err := m.control(); err != nil {
		return Version{}, err
	}
	major, minor, patch, err := devmapper.GetVersion()
	if err != nil {
		return Version{}, m.failure("ask the version", "", err)
	}
	return Version{major, minor, patch}, nil
}

// Activate makes a mapping: it creates it, loads the table and resumes it as private. It
// returns the new device's number. If anything fails, nothing is left behind.
//
// It runs entirely on the calling thread, since dm-crypt looks for the key in that
// thread's keyrings. The end of the context is noticed between the steps; the ioctls
// themselves cannot be interrupted.
//
// Errors are [*Error]. The kind is ErrExists if the name or the UUID is taken, possibly
// by the wanted mapping itself, which [Mapper.Verify] finds out.
func (m *Mapper) Activate(ctx context.Context, name, uuid string, t Table, readOnly bool) (n Number, err error) {
	const op = "create the device"
	if err := ValidateName(name); err != nil {
		return n, err
	}
	if err := ValidateUUID(uuid); err != nil {
		return n, err
	}
	if err := t.Validate(); err != nil {
		return n, named(err, "load the table", name)
	}
	if err := ctx.Err(); err != nil {
		return n, &Error{Op: op, Name: name, Err: err}
	}
	if _, err := m.control(); err != nil {
		return n, err
	}
	mark := klog.Now(m.options.KernelLog)
	defer mark.Close()

	if err := devmapper.Create(name, uuid); err != nil {
		return n, m.createFailed(op, name, uuid, err, &mark)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.discard(ctx, name))
		}
	}()
	if err := m.load(ctx, name, t, readOnly, &mark); err != nil {
		return n, err
	}
	h, err := m.resume(name, Private, 0)
	if err != nil {
		return n, m.tableFailed("resume the device", name, t, err, &mark)
	}
	return devnum.Of(h.Dev), nil
}

// discard removes an unfinished mapping. It returns nil if that worked, so that only the
// cause of the failure is reported.
func (m *Mapper) discard(ctx context.Context, name string) error {
	// The context may be the reason for the failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.options.RemoveWait)
	defer cancel()
	return m.Remove(ctx, name)
}

// Load puts a table into a mapping's inactive slot; Resume makes it live. Like Activate
// it stays on the calling thread.
//
// The kernel does not compare a table that replaces another with the size of the devices
// under it; Load does, and reports ErrDeviceTooSmall.
func (m *Mapper) Load(ctx context.Context, name string, t Table, readOnly bool) error {
	if err := t.Validate(); err != nil {
		return named(err, "load the table", name)
	}
	if e := m.tooSmall(t); e != nil {
		return named(e, "load the table", name)
	}
	mark := klog.Now(m.options.KernelLog)
	defer mark.Close()
	return m.load(ctx, name, t, readOnly, &mark)
}

func (m *Mapper) load(ctx context.Context, name string, t Table, readOnly bool, mark *klog.Mark) error {
	const op = "load the table"
	if err := ctx.Err(); err != nil {
		return &Error{Op: op, Name: name, Err: err}
	}
	if _, err := m.control(); err != nil {
		return err
	}
	tables := make([]devmapper.Table, len(t))
	for i, target := range t {
		tables[i] = target.library()
	}
	var flags uint32
	if readOnly {
		flags = devmapper.ReadOnlyFlag
	}
	if err := devmapper.Load(name, flags, tables...); err != nil {
		return m.tableFailed(op, name, t, err, mark)
	}
	return nil
}

// Clear drops the table in the inactive slot, if there is one.
func (m *Mapper) Clear(name string) error {
	if err := m.do(unix.DM_TABLE_CLEAR, newRequest(name, 0)); err != nil {
		return m.failure("drop the inactive table", name, err)
	}
	return nil
}

// Announce makes a private mapping public: udev gets its event and makes its links or,
// without udev, Announce makes the node in /dev/mapper. It returns when [Mapper.Node] can
// be opened. The mapping must be idle: it is briefly suspended, without freezing a
// filesystem, because the kernel announces a mapping only when it is resumed. If nothing
// listens, the suspend is left out, since it takes the kernel a few milliseconds.
func (m *Mapper) Announce(ctx context.Context, name string) error {
	if !m.nodes.heard() {
		// A suspended mapping still has to be resumed.
		if i, err := m.Info(name); err == nil && i.Live && !i.Suspended {
			if err := m.nodes.appear(ctx, name, i.Number); err != nil {
				return named(err, "make the node", name)
			}
			return nil
		}
	}
	if err := m.Suspend(ctx, name, SkipLockFS|NoFlush); err != nil {
		return err
	}
	// The context is ignored: otherwise the mapping would stay suspended.
	h, err := m.resume(name, Public, SkipLockFS|NoFlush)
	if err != nil {
		return m.failure("resume the device", name, err)
	}
	if err := m.nodes.appear(ctx, name, devnum.Of(h.Dev)); err != nil {
		return named(err, "make the node", name)
	}
	return nil
}

// Node returns the path of a public mapping.
func (m *Mapper) Node(name string) string { return filepath.Join(m.options.Dev, unix.DM_DIR, name) }

// DevicePath returns a path by which a mapping's device can be opened, even while it is
// private: devtmpfs' /dev/dm-N, which exists as soon as the device does. Without
// devtmpfs, a node is made in /dev/mapper.
func (m *Mapper) DevicePath(name string, n Number) (string, error) {
	path, err := m.nodes.devicePath(name, n)
	if err != nil {
		return "", named(err, "find the device node", name)
	}
	return path, nil
}
