// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"io"
	"path/filepath"
	"sync"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// A volume whose `device` is a regular file has its image there, and a loop device is
// its device. That is attached when the volume's device is looked for, and held open until the
// process ends or the volume is locked. From then on only a mapping holds it: when that
// goes, the kernel takes the loop device away, also after a kill.

// Images makes block devices of images in files.
type Images interface {
	// Attach gives the device over the image at path, held open until closer is closed:
	// the one that is there, or a new one with blocks of sector bytes, which goes when
	// nobody has it open any more. Devices over a part of the file, or several, are an error of
	// code [fault.DeviceInUse].
	Attach(path string, sector int) (device string, closer io.Closer, err error)
	// Over is the device that lies over the image already; empty for none.
	Over(path string) (device string, err error)
	// Room enforces that an image of size bytes can be made at path. Too little room is an
	// error of code [fault.StorageFull].
	Room(path string, size int64) error
	// Make makes it, its blocks allocated, for root alone: whole, or not at all. A path
	// that is taken is an error of code [fault.FileExists].
	Make(path string, size int64) error
	// Resized has a device take the size that its file has.
	Resized(device string) error
}

// held are the images that a Manager holds the devices of.
type held struct {
	mu  sync.Mutex
	all map[string]image
}

type image struct {
	device string
	closer io.Closer
}

// locate finds a volume's device, and makes one of an image.
func (m *Manager) locate(ctx context.Context, s spec.Volume) (string, error) {
	path, err := m.sys.Devices.Find(ctx, s.Device)
	if err != nil {
		return "", err
	}
	is, err := m.isImage(path)
	if err != nil || !is {
		return path, err
	}
	return m.hold(path, s)
}

// seen is locate for a look only: an image that has no device yet stays a file.
func (m *Manager) seen(ctx context.Context, s spec.Volume) (string, error) {
	path, err := m.sys.Devices.Find(ctx, s.Device)
	if err != nil {
		return "", err
	}
	if is, err := m.isImage(path); err != nil || !is {
		return path, err
	}
	if device, err := m.sys.Images.Over(path); err != nil || device != "" {
		return device, err
	}
	return path, nil
}

// isImage reports whether path is a file that is to have a device.
func (m *Manager) isImage(path string) (bool, error) {
	if m.sys.Images == nil {
		return false, nil
	}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		// What is wrong with a device is said where it is used.
		return false, nil
	}
	is := dev.Number() == blockdev.Number{}
	return is, dev.Close()
}

// hold attaches an image, once. A writer of the file could change the filesystem under
// its mount, so it is trusted like the file of a detached header.
func (m *Manager) hold(path string, s spec.Volume) (string, error) {
	m.images.mu.Lock()
	defer m.images.mu.Unlock()
	if i, ok := m.images.all[path]; ok {
		return i.device, nil
	}
	if err := m.sys.Files.Trusted(path); err != nil {
		return "", err
	}
	device, closer, err := m.sys.Images.Attach(path, s.SectorSize)
	if err != nil {
		return "", fault.New(fault.CodeOf(err), "image "+path, err)
	}
	if m.images.all == nil {
		m.images.all = map[string]image{}
	}
	m.images.all[path] = image{device, closer}
	return device, nil
}

// imageResized has the device of a volume's image take the size that the file has, as
// the kernel's view of a partition has to be renewed before a volume grows.
func (m *Manager) imageResized(s spec.Volume) error {
	m.images.mu.Lock()
	defer m.images.mu.Unlock()
	i, ok := m.images.all[filepath.Clean(s.Device)]
	if !ok {
		return nil
	}
	return m.sys.Images.Resized(i.device)
}

// letGo gives up the devices of a volume's image. Where nothing lies on it, it is gone.
func (m *Manager) letGo(s spec.Volume) error {
	m.images.mu.Lock()
	defer m.images.mu.Unlock()
	i, ok := m.images.all[filepath.Clean(s.Device)]
	if !ok {
		return nil
	}
	delete(m.images.all, filepath.Clean(s.Device))
	return i.closer.Close()
}
