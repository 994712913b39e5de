// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"fmt"
	"io"
	"slices"

	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
)

// images make loop devices of the board's images. As in the kernel, a device exists while
// it is open or a mapping is on it, and the next device takes its number again. Two
// devices of one image would not see each other's writes, so there is never a second one.
type images struct{ *Board }

func (i images) Attach(path string, sector int) (string, io.Closer, error) {
	file := i.disk(path)
	if file == nil || !file.Image {
		return "", nil, fault.Newf(fault.DeviceUnsuitable, "%s is not a regular file", path)
	}
	loop, err := i.over(path)
	if err != nil {
		return "", nil, err
	}
	if loop == nil {
		if err := i.step("attach " + path); err != nil {
			return "", nil, err
		}
		if file.Store.Size()%int64(sector) != 0 {
			sector = 512
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if loop == nil {
		n := i.freeLoop()
		loop = &Disk{
			Path: fmt.Sprintf("/dev/loop%d", n), Store: file.Store, ReadOnly: file.ReadOnly, BlockSize: sector,
			number: blockdev.Number{Major: 7, Minor: n}, image: path,
		}
		i.loops = append(i.loops, loop)
	}
	loop.openers++
	return loop.Path, opener{i.Board, loop}, nil
}

func (i images) Over(path string) (string, error) {
	loop, err := i.over(path)
	if loop == nil {
		return "", err
	}
	return loop.Path, err
}

func (i images) over(path string) (*Disk, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.LoopErr != nil {
		return nil, i.LoopErr
	}
	for _, loop := range i.loops {
		if loop.image == path && !loop.Absent {
			return loop, nil
		}
	}
	return nil, nil
}

// Room implements volume.Images.
func (i images) Room(path string, size int64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if size > i.ImageRoom {
		return fault.Newf(fault.StorageFull, "%s: no room for %d bytes", path, size)
	}
	return nil
}

// Make implements volume.Images. The file appears whole, or not at all.
func (i images) Make(path string, size int64) error {
	if i.disk(path) != nil {
		return fault.Newf(fault.FileExists, "%s exists already", path)
	}
	if err := i.step("make " + path); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.Disks = append(i.Disks, &Disk{Path: path, Image: true, Store: crashtest.NewImage(size)})
	return nil
}

func (i images) Resized(device string) error {
	if err := i.step("resize " + device); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, loop := range i.loops {
		if loop.Path != device || loop.Absent {
			continue
		}
		for _, file := range i.Disks {
			if file.Path == loop.image {
				loop.Store = file.Store
			}
		}
	}
	return nil
}

// freeLoop returns the lowest number of a loop device that is not in use. The caller
// holds b.mu.
func (b *Board) freeLoop() uint32 {
	for n := uint32(0); ; n++ {
		if !slices.ContainsFunc(b.loops, func(d *Disk) bool { return !d.Absent && d.number.Minor == n }) {
			return n
		}
	}
}

// opener is an open loop device.
type opener struct {
	board *Board
	loop  *Disk
}

func (o opener) Close() error {
	o.board.mu.Lock()
	o.loop.openers--
	o.board.mu.Unlock()
	return o.board.clearLoops()
}

// clearLoops removes the loop devices that no one uses any more.
func (b *Board) clearLoops() error {
	b.mu.Lock()
	loops := slices.Clone(b.loops)
	b.mu.Unlock()
	for _, loop := range loops {
		if loop.image == "" || loop.Absent || loop.openers > 0 {
			continue
		}
		over, err := b.holders(loop.number)
		if err != nil {
			return err
		}
		if len(over) == 0 {
			b.mu.Lock()
			loop.Absent = true
			b.mu.Unlock()
		}
	}
	return nil
}

// Exit is the end of all processes, killed or not: the kernel closes what they had open.
func (b *Board) Exit() error {
	b.mu.Lock()
	for _, loop := range b.loops {
		loop.openers = 0
	}
	b.mu.Unlock()
	return b.clearLoops()
}

// Loops returns the loop devices over images.
func (b *Board) Loops() (paths []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, loop := range b.loops {
		if loop.image != "" && !loop.Absent {
			paths = append(paths, loop.Path)
		}
	}
	return paths
}

// Remove also removes a loop device that only the mapping held.
func (m mapper) Remove(ctx context.Context, name string) error {
	if err := m.Kernel.Remove(ctx, name); err != nil {
		return err
	}
	return m.board.clearLoops()
}
