// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holdInMemory keeps a process that holds I/O from waiting for that same I/O: its
// program may be on the volume it rotates, and a page that is not in memory cannot be
// read while a zone is held. Locking pages as they are touched (secret.Harden) does not
// cover code that has not run yet, so the program's own ranges are locked whole. The
// process must not be killed for memory in that moment either.
//
// The error names what was refused.
func holdInMemory() error {
	if err := lockProgram(); err != nil {
		return fmt.Errorf("lock the program in memory: %w", err)
	}
	// OOM_SCORE_ADJ_MIN (linux/oom.h): never killed.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("protect the process from the out-of-memory killer: %w", err)
	}
	return nil
}

// lockProgram locks every range that is mapped from the executable.
func lockProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { _ = maps.Close() }() // only read
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// address perms offset dev inode path (proc_pid_maps(5))
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Join(fields[5:], " ") != exe || !strings.HasPrefix(fields[1], "r") {
			continue
		}
		first, last, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseUint(first, 16, 64)
		to, err2 := strconv.ParseUint(last, 16, 64)
		if err1 != nil || err2 != nil || to <= from {
			return fmt.Errorf("range %q is not understood", fields[0])
		}
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, uintptr(from), uintptr(to-from), 0); errno != 0 {
			return errno
		}
	}
	return lines.Err()
}
