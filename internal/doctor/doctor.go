// SPDX-License-Identifier: Apache-2.0

// Package doctor reports what a board's chip, kernel, system and configuration
// lack for encrypted volumes, and what to do about each.
//
// It only reads, and changes nothing. Facts come from files below a root folder, so that
// recorded trees of boards can be checked like the running one, and from the caller,
// which knows the configuration and the volumes.
package doctor

import (
	"fmt"
	"time"

	"imxcrypt/internal/fault"
)

// Level is the outcome of a check.
type Level string

// The levels. A warning does not keep volumes from working today.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Check is the outcome of one check. Its JSON is an interface: members are added, never
// renamed or removed.
type Check struct {
	// Name is the name of the check: "cipher", "kernel-options", or "volume NAME" for the
	// state of a volume.
	Name  string `json:"check"`
	Level Level  `json:"level"`
	// ID names the finding and its entry on the troubleshooting page; empty for ok.
	ID   string `json:"id"`
	Text string `json:"text"`
	// Remedy says what to do; empty for ok.
	Remedy string `json:"remedy"`
	// Code is the fault that a command would fail with; empty unless Level is Problem.
	Code fault.Code `json:"code"`
}

// Chip is what is known about the SoC's key hardware.
type Chip struct {
	// SoC is the kernel's name of the SoC, "i.MX8MP"; empty if it names none.
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
	// Problem is empty if there is none.
	Problem, Remedy string
	Code            fault.Code
}

// Volume is one volume of the configuration, and its state.
type Volume struct {
	Name string
	// Source is caam, trusted or dev; auto if no header says which yet.
	Source string
	// Trust is the trust source that must have sealed a trusted key; empty for any.
	Trust string
	// Cipher is in dm-crypt's notation; empty for the source's default.
	Cipher string
	// Header is the path of a detached header; empty for one on the device.
	Header string
	// Image reports whether the volume is in a file.
	Image bool
	// Node is the device that was found for it; empty if none was.
	Node string
	// Filesystem is the filesystem's type; "none" for none.
	Filesystem string
	State      string
	// Generation is that of its key; 0 if unknown.
	Generation int
	// Level, Text, Remedy and Code say what is wrong with it. Level is ok if nothing is.
	Level  Level
	Text   string
	Remedy string
	Code   fault.Code
	// IntactHeader reports whether both copies of the header were read and are good.
	IntactHeader bool
	// EncryptsPlain reports whether the configuration has on_plaintext: encrypt. Shrinks
	// reports whether in addition the header is on the device and the filesystem is ext4,
	// which may then be made smaller.
	EncryptsPlain, Shrinks bool
	// Warnings are further findings about it.
	Warnings []Check
}

// Machine is the machine to examine.
type Machine struct {
	// Root is the folder above sys, proc and dev; empty for the running system.
	// Below any other root, device nodes may be plain files.
	Root string
	Chip Chip
	// Superuser reports whether everything may be read.
	Superuser bool
	// CAAMNode is the driver's device node. It has no use if Program is set.
	CAAMNode string
	// Program is NXP's caam-keygen if the configuration uses it; otherwise empty.
	Program string
	// StateDir is where keys of source dev are stored.
	StateDir string
	Config   Config
	Volumes  []Volume
	// CryptVersion asks the kernel for the version of its crypt target; nil if it cannot
	// be asked.
	CryptVersion func() (string, error)
	// TrustSource asks the kernel whether it has a trust source; nil if it cannot be
	// asked.
	TrustSource func() (bool, error)
	Now         time.Time
}

// Report holds all checks, in order from the chip up to the volumes.
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

// Failed returns the code of the first problem; it is empty if there is none.
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

// ok records a check that found nothing wrong.
func (x *examination) ok(check, format string, args ...any) {
	x.add(Check{Name: check, Level: OK, Text: fmt.Sprintf(format, args...)})
}

// found records a finding of the catalogue. args complete its text.
func (x *examination) found(id string, args ...any) {
	f, ok := x.catalogue[id]
	if !ok { // tests fail on a finding without a remedy
		f, args = Finding{Check: id, Level: Warning, Text: "not in the catalogue of findings: a bug in imxcrypt"}, nil
	}
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

// uses reports whether some volume has that source. Without any volume, it assumes one
// with source auto, which is what the program is for.
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
