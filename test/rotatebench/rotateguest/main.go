// SPDX-License-Identifier: Apache-2.0

// Rotateguest does, in the virtual machine, what the benchmark of rotation measures:
//
//	rotateguest copy FROM TO BYTES LANES UNIT   the limit: one mapping read, the other written
//	rotateguest run PROGRAM ARGS...             its time, and the memory it took at most
//	rotateguest wait DIR SECONDS                the waits of a program that reads, writes and syncs
//
// copy moves the data as a rotation does, with LANES pieces of UNIT bytes at a time,
// but without protection and with one flush at the end.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 6 && args[0] == "copy":
		err = duplicate(args[1], args[2], args[3:])
	case len(args) >= 2 && args[0] == "run":
		err = run(args[1:])
	case len(args) == 3 && args[0] == "wait":
		err = wait(args[1], args[2])
	default:
		err = fmt.Errorf("arguments %q", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "rotateguest:", err)
		os.Exit(1)
	}
}

const page = 4096

// aligned returns n bytes aligned for O_DIRECT.
func aligned(n int) []byte {
	b := make([]byte, n+page)
	return b[-uintptr(unsafe.Pointer(&b[0]))&(page-1):][:n]
}

// run runs a program and prints its time and memory use instead of its output.
func run(argv []string) error {
	c := exec.Command(argv[0], argv[1:]...)
	c.Stderr = os.Stderr
	var out bytes.Buffer // the reason of a failure, with --json
	c.Stdout = &out
	begun := time.Now()
	if err := c.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, out.Bytes())
	}
	took := time.Since(begun)
	used := c.ProcessState.SysUsage().(*syscall.Rusage)
	return json.NewEncoder(os.Stdout).Encode(struct {
		Seconds float64
		KiB     int64
	}{took.Seconds(), int64(used.Maxrss)}) // an int32 on arm
}

func duplicate(from, to string, numbers []string) error {
	var n [3]int64
	for i, text := range numbers {
		var err error
		if n[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return err
		}
	}
	total, lanes, unit := n[0], n[1], n[2]
	r, err := os.OpenFile(from, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	var next atomic.Int64
	var group sync.WaitGroup
	failed := make(chan error, lanes)
	for range lanes {
		group.Go(func() {
			b := aligned(int(unit))
			for {
				at := next.Add(unit) - unit
				if at >= total {
					return
				}
				b := b[:min(unit, total-at)]
				if _, err := r.ReadAt(b, at); err != nil {
					failed <- err
					return
				}
				if _, err := w.WriteAt(b, at); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(failed)
	if err := <-failed; err != nil {
		return err
	}
	return w.Sync()
}

// waits are the waiting times of one kind of request, in milliseconds.
type waits struct {
	N                int
	Median, P99, Max float64
	Over             int // 200 ms
}

const (
	fileSize = 8 << 20
	chunk    = 128 << 10
)

// wait reads and writes pages of a file past the page cache and prints the waiting
// times. It pauses between two rounds, as a program does that does not only make
// requests.
func wait(dir, seconds string) error {
	n, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "waits"), os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := aligned(chunk)
	for at := int64(0); at < fileSize; at += chunk {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	taken := map[string][]time.Duration{}
	request := func(kind string, do func() error) {
		begun := time.Now()
		if e := do(); e != nil && err == nil {
			err = e
		}
		taken[kind] = append(taken[kind], time.Since(begun))
	}
	for end := time.Now().Add(time.Duration(n * float64(time.Second))); time.Now().Before(end) && err == nil; time.Sleep(5 * time.Millisecond) {
		at := rand.Int64N(fileSize/page) * page
		request("read", func() error { _, err := f.ReadAt(b[:page], at); return err })
		request("write", func() error { _, err := f.WriteAt(b[:page], at); return err })
		request("fsync", f.Sync)
	}
	if err != nil {
		return err
	}
	out := map[string]waits{}
	for kind, d := range taken {
		slices.Sort(d)
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		over, _ := slices.BinarySearch(d, 200*time.Millisecond+1)
		out[kind] = waits{len(d), ms(d[len(d)/2]), ms(d[len(d)*99/100]), ms(d[len(d)-1]), len(d) - over}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
