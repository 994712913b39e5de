// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package vm_test

import (
	"encoding/binary"
	"os"
	"testing"
)

// assertLogWrites checks that a file is a dm-log-writes log with entries (the kernel's
// drivers/md/dm-log-writes.c: magic, version, number of entries).
func assertLogWrites(t *testing.T, file string) {
	t.Helper()
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(log) < 32 {
		t.Fatalf("log of %d bytes", len(log))
	}
	const magic = 0x6a736677736872
	if got := binary.LittleEndian.Uint64(log); got != magic {
		t.Errorf("magic %#x", got)
	}
	if entries := binary.LittleEndian.Uint64(log[16:]); entries < 2 {
		t.Errorf("%d entries, want a write and a flush at least", entries)
	}
}
