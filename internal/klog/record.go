// SPDX-License-Identifier: Apache-2.0

package klog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Record is one message of the kernel.
type Record struct {
	// Priority is syslog's level, 0 (emergency) to 7 (debug).
	Priority int
	// Facility is syslog's; 0 is the kernel itself, others were written by
	// programs.
	Facility int
	// Sequence numbers all messages since boot.
	Sequence uint64
	// Time is when the message was logged, as the time since boot by the kernel's own
	// clock.
	Time time.Duration
	// Text is the message. The kernel has escaped unprintable characters (\x1b),
	// so it can be shown as is.
	Text string
}

// maxRecord is the kernel's CONSOLE_EXT_LOG_MAX (printk.h), the largest record
// that a read can return.
const maxRecord = 8192

var errRecord = errors.New("not a record of /dev/kmsg")

// ParseRecord parses one record of /dev/kmsg:
//
//	priority,sequence,microseconds,flags[,more];text
//	 KEY=value
//
// (Documentation/ABI/testing/dev-kmsg). The lines with keys are left out.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	if len(b) > maxRecord {
		return r, fmt.Errorf("%w: %d bytes", errRecord, len(b))
	}
	head, text, ok := bytes.Cut(b, []byte{';'})
	if !ok {
		return r, fmt.Errorf("%w: no semicolon", errRecord)
	}
	fields := bytes.Split(head, []byte{','})
	if len(fields) < 3 {
		return r, fmt.Errorf("%w: %d fields", errRecord, len(fields))
	}
	// 0 to 7 and a facility of at most 13 bits, as the kernel's LOG_FACILITY.
	priority, err := strconv.ParseUint(string(fields[0]), 10, 16)
	if err != nil {
		return r, fmt.Errorf("%w: priority", errRecord)
	}
	if r.Sequence, err = strconv.ParseUint(string(fields[1]), 10, 64); err != nil {
		return r, fmt.Errorf("%w: sequence number", errRecord)
	}
	us, err := strconv.ParseUint(string(fields[2]), 10, 64)
	if err != nil || us > uint64(1<<63-1)/uint64(time.Microsecond) {
		return r, fmt.Errorf("%w: time", errRecord)
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	r.Priority, r.Facility = int(priority&7), int(priority>>3)
	r.Time = time.Duration(us) * time.Microsecond
	r.Text = string(text)
	return r, nil
}
