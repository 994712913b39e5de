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

// If a volume's `device` is a regular file, the file holds its image, and the volume's
// device is a loop device. The loop device is attached when the volume's device is looked
// for, and held open until the process ends or the volume is locked. From then on only a
// mapping holds it: when the mapping is removed, the kernel removes the loop device, even
// after a kill.

// Images makes block devices of images in files.
type Images interface {
	// Attach returns the device over the image at path, held open until closer is closed:
	// the existing one, or a new one with blocks of sector bytes, which disappears when
	// nothing has it open any more. If there are several devices, or one over a part of
	// the file, the error has code [fault.DeviceInUse].
	Attach(path string, sector int) (device string, closer io.Closer, err error)
	// Over returns the device that is already over the image; empty if there is none.
	Over(path string) (device string, err error)
	// Room checks that an image of size bytes can be made at path. If there is too little
	// room, the error has code [fault.StorageFull].
	Room(path string, size int64) error
	// Make makes the image, with its blocks allocated and accessible only to root:
	// completely, or not at all. If path is taken, the error has code [fault.FileExists].
	Make(path string, size int64) error
	// Resized gives a device the current size of its file.
	Resized(device string) error
}

// held are the images whose devices a Manager holds open.
type held struct {
	mu  sync.Mutex
	all map[string]image
}

type image struct {
	device string
	closer io.Closer
}

// locate finds a volume's device. For an image it attaches one.
func (m *Manager) locate(ctx context.Context, s spec.Volume) (string, error) {
	path, err := m.sys.Devices.Find(ctx, s.Device)
	if err != nil {
		return "", err
	}
	is, err := m.isImage(path)
	if err != nil || !is {
		return path, err
	}
	return m.attachImageOnce(path, s)
}

// locateUnattached is locate without side effects: an image that has no device yet stays
// a file.
func (m *Manager) locateUnattached(ctx context.Context, s spec.Volume) (string, error) {
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

// isImage reports whether path is an image file, which needs a device.
func (m *Manager) isImage(path string) (bool, error) {
	if m.sys.Images == nil {
		return false, nil
	}
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{})
	if err != nil {
		// An error of a device is reported where the device is used.
		return false, nil
	}
	is := dev.Number() == blockdev.Number{}
	return is, dev.Close()
}

// attachImageOnce attaches an image, once. Anyone who can write the file could change the
// filesystem under its mount, so the file must be trusted as that of a detached header
// must.
func (m *Manager) attachImageOnce(path string, s spec.Volume) (string, error) {
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

// imageResized gives the device of a volume's image the current size of the file, just as
// the kernel's view of a partition must be refreshed before a volume grows.
func (m *Manager) imageResized(s spec.Volume) error {
	m.images.mu.Lock()
	defer m.images.mu.Unlock()
	i, ok := m.images.all[filepath.Clean(s.Device)]
	if !ok {
		return nil
	}
	return m.sys.Images.Resized(i.device)
}

// detachImage closes the device of a volume's image. If nothing else uses the device, it is
// gone.
func (m *Manager) detachImage(s spec.Volume) error {
	m.images.mu.Lock()
	defer m.images.mu.Unlock()
	i, ok := m.images.all[filepath.Clean(s.Device)]
	if !ok {
		return nil
	}
	delete(m.images.all, filepath.Clean(s.Device))
	return i.closer.Close()
}
