// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"time"
)

// HotPlug adds a disk to the running machine after the given time, or at once if that
// is 0. The guest's kernel needs about another second to find it. Up to four disks can
// be added between two power-ons. A Restart removes the disk unless it is also added to
// the configuration.
func (m *Machine) HotPlug(d *Disk, after time.Duration) {
	m.t.Helper()
	g, err := m.on()
	if err != nil {
		m.t.Fatalf("vm: hot-plug: %v", err)
	}
	m.mu.Lock()
	port := m.late
	m.late++
	m.mu.Unlock()
	if port >= latePorts {
		m.t.Fatalf("vm: hot-plug: only %d disks can come late", latePorts)
	}
	if after == 0 {
		if err := g.plug(d, port); err != nil {
			m.t.Fatalf("vm: hot-plug: %v", err)
		}
		return
	}
	timer := time.AfterFunc(after, func() {
		if err := g.plug(d, port); err != nil && !errors.Is(err, ErrGone) {
			m.t.Errorf("vm: hot-plug: %v", err)
		}
	})
	m.t.Cleanup(func() { timer.Stop() })
}

func (g *guest) plug(d *Disk, port int) error {
	node := fmt.Sprintf("late-disk%d", port)
	blockdev, err := d.blockdev(node)
	if err != nil {
		return err
	}
	if _, err := g.monitor.command("blockdev-add", blockdev); err != nil {
		return err
	}
	_, err = g.monitor.command("device_add", d.device(node, node+"-dev", fmt.Sprintf("late%d", port)))
	return err
}
