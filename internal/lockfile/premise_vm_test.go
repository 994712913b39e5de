// SPDX-License-Identifier: Apache-2.0

//go:build vm

package lockfile

import "testing"

// The kernel's facts: device-mapper's control node takes locks on single bytes, one
// excludes another open of the same process, and it ends when it is closed.
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
