// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"imxcrypt/test/guest/wire"
)

// put writes one part of a file. After a failure it drops the remaining parts of the
// same request; the host has been informed.
func (s *server) put(h wire.Header, payload []byte) {
	f := s.files[h.ID]
	if h.First {
		var err error
		if f, err = create(h.Path, os.FileMode(h.Mode)); err != nil {
			s.fail(h.ID, err)
			return
		}
		s.files[h.ID] = f
	}
	if f == nil {
		return
	}
	_, err := f.Write(payload)
	if err == nil && !h.Last {
		return
	}
	delete(s.files, h.ID)
	if err := errors.Join(err, f.Close()); err != nil {
		s.fail(h.ID, fmt.Errorf("put %s: %w", h.Path, err))
		return
	}
	s.send(wire.Header{ID: h.ID, Op: wire.Done}, nil)
}

func create(path string, mode os.FileMode) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return f, err // a device keeps its mode
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (s *server) get(h wire.Header) {
	f, err := os.Open(h.Path)
	if err != nil {
		s.fail(h.ID, err)
		return
	}
	defer f.Close()
	buffer := make([]byte, wire.MaxPayload)
	for {
		n, err := io.ReadFull(f, buffer)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			s.fail(h.ID, fmt.Errorf("get %s: %w", h.Path, err))
			return
		}
		s.send(wire.Header{ID: h.ID, Op: wire.Data, Last: last}, buffer[:n])
		if last {
			return
		}
	}
}
