// SPDX-License-Identifier: Apache-2.0

// Package doctor reports what a board's chip, kernel, system and configuration
// lack for encrypted volumes, and what to do about each.
//
// It reads and changes nothing. Facts come from files below a root folder, so
// that recorded trees of boards can be checked as well as the running one, and
// from its caller, who knows the configuration and the volumes.
package doctor

import (
	"fmt"
	"time"

	"imxcrypt/internal/fault"
)

// Level is how a check came out.
type Level string

// The levels. A warning does not keep volumes from working today.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Check is the outcome of one check. Its JSON is an interface: members are
// added, never renamed or taken away.
type Check struct {
	// Name is the check's: "cipher", "kernel-options"; of a volume's state,
	// "volume NAME".
	Name  string `json:"check"`
	Level Level  `json:"level"`
	// ID names what was found, the entry of the troubleshooting page; empty
	// for ok.
	ID   string `json:"id"`
	Text string `json:"text"`
	// Remedy says what to do; empty for ok.
	Remedy string `json:"remedy"`
	// Code is the fault that a command would fail with; empty unless a problem.
	Code fault.Code `json:"code"`
}

// Chip is what is known of the SoC's key hardware.
type Chip struct {
	// SoC is the kernel's name, "i.MX8MP"; empty where it names none.
	SoC string
	// Key is the unit that seals keys: caam, dcp, ele; empty for an unknown SoC.
	Key string
	// State is open, closed or unknown.
	State string
	// KeepsKeys reports whether black keys outlive suspend-to-RAM.
	KeepsKeys bool
	// Evidence says what was looked at.
	Evidence []string
}

// Config is the outcome of loading the configuration.
type Config struct {
	Path string
	// Problem is empty where there is none.
	Problem, Remedy string
	Code            fault.Code
}

// Volume is one volume of the configuration, and its state.
type Volume struct {
	Name string
	// Source is caam, trusted or dev; auto while no header says which.
	Source string
	// Trust is the trust source that must have sealed a trusted key; empty for any.
	Trust string
	// Cipher in dm-crypt's notation; empty for the source's own.
	Cipher string
	// Header is the path of a detached header; empty for one on the device.
	Header string
	// Image: the volume lies in a file.
	Image bool
	// Node is the device that was found for it; empty for none.
	Node string
	// Filesystem is its type; "none" for none.
	Filesystem string
	State      string
	// Generation of its key, 0 where unknown.
	Generation int
	// Level, Text, Remedy, Code: what is wrong with it; Level ok for nothing.
	Level  Level
	Text   string
	Remedy string
	Code   fault.Code
	// IntactHeader: both copies were read, and are good.
	IntactHeader bool
	// EncryptsPlain: the configuration has on_plaintext: encrypt. Shrinks: with a header on
	// the device, for which a filesystem may be made smaller.
	EncryptsPlain, Shrinks bool
	// Warnings are what else there is to say of it.
	Warnings []Check
}

// Machine is what is examined.
type Machine struct {
	// Root is the folder above sys, proc and dev; empty for the running system.
	// Below any other root, device nodes may be plain files.
	Root string
	Chip Chip
	// Superuser reports whether everything may be read.
	Superuser bool
	// CAAMNode is the driver's device node, or, with Program set, of no use.
	CAAMNode string
	// Program is NXP's caam-keygen where the configuration uses it; else empty.
	Program string
	// StateDir is where keys of source dev lie.
	StateDir string
	Config   Config
	Volumes  []Volume
	// CryptVersion asks the kernel for the version of its crypt target; nil
	// where it cannot be asked.
	CryptVersion func() (string, error)
	// TrustSource asks the kernel whether it has a trust source; nil where it cannot be
	// asked.
	TrustSource func() (bool, error)
	Now         time.Time
}

// Report is all checks, in order from the chip up to the volumes.
type Report struct {
	Checks   []Check `json:"checks"`
	Problems int     `json:"problems"`
	Warnings int     `json:"warnings"`
}

// Examine runs all checks.
func Examine(m Machine) Report {
	x := &examination{Machine: m, catalogue: byID(), tree: tree{root: m.Root}}
	x.readKernel()
	for _, check := range []func(){
		x.soc, x.keyHardware, x.securityState, x.caamDriver, x.caamNode,
		x.trustSource, x.source, x.cipher, x.trustedCipher, x.deviceMapper, x.dmCrypt, x.kernelOptions, x.keyring,
		x.programs, x.udev, x.entropy, x.clock, x.suspend,
		x.configuration, x.storage, x.units, x.cryptsetup, x.volumes, x.privileges,
	} {
		check()
	}
	return x.report
}

// Failed is the code of the first problem; empty if there is none.
func (r Report) Failed() fault.Code {
	for _, c := range r.Checks {
		if c.Level == Problem {
			return c.Code
		}
	}
	return ""
}

// examination is one run.
type examination struct {
	Machine
	tree
	catalogue map[string]Finding
	kernel    kernel
	report    Report
}

// ok notes a check with nothing to complain of.
func (x *examination) ok(check, format string, args ...any) {
	x.add(Check{Name: check, Level: OK, Text: fmt.Sprintf(format, args...)})
}

// found notes a finding of the catalogue, whose text args complete.
func (x *examination) found(id string, args ...any) {
	f := x.catalogue[id]
	if f.Level == Problem && f.Hardware && !x.needsCAAM() {
		// Nothing in the configuration uses it.
		f.Level = Warning
	}
	c := Check{Name: f.Check, Level: f.Level, ID: id, Text: fmt.Sprintf(f.Text, args...), Remedy: f.Remedy}
	if f.Level == Problem {
		c.Code = f.Code
	}
	x.add(c)
}

func (x *examination) add(c Check) {
	switch c.Level {
	case Problem:
		x.report.Problems++
	case Warning:
		x.report.Warnings++
	}
	x.report.Checks = append(x.report.Checks, c)
}

// needsCAAM reports whether some volume has the source caam.
func (x *examination) needsCAAM() bool { return x.uses("caam") }

// uses reports whether some volume has a source. Without any volume, one with source
// auto is assumed: that is what the program is for.
func (x *examination) uses(source string) bool {
	if len(x.Volumes) == 0 {
		return x.sourceOf(Volume{Source: "auto"}) == source
	}
	for _, v := range x.Volumes {
		if x.sourceOf(v) == source {
			return true
		}
	}
	return false
}
