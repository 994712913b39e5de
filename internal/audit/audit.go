// SPDX-License-Identifier: Apache-2.0

// Package audit logs operations on keys to systemd's journal, in searchable
// fields: what was done, to which volume, and how it ended. It is never given a
// key, a blob or anything derived from them.
package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is where the journal takes messages in its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const Socket = "/run/systemd/journal/socket"

// MessageID marks all messages of this package: journalctl MESSAGE_ID=….
const MessageID = "b9a1c5f1d3d24c58a0a7f5f0b1f34e6c"

// maxDatagram bounds a message; a longer one holds something that does not belong
// there.
const maxDatagram = 8 << 10

// Event is one operation on a key, completed or attempted.
type Event struct {
	// Operation is the command: "provision", "unlock", "key create".
	Operation string
	// Volume is the volume's name, or the name of the key's file.
	Volume        string
	Device        string
	UUID          string
	Generation    int
	SecurityState string
	// Result is "done", or the fault's code.
	Result string
	// Detail is the error's text; empty for done.
	Detail string
	Took   time.Duration
}

// Journal sends events to the socket at its path. The empty Journal sends none.
type Journal struct{ Path string }

// Send sends the event to the journal. A system without a journal is not an error. An
// operation must not wait long for its log, so a socket that stays full is an error, and
// nothing is retried.
func (j Journal) Send(e Event) error {
	if j.Path == "" {
		return nil
	}
	message := e.encode()
	if len(message) > maxDatagram {
		return fmt.Errorf("a message of %d bytes for the journal", len(message))
	}
	// Plain system calls: package net would be a tenth of the program.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for the journal: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("set the journal's time limit: %w", err)
	}
	err = unix.Sendto(fd, message, unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: j.Path})
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("log to the journal at %s: %w", j.Path, err)
}

// patience is how long to wait for a full socket.
const patience = 100 * time.Millisecond

// Priorities of syslog(3).
const (
	priorityError  = 3
	priorityNotice = 5
)

func (e Event) encode() []byte {
	priority := priorityNotice
	text := e.Operation + " " + e.Volume + ": " + e.Result
	if e.Detail != "" {
		priority = priorityError
		text += ": " + e.Detail
	}
	var b bytes.Buffer
	field(&b, "MESSAGE", text)
	field(&b, "MESSAGE_ID", MessageID)
	field(&b, "PRIORITY", fmt.Sprint(priority))
	field(&b, "SYSLOG_IDENTIFIER", "imxcrypt")
	field(&b, "IMXCRYPT_OPERATION", e.Operation)
	field(&b, "IMXCRYPT_VOLUME", e.Volume)
	field(&b, "IMXCRYPT_DEVICE", e.Device)
	field(&b, "IMXCRYPT_UUID", e.UUID)
	if e.Generation > 0 {
		field(&b, "IMXCRYPT_GENERATION", fmt.Sprint(e.Generation))
	}
	field(&b, "IMXCRYPT_SECURITY_STATE", e.SecurityState)
	field(&b, "IMXCRYPT_RESULT", e.Result)
	if e.Took > 0 {
		field(&b, "IMXCRYPT_DURATION_USEC", fmt.Sprint(e.Took.Microseconds()))
	}
	return b.Bytes()
}

// field appends one field: on a line or, if it contains line feeds, with its length
// as a little-endian u64. An empty field is left out.
func field(b *bytes.Buffer, name, value string) {
	if value == "" {
		return
	}
	b.WriteString(name)
	if strings.ContainsRune(value, '\n') {
		b.WriteByte('\n')
		b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(value))))
	} else {
		b.WriteByte('=')
	}
	b.WriteString(value)
	b.WriteByte('\n')
}
