// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imxcrypt/internal/audit"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// provisionJSON is a volume's line in `provision --json`: what a production line keeps
// for each board.
type provisionJSON struct {
	resultJSON
	// SoC and SerialNumber come from the kernel: the chip's type and its unique ID.
	SoC          string  `json:"soc"`
	SerialNumber string  `json:"serial_number"`
	TookMS       float64 `json:"took_ms"`
	ExitCode     int     `json:"exit_code"`
}

func (a *app) provisionLine(r volume.Result, err error) provisionJSON {
	return provisionJSON{
		resultJSON: resultJSON{Result: r, OK: err == nil, Error: a.problemOf(r.Volume, err)},
		// Older kernels, and the drivers of some SoCs, call the number soc_uid.
		SoC: a.socFact("soc_id"), SerialNumber: cmp.Or(a.socFact("serial_number"), a.socFact("soc_uid")),
		TookMS: float64(duration(r)) / float64(time.Millisecond), ExitCode: int(fault.ExitOf(err)),
	}
}

// socFact reads an attribute of the kernel's SoC driver
// (Documentation/ABI/testing/sysfs-devices-soc); empty if there is none.
func (a *app) socFact(name string) string {
	b, err := os.ReadFile(filepath.Join("/", a.sysRoot, "sys/devices/soc0", name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// duration returns the time that all steps took.
func duration(r volume.Result) time.Duration {
	var d time.Duration
	for _, s := range r.Steps {
		d += time.Duration(s.Took)
	}
	return d
}

// audit records in the journal what was done with a volume's key. It records nothing if
// nothing was left to do.
func (a *app) audit(r volume.Result, err error) {
	if err == nil && r.Already {
		return
	}
	a.sendAudit(audit.Event{
		Operation: a.operation, Volume: r.Volume, Device: r.Device, UUID: r.UUID, Generation: r.Generation,
		SecurityState: r.SecurityState, Took: duration(r),
	}, err)
}

// auditKey is audit for a key file.
func (a *app) auditKey(file string, err error) {
	a.sendAudit(audit.Event{Operation: a.operation, Volume: file}, err)
}

func (a *app) sendAudit(e audit.Event, err error) {
	e.Result = "done"
	if err != nil {
		e.Result, e.Detail = string(fault.CodeOf(err)), oneLine(err.Error())
	}
	if err := a.journal.Send(e); err != nil {
		a.log.Debug("the journal has no record of this", "error", fmt.Sprint(err))
	}
}
