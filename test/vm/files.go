// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"imxcrypt/test/guest/wire"
)

// Put writes a file with mode 0644 in the guest and creates missing folders. The path
// may also name a block device.
func (m *Machine) Put(path string, data []byte) {
	m.t.Helper()
	if err := m.TryPut(path, data, 0o644); err != nil {
		m.t.Fatalf("vm: put %s: %v", path, err)
	}
}

// PutFile copies a file from the host, with its mode.
func (m *Machine) PutFile(path, host string) {
	m.t.Helper()
	info, err := os.Stat(host)
	if err != nil {
		m.t.Fatalf("vm: put %s: %v", path, err)
	}
	data, err := os.ReadFile(host)
	if err == nil {
		err = m.TryPut(path, data, info.Mode().Perm())
	}
	if err != nil {
		m.t.Fatalf("vm: put %s: %v", path, err)
	}
}

// TryPut writes a file with the given mode and returns any error.
func (m *Machine) TryPut(path string, data []byte, mode fs.FileMode) error {
	g, err := m.on()
	if err != nil {
		return err
	}
	k, err := g.channel.open()
	if err != nil {
		return err
	}
	for first := true; first || len(data) > 0; first = false {
		part := data[:min(len(data), wire.MaxPayload)]
		data = data[len(part):]
		h := wire.Header{ID: k.id, Op: wire.Put, Path: path, Mode: uint32(mode.Perm()), First: first, Last: len(data) == 0}
		if err := g.channel.send(h, part); err != nil {
			return err
		}
	}
	return m.finished(k)
}

// Get reads a file or a block device in the guest.
func (m *Machine) Get(path string) []byte {
	m.t.Helper()
	data, err := m.TryGet(path)
	if err != nil {
		m.t.Fatalf("vm: get %s: %v", path, err)
	}
	return data
}

// TryGet is Get, but returns an error instead of ending the test.
func (m *Machine) TryGet(path string) ([]byte, error) {
	g, err := m.on()
	if err != nil {
		return nil, err
	}
	k, err := g.channel.open()
	if err != nil {
		return nil, err
	}
	if err := g.channel.send(wire.Header{ID: k.id, Op: wire.Get, Path: path}, nil); err != nil {
		return nil, err
	}
	if err := m.finished(k); err != nil {
		return nil, err
	}
	return k.stdout.Bytes(), nil
}

func (m *Machine) finished(k *call) error {
	if !k.wait(m.cfg.timeout(), never) {
		return fmt.Errorf("no end after %v: %w", m.cfg.timeout(), context.DeadlineExceeded)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}
