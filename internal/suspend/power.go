// SPDX-License-Identifier: Apache-2.0

package suspend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
)

// Power suspends to RAM. Its files are opened before anything stops.
type Power struct {
	dir         string
	state, sync *os.File
}

// OpenPower opens the kernel's files under sys ("/sys"). The error has the code
// suspend-missing if the kernel has no suspend-to-RAM.
func OpenPower(sys string) (*Power, error) {
	p := &Power{dir: filepath.Join(sys, "power")}
	states, err := os.ReadFile(filepath.Join(p.dir, "state"))
	if err != nil || !slices.Contains(strings.Fields(string(states)), "mem") {
		return nil, fault.New(fault.SuspendMissing, fmt.Sprintf("the kernel has no suspend-to-RAM: %s/state says %q", p.dir, strings.TrimSpace(string(states))), err)
	}
	p.state, err = os.OpenFile(filepath.Join(p.dir, "state"), os.O_WRONLY, 0)
	return p, err
}

// SyncNothing makes Sleep turn off the kernel's sync of the filesystems, which would
// never end for suspended ones. The error has the code suspend-missing if the kernel
// cannot turn it off.
func (p *Power) SyncNothing() (err error) {
	p.sync, err = os.OpenFile(filepath.Join(p.dir, "sync_on_suspend"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.SuspendMissing, "the kernel has no "+p.dir+"/sync_on_suspend (Linux 5.6): it would wait for the suspended volumes for ever", err)
	}
	return err
}

// Sleep suspends the machine. It returns when the machine is awake again, or with an
// error if the kernel refuses.
func (p *Power) Sleep() (err error) {
	if p.sync != nil {
		was := make([]byte, 8)
		n, err1 := p.sync.ReadAt(was, 0)
		if n == 0 {
			return fmt.Errorf("read sync_on_suspend: %w", err1)
		}
		if _, err := p.sync.WriteAt([]byte("0"), 0); err != nil {
			return fmt.Errorf("write sync_on_suspend: %w", err)
		}
		defer func() {
			if _, e := p.sync.WriteAt(was[:n], 0); e != nil {
				err = errors.Join(err, fmt.Errorf("write sync_on_suspend: %w", e))
			}
		}()
	}
	if _, err := p.state.WriteAt([]byte("mem"), 0); err != nil {
		what := "the kernel did not suspend"
		if errors.Is(err, unix.EBUSY) {
			what += ": a process or a driver did not stop, or the machine was woken meanwhile (dmesg)"
		}
		return fault.New(fault.Failed, what, err)
	}
	return nil
}

// Close closes the files.
func (p *Power) Close() error {
	err := p.state.Close()
	if p.sync != nil {
		err = errors.Join(err, p.sync.Close())
	}
	return err
}
