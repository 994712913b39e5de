// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Disk is a virtual disk backed by a sparse file on the host. It keeps its contents
// from one machine to the next.
type Disk struct {
	Path      string // on the host
	Size      int64  // bytes
	BlockSize int    // logical and physical block size, 512 (default) or 4096 bytes
	Serial    string // at most 20 characters; in the guest: /sys/block/vdX/serial
	ReadOnly  bool
	// LogWrites names a file on the host in which QEMU records every write and flush,
	// in the format of the kernel's dm-log-writes. It is emptied at each boot.
	LogWrites string
}

// NewDisk makes an empty disk that exists until the test ends. Other fields may be set
// before it is used.
func NewDisk(t TB, size int64) *Disk {
	t.Helper()
	dir := t.TempDir()
	d := &Disk{Path: filepath.Join(dir, "disk.img"), Size: size}
	if err := d.create(); err != nil {
		t.Fatalf("new disk: %v", err)
	}
	return d
}

// create makes or extends the file; it never shortens one.
func (d *Disk) create() error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < d.Size {
		return f.Truncate(d.Size)
	}
	return nil
}

// blockdev returns QEMU's description of the disk as a block node.
func (d *Disk) blockdev(node string) (map[string]any, error) {
	if err := d.create(); err != nil {
		return nil, err
	}
	file := map[string]any{"driver": "file", "filename": d.Path, "discard": "unmap"}
	raw := map[string]any{"driver": "raw", "file": file, "discard": "unmap", "read-only": d.ReadOnly}
	if d.LogWrites == "" {
		// The host does not lose power: skipping flushes to its own disk makes a test
		// quicker, and what the guest wrote survives kill -9 anyway.
		raw["node-name"] = node
		raw["cache"] = map[string]any{"no-flush": true}
		file["cache"] = map[string]any{"no-flush": true}
		return raw, nil
	}
	if err := os.WriteFile(d.LogWrites, nil, 0o600); err != nil {
		return nil, err
	}
	return map[string]any{
		"driver": "blklogwrites", "node-name": node, "discard": "unmap",
		"file":                      raw,
		"log":                       map[string]any{"driver": "file", "filename": d.LogWrites},
		"log-sector-size":           d.blockSize(),
		"log-super-update-interval": 1,
	}, nil
}

// device returns the arguments of the virtio-blk device over the node.
func (d *Disk) device(node, id, bus string) map[string]any {
	dev := map[string]any{
		"driver": "virtio-blk-pci", "id": id, "drive": node,
		"logical_block_size": d.blockSize(), "physical_block_size": d.blockSize(),
	}
	if d.Serial != "" {
		dev["serial"] = d.Serial
	}
	if bus != "" {
		dev["bus"] = bus
	}
	return dev
}

func (d *Disk) blockSize() int {
	if d.BlockSize == 0 {
		return 512
	}
	return d.BlockSize
}

// arguments adds the disk to QEMU's command line.
func (d *Disk) arguments(n int) ([]string, error) {
	node := fmt.Sprintf("disk%d", n)
	blockdev, err := d.blockdev(node)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(blockdev)
	if err != nil {
		return nil, err
	}
	dev, err := json.Marshal(d.device(node, node+"-dev", ""))
	if err != nil {
		return nil, err
	}
	return []string{"-blockdev", string(b), "-device", string(dev)}, nil
}
