// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"testing"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/mapping"
)

// openedTwice is a mapping that is open by its mount and, until a read of our own ends,
// once more.
type openedTwice struct {
	mapping.Mapper
	m     *Manager
	asked int
}

func (o *openedTwice) Info(name string) (dmcrypt.Info, error) {
	if o.asked++; o.m.looks.Load() == 0 {
		return dmcrypt.Info{Name: name, Opens: 1}, nil
	}
	if o.asked == 15 { // longer than openedByNobody waits for a program
		o.m.looks.Store(0)
	}
	return dmcrypt.Info{Name: name, Opens: 2}, nil
}

// A read of our own through a mapping waits behind writes, and is given up: the program
// that has the mapping open is then this one.
func TestALookOfOurOwnIsNoUser(t *testing.T) {
	t.Parallel()
	m := &Manager{sys: System{Patience: 100 * time.Millisecond}}
	o := &openedTwice{m: m}
	m.sys.Mapper = o
	m.looks.Store(1)
	if err := m.requireNotOpen(context.Background(), "data", true); err != nil || o.asked < 15 {
		t.Errorf("after %d looks: %v", o.asked, err)
	}
	m.looks.Store(1)
	o.asked = 15
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.requireNotOpen(ctx, "data", true); err == nil || fault.Is(err, fault.Busy) {
		t.Errorf("interrupted: %v", err)
	}
}
