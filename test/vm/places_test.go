// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"testing"
	"time"
)

func TestASubtestIsInThePlaceOfItsTest(t *testing.T) {
	t.Parallel()
	all := map[string]int{"TestA": 1, "TestB/arm64": 2}
	for name, want := range map[string]string{
		"TestA": "TestA", "TestA/amd64": "TestA", "TestA/amd64/a b/c": "TestA",
		"TestB": "", "TestB/arm64/x": "TestB/arm64", "TestB/amd64": "", "TestAB": "",
	} {
		if found, v := ofAncestor(all, name); found != want || v != all[want] {
			t.Errorf("%s is in the place of %q (%d), not of %q", name, found, v, want)
		}
	}
}

func TestTheTimeForMachines(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for until, want := range map[string]bool{"": false, "1001": false, "1000": true, "999": true, "soon": false} {
		if late(until, now) != want {
			t.Errorf("%q: late %v", until, !want)
		}
	}
}

func TestWhatFailedToBeMadeIsMadeAgain(t *testing.T) {
	t.Parallel()
	calls := 0
	do := func() (int, error) {
		calls++
		if calls == 1 {
			return 0, errors.New("no room")
		}
		return calls, nil
	}
	if _, err := makeOnce(t.Name(), do); err == nil {
		t.Error("no error")
	}
	for range 2 {
		if got, err := makeOnce(t.Name(), do); got != 2 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
	}
}
