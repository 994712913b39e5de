// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/volume"
)

// cacheBlock is the unit of caching in bytes.
const cacheBlock = 4096

// pages are the blocks of mapped devices in the kernel's memory. A dirty block is written
// through the mapping, with whatever key that has then: when the filesystem is unmounted,
// synced or frozen, and before the same place is read past the cache. A clean block is
// believed until it is dropped.
type pages struct {
	mu     sync.Mutex
	blocks map[page]*cached
}

type page struct {
	minor uint32
	at    int64
}

type cached struct {
	data  []byte
	dirty bool
}

// Cached reads a block of a public mapping as its filesystem does: from memory if it is
// there.
func (b *Board) Cached(name string, at int64) ([]byte, error) {
	f, err := b.Mapping(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := page{f.Number().Minor, at}
	b.pages.mu.Lock()
	defer b.pages.mu.Unlock()
	if c := b.pages.blocks[p]; c != nil {
		return slices.Clone(c.data), nil
	}
	data := make([]byte, cacheBlock)
	if _, err := f.ReadAt(data, at); err != nil {
		return nil, err
	}
	b.pages.put(p, &cached{data: data})
	return slices.Clone(data), nil
}

// Dirty changes a block of a public mapping in memory.
func (b *Board) Dirty(name string, at int64, data []byte) error {
	f, err := b.Mapping(name, false)
	if err != nil {
		return err
	}
	b.pages.mu.Lock()
	defer b.pages.mu.Unlock()
	b.pages.put(page{f.Number().Minor, at}, &cached{data: slices.Clone(data), dirty: true})
	return f.Close()
}

func (c *pages) put(p page, to *cached) {
	if c.blocks == nil {
		c.blocks = map[page]*cached{}
	}
	c.blocks[p] = to
}

// Sync writes back what all mappings have in memory.
func (b *Board) Sync() {
	infos, err := b.DM.List()
	if err != nil {
		return
	}
	for _, i := range infos {
		b.writeBack(i.Number.Minor, 0, 1<<62)
	}
}

// writeBack writes the dirty blocks of a range. As with umount(2), no one learns whether
// that works.
func (b *Board) writeBack(minor uint32, from, to int64) {
	for at, c := range b.pages.dirtyIn(minor, from, to) {
		f, err := b.DM.Open(fmt.Sprintf("/dev/dm-%d", minor), true)
		if err != nil {
			continue
		}
		_, _ = f.WriteAt(c.data, at)
		_ = f.Close()
	}
}

func (c *pages) dirtyIn(minor uint32, from, to int64) map[int64]*cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := map[int64]*cached{}
	for p, x := range c.blocks {
		if x.dirty && p.minor == minor && p.at < to && from < p.at+cacheBlock {
			found[p.at] = &cached{data: slices.Clone(x.data)}
			x.dirty = false
		}
	}
	return found
}

func (c *pages) isDirty(minor uint32, from, to int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, x := range c.blocks {
		if x.dirty && p.minor == minor && p.at < to && from < p.at+cacheBlock {
			return true
		}
	}
	return false
}

// forget drops the blocks of a mapping that no one uses any more, or all clean ones.
func (c *pages) forget(which func(page, *cached) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, x := range c.blocks {
		if which(p, x) {
			delete(c.blocks, p)
		}
	}
}

func (b *Board) dropCaches() error {
	b.pages.forget(func(_ page, c *cached) bool { return !c.dirty })
	return nil
}

// ReadAt is a read with O_DIRECT: dirty blocks there are written first.
func (o openMapping) ReadAt(p []byte, off int64) (int, error) {
	o.board.writeBack(o.File.Number().Minor, off, off+int64(len(p)))
	return o.File.ReadAt(p, off)
}

// ReadClean is [blockdev.Device.ReadClean].
func (o openMapping) ReadClean(p []byte, off int64) (int, error) {
	if o.board.pages.isDirty(o.File.Number().Minor, off, off+int64(len(p))) {
		return 0, &blockdev.Error{Op: "read", Path: o.Path(), Err: blockdev.ErrDirty}
	}
	return o.File.ReadAt(p, off)
}

// Suspend freezes the filesystem, unless flags say otherwise: dirty blocks are written.
func (m mapper) Suspend(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error {
	if info, err := m.Info(name); err == nil && flags&dmcrypt.SkipLockFS == 0 && !info.Suspended {
		m.board.writeBack(info.Number.Minor, 0, 1<<62)
	}
	return m.Kernel.Suspend(ctx, name, flags)
}

// WipeTable is `dmsetup wipe_table`, which freezes the filesystem first.
func (b *Board) WipeTable(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error {
	t, err := b.DM.Table(name)
	if err != nil {
		return err
	}
	m := mapper{b.DM, b}
	if err := m.Load(ctx, name, dmcrypt.Table{dmcrypt.Fail{Length: t.Sectors()}}, false); err != nil {
		return err
	}
	return errors.Join(m.Suspend(ctx, name, flags), m.Resume(name, dmcrypt.Public, flags))
}

// records are kept until power is cut.
type records struct {
	mu   sync.Mutex
	last map[string]volume.LastUnlock
	// failed has the unlocks that failed.
	failed map[string]volume.UnlockFailure
}

// RecordFailure implements volume.UnlockRecords.
func (r *records) RecordFailure(name string, f *volume.UnlockFailure) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = map[string]volume.UnlockFailure{}
	}
	if delete(r.failed, name); f != nil {
		r.failed[name] = *f
	}
	return nil
}

// LastFailure implements volume.UnlockRecords.
func (r *records) LastFailure(name string) (volume.UnlockFailure, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.failed[name]
	if !ok {
		return f, fs.ErrNotExist
	}
	return f, nil
}

// Record implements volume.UnlockRecords.
func (r *records) Record(name string, u volume.LastUnlock) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = map[string]volume.LastUnlock{}
	}
	r.last[name] = u
	return nil
}

// LastUnlock implements volume.UnlockRecords.
func (r *records) LastUnlock(name string) (volume.LastUnlock, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, ok := r.last[name]
	if !ok {
		return u, fs.ErrNotExist
	}
	return u, nil
}
