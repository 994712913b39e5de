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

// openedTwice is a mapping that its mount has open, and something else: until a look
// of our own has ended.
type openedTwice struct {
	mapping.Mapper
	m     *Manager
	asked int
}

func (o *openedTwice) Info(name string) (dmcrypt.Info, error) {
	if o.asked++; o.m.looks.Load() == 0 {
		return dmcrypt.Info{Name: name, Opens: 1}, nil
	}
	if o.asked == 15 { // later than a program would be waited for
		o.m.looks.Store(0)
	}
	return dmcrypt.Info{Name: name, Opens: 2}, nil
}

// A look through a mapping waits behind what is being written to it, and is given up:
// the program that has the mapping open then is this one.
func TestALookOfOurOwnIsNoUser(t *testing.T) {
	t.Parallel()
	m := &Manager{sys: System{Patience: 100 * time.Millisecond}}
	o := &openedTwice{m: m}
	m.sys.Mapper = o
	m.looks.Store(1)
	if err := m.openedByNobody(context.Background(), "data", true); err != nil || o.asked < 15 {
		t.Errorf("after %d looks: %v", o.asked, err)
	}
	m.looks.Store(1)
	o.asked = 15
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.openedByNobody(ctx, "data", true); err == nil || fault.Is(err, fault.Busy) {
		t.Errorf("interrupted: %v", err)
	}
}
