// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between a test on the host and the agent, which is PID 1
// of the virtual machine. It runs over one virtio-serial port.
//
// Both sides send frames: a small JSON header and a raw payload, so that file contents
// and program output are never encoded. Every frame carries the number of its request,
// so many requests may be in progress at once; frames of one request keep their order.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxPayload is the largest payload of a frame, in bytes. Sender and receiver hold one
// payload in memory for each frame.
const MaxPayload = 64 << 10

// maxHeader limits the JSON header of a frame, in bytes. It must hold a command line
// and an environment.
const maxHeader = 1 << 20

// magic starts every frame. It distinguishes a frame from a stray write to the port.
const magic = 0x494d5846 // "IMXF"

// Op is what a frame requests or reports.
type Op string

// Requests, host to guest.
const (
	Start  Op = "start"  // run Argv; answered by Started or Failed, then Output…, Exited
	Signal Op = "signal" // send Signal to the process of request ID, or to its whole session with Group
	Put    Op = "put"    // payload is the next part of the file Path; answered, at Last, by Done or Failed
	Get    Op = "get"    // read the file Path; answered by Data…, the last with Last, or Failed
	Power  Op = "power"  // sync, then power off
)

// Answers, guest to host.
const (
	Hello   Op = "hello" // the agent is ready; ID is 0
	Started Op = "started"
	Output  Op = "output" // payload of Stream 1 or 2
	Exited  Op = "exited"
	Done    Op = "done"
	Data    Op = "data"
	Failed  Op = "failed" // Error says why
)

// Header describes a frame. Only the fields that its Op names are set.
type Header struct {
	ID     uint64   `json:"id"`
	Op     Op       `json:"op"`
	Argv   []string `json:"argv,omitempty"`
	Env    []string `json:"env,omitempty"` // added to the agent's own
	Dir    string   `json:"dir,omitempty"`
	Stdin  string   `json:"stdin,omitempty"` // a file, removed once it is open; default /dev/null
	Path   string   `json:"path,omitempty"`
	Mode   uint32   `json:"mode,omitempty"` // permission bits
	Signal int      `json:"signal,omitempty"`
	Group  bool     `json:"group,omitempty"`
	First  bool     `json:"first,omitempty"`
	Last   bool     `json:"last,omitempty"`
	Stream int      `json:"stream,omitempty"`
	PID    int      `json:"pid,omitempty"`
	Code   int      `json:"code,omitempty"`   // exit code, -1 when a signal ended the process
	Killed int      `json:"killed,omitempty"` // that signal
	Micros int64    `json:"micros,omitempty"` // duration
	Error  string   `json:"error,omitempty"`
	Kernel string   `json:"kernel,omitempty"` // release, in Hello
}

// Write sends one frame in a single write. The caller serialises writers.
func Write(w io.Writer, h Header, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("frame payload of %d bytes exceeds %d", len(payload), MaxPayload)
	}
	text, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("frame header: %w", err)
	}
	if len(text) > maxHeader {
		return fmt.Errorf("frame header of %d bytes exceeds %d", len(text), maxHeader)
	}
	frame := make([]byte, 12, 12+len(text)+len(payload))
	binary.BigEndian.PutUint32(frame[0:], magic)
	binary.BigEndian.PutUint32(frame[4:], uint32(len(text)))
	binary.BigEndian.PutUint32(frame[8:], uint32(len(payload)))
	frame = append(append(frame, text...), payload...)
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// ErrFrame is the error for bytes that are not a frame.
var ErrFrame = errors.New("not a frame of the guest protocol")

// Read receives one frame. At a clean end of the stream the error is io.EOF.
func Read(r io.Reader) (Header, []byte, error) {
	var fixed [12]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Header{}, nil, err
	}
	text := binary.BigEndian.Uint32(fixed[4:])
	payload := binary.BigEndian.Uint32(fixed[8:])
	if binary.BigEndian.Uint32(fixed[:]) != magic || text > maxHeader || payload > MaxPayload {
		return Header{}, nil, fmt.Errorf("%w: % x", ErrFrame, fixed)
	}
	body := make([]byte, int(text)+int(payload))
	if _, err := io.ReadFull(r, body); err != nil {
		return Header{}, nil, fmt.Errorf("frame cut short: %w", err)
	}
	var h Header
	if err := json.Unmarshal(body[:text], &h); err != nil {
		return Header{}, nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return h, body[text:], nil
}
