// SPDX-License-Identifier: Apache-2.0

package dmcrypt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/mount"
)

// Remove removes a mapping, its tables and its node in /dev/mapper. If the mapping is
// mounted or otherwise in use, it returns ErrBusy: at once if the use can be seen,
// otherwise after Options.RemoveWait, since udev opens mappings briefly. It returns
// ErrNotFound if no mapping has that name.
//
// udev's event carries the flag of a primary source and no cookie; nothing waits for it.
func (m *Mapper) Remove(ctx context.Context, name string) error {
	const op = "remove the device"
	i, err := m.Info(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, m.options.RemoveWait)
	defer cancel()
	// Each pause is twice the previous one: a blkid takes a few milliseconds, and a long
	// wait should cost few wakeups.
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		err := devmapper.Remove(name)
		if err == nil {
			m.nodes.disappear(name, i.Number, false)
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return m.failure(op, name, err)
		}
		user := m.longUser(i.Number)
		if user == "" && sleep(ctx, pause) {
			continue
		}
		e := &Error{Op: op, Name: name, Kind: ErrBusy, Err: unix.EBUSY, Detail: user}
		if now, err := m.info(name); err == nil {
			e.Opens = now.Opens
		}
		if e.Detail == "" {
			e.Detail = fmt.Sprintf("open %d times", e.Opens)
		}
		return e
	}
}

// RemoveLater makes the kernel remove a mapping as soon as nothing has it open, which may
// be now.
func (m *Mapper) RemoveLater(name string) error {
	i, err := m.Info(name)
	if err != nil {
		return err
	}
	r := newRequest(name, 0)
	r.header().Flags = unix.DM_DEFERRED_REMOVE
	r.header().Event_nr = uint32(Public)
	if err := m.do(unix.DM_DEV_REMOVE, r); err != nil {
		return m.failure("remove the device later", name, err)
	}
	if _, err := m.info(name); errors.Is(err, unix.ENXIO) {
		m.nodes.disappear(name, i.Number, false)
	}
	return nil
}

// sleep waits; it returns false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// longUser names a user that will not go away by itself: a mapping above, or a mount. It
// is empty if there is neither; udev's probes do not count.
func (m *Mapper) longUser(n Number) string {
	holders, err := os.ReadDir(filepath.Join(m.options.Sys, "dev/block", n.String(), "holders"))
	if err == nil && len(holders) > 0 {
		return "held by " + holders[0].Name()
	}
	// A line that cannot be parsed does not hide the others.
	mounts, _ := mount.ListAt(m.options.Proc)
	for _, e := range mounts {
		if e.Major == n.Major && e.Minor == n.Minor {
			return fmt.Sprintf("mounted on %q", e.Target)
		}
	}
	return ""
}
