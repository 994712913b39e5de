// SPDX-License-Identifier: Apache-2.0

//go:build vm

package lockfile

import "testing"

// What the kernel provides: device-mapper's control node takes locks on single bytes, a
// lock excludes another open file of the same process, and the lock ends when its file is
// closed.
func TestTheControlNodeIsAnAnchor(t *testing.T) {
	first, busy := lockAnchor(anchor, "/run/imxcrypt/data.lock")
	if first == nil || busy {
		t.Fatalf("%s cannot be locked (busy: %v)", anchor, busy)
	}
	if again, busy := lockAnchor(anchor, "/run/imxcrypt/data.lock"); again != nil || !busy {
		t.Error("it was locked twice")
	}
	other, busy := lockAnchor(anchor, "/run/imxcrypt/log.lock")
	if other == nil || busy {
		t.Fatal("another volume's lock is held, too")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, busy := lockAnchor(anchor, "/run/imxcrypt/data.lock")
	if again == nil || busy {
		t.Fatal("it is still locked after it was given up")
	}
	_ = again.Close()
	_ = other.Close()
}
