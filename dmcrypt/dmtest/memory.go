// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// Memory is a Backing in memory. Its methods may be called from several
// goroutines.
type Memory struct {
	mu   sync.RWMutex
	data []byte
}

// NewMemory returns size bytes of zeros.
func NewMemory(size int64) *Memory { return &Memory{data: make([]byte, size)} }

// Size implements Backing.
func (m *Memory) Size() int64 { return int64(len(m.data)) }

// ReadAt implements io.ReaderAt.
func (m *Memory) ReadAt(b []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off < 0 || off > m.Size() {
		return 0, unix.EINVAL
	}
	n := copy(b, m.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (m *Memory) WriteAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > m.Size() {
		return 0, unix.EINVAL
	}
	n := copy(m.data[off:], b)
	if n < len(b) {
		return n, unix.ENOSPC
	}
	return n, nil
}
