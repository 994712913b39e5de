// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// placesVariable is the environment variable that sets how many tests may have machines
// at once.
const placesVariable = "IMXCRYPT_VMS"

// untilVariable is the environment variable that holds the time, in Unix seconds, after
// which no further test gets machines. If a run has a time limit, a slow computer skips
// the last tests, which say so and are counted, instead of being cut off.
const untilVariable = "IMXCRYPT_VMS_UNTIL"

// late reports whether that time has passed.
func late(until string, now time.Time) bool {
	at, err := strconv.ParseInt(until, 10, 64)
	return err == nil && now.Unix() >= at
}

// places limits the number of tests that have machines at work, over all test
// processes: one more than there are processors, because machines also wait for their
// timers and for the host. More places would only make each machine slow, and no test
// would finish sooner.
//
// A test keeps its place until it ends, and its subtests share it, so no test that has
// a place waits for another.
var places struct {
	sync.Mutex
	taken map[string]bool // by the test's name
}

// takePlace waits until the test, or a test of which it is a subtest, has a place.
func takePlace(t TB) {
	t.Helper()
	places.Lock()
	defer places.Unlock()
	name := t.Name()
	if found, _ := ofAncestor(places.taken, name); found != "" {
		return
	}
	places.Unlock()
	began := time.Now()
	release, err := waitForPlace()
	places.Lock()
	if err != nil {
		t.Fatalf("vm: no place for a machine: %v", err)
	}
	if s, ok := t.(interface{ Skipf(string, ...any) }); ok && late(os.Getenv(untilVariable), time.Now()) {
		release()
		s.Skipf("NOT TESTED: the time for machines is over (%s); make vmtest has no limit", untilVariable)
	}
	if waited := time.Since(began); waited > time.Second {
		t.Logf("vm: waited %.0f s for other tests' machines", waited.Seconds())
	}
	if places.taken == nil {
		places.taken = map[string]bool{}
	}
	places.taken[name] = true
	t.Cleanup(func() {
		places.Lock()
		delete(places.taken, name)
		places.Unlock()
		release()
	})
}

// ofAncestor looks for a test's own name, and then for those of the tests of which it
// is a subtest. It returns the name that it found, or "".
func ofAncestor[V any](all map[string]V, name string) (found string, v V) {
	for {
		if v, ok := all[name]; ok {
			return name, v
		}
		i := strings.LastIndex(name, "/")
		if i < 0 {
			return "", v
		}
		name = name[:i]
	}
}

// waitForPlace waits for one of the places. They are locks on files, so they become
// free however a process ends.
func waitForPlace() (release func(), err error) {
	top, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(top, "build/vm/places")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	count := runtime.NumCPU() + 1
	if text := os.Getenv(placesVariable); text != "" {
		if count, err = strconv.Atoi(text); err != nil || count < 1 {
			return nil, fmt.Errorf("%s=%q is not a number of machines", placesVariable, text)
		}
	}
	// One process at a time looks for a free place; the others wait for their turn.
	turn, err := lockFile(filepath.Join(dir, "turn"))
	if err != nil {
		return nil, err
	}
	defer turn()
	for {
		for n := range count {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(n)), os.O_RDWR|os.O_CREATE, 0o644)
			if err != nil {
				return nil, err
			}
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if err == nil {
				return func() { f.Close() }, nil
			}
			f.Close()
			if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
				return nil, err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}
