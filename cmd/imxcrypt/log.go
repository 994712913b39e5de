// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Priorities of the kernel and the journal (sd-daemon(3)): a line on stderr
// that begins with <N> is filed under N.
const (
	priorityError   = 3
	priorityWarning = 4
	priorityInfo    = 6
	priorityDebug   = 7
)

// logHandler writes a log record as one line: message and key=value pairs.
type logHandler struct {
	out        io.Writer
	level      slog.Level
	priorities bool
	attrs      []slog.Attr
}

// Enabled implements slog.Handler.
func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if h.priorities {
		fmt.Fprintf(&b, "<%d>", priorityOf(r.Level))
	}
	fmt.Fprintf(&b, "imxcrypt: %s: %s", strings.ToLower(r.Level.String()), oneLine(r.Message))
	write := func(a slog.Attr) bool {
		value := a.Value.String()
		if strings.ContainsAny(value, " \"\n\t=") || value == "" {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, " %s=%s", a.Key, value)
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	b.WriteByte('\n')
	_, err := io.WriteString(h.out, b.String())
	return err
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr{}, h.attrs...), attrs...)
	return &c
}

// WithGroup implements slog.Handler; groups are not used.
func (h *logHandler) WithGroup(string) slog.Handler { return h }

func priorityOf(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return priorityError
	case l >= slog.LevelWarn:
		return priorityWarning
	case l >= slog.LevelInfo:
		return priorityInfo
	}
	return priorityDebug
}

func (a *app) priority(n int) string {
	if !a.toJournal() {
		return ""
	}
	return fmt.Sprintf("<%d>", n)
}

// toJournal reports whether stderr is the journal's socket.
func (a *app) toJournal() bool { return a.isJournal(a.stderr) }

// isJournal reports whether a stream is the journal's socket: systemd names its
// device and inode in JOURNAL_STREAM (systemd.exec(5)).
func (a *app) isJournal(w io.Writer) bool {
	stream := a.getenv("JOURNAL_STREAM")
	f, ok := fileOf(w)
	if stream == "" || !ok {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
