// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
)

// copies searches this process's memory for the content of secret, and returns the places
// where it is found again.
func copies(secret []byte) ([]string, error) {
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	own := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(secret))))
	var found []string
	chunk := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms); err != nil {
			return nil, err
		}
		// The race detector's shadow is terabytes of nothing.
		if !strings.HasPrefix(perms, "rw") || to-from > 1<<30 || strings.Contains(line, "[v") || from <= own && own < to {
			continue
		}
		runs, err := touched(from, to)
		if err != nil {
			return nil, err
		}
		for _, run := range runs {
			for at := run[0]; at < run[1]; at += uint64(len(chunk) - len(secret)) {
				n, err := mem.ReadAt(chunk[:min(uint64(len(chunk)), run[1]-at)], int64(at))
				if err != nil && n == 0 {
					break // returned to the system meanwhile
				}
				if i := bytes.Index(chunk[:n], secret); i >= 0 {
					found = append(found, fmt.Sprintf("%#x in %s", at+uint64(i), strings.TrimSpace(line)))
				}
				clear(chunk)
			}
		}
	}
	return found, nil
}

// touched returns the parts of a mapping that have pages, in memory or in
// swap: the bits 63 and 62 of /proc/self/pagemap. Most of a Go heap has none.
func touched(from, to uint64) ([][2]uint64, error) {
	page := uint64(os.Getpagesize())
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	defer pagemap.Close()
	entries := make([]byte, (to-from)/page*8)
	if _, err := pagemap.ReadAt(entries, int64(from/page*8)); err != nil {
		return nil, err
	}
	var runs [][2]uint64
	for i := 0; i < len(entries); i += 8 {
		if entries[i+7]&0xc0 == 0 {
			continue
		}
		at := from + uint64(i/8)*page
		if n := len(runs); n > 0 && runs[n-1][1] == at {
			runs[n-1][1] += page
		} else {
			runs = append(runs, [2]uint64{at, at + page})
		}
	}
	return runs, nil
}

// onlyCopy fails if a black key is in memory outside of its own pages. First it makes
// sure that a copy would be found.
func onlyCopy(t *testing.T, key *caam.BlackKey) {
	t.Helper()
	const header = 20
	secret := key.Bytes()[header:]
	found, err := copies(secret)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("the black key is also at %v", found)
	}
	planted := bytes.Clone(secret)
	if found, err = copies(secret); err != nil || len(found) == 0 {
		t.Errorf("a copy made on purpose was not found: %v", err)
	}
	clear(planted)
	runtime.KeepAlive(planted)
}

// This does not run in parallel: the chips of other tests, in this process, have keys on
// the heap.
func TestProgramLeavesNoCopyInMemory(t *testing.T) {
	p := install(t, fake{Chip: caamtest.RandomChip().Save()})
	key, blob, err := p.Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	onlyCopy(t, key)
	again, err := p.Import(context.Background(), blob)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Wipe)
	onlyCopy(t, again)
}
