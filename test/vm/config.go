// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"io/fs"
	"time"
)

// Config describes a virtual machine. The zero value is usable for every field except
// Arch.
type Config struct {
	Arch   Arch
	Disks  []*Disk // /dev/vda, /dev/vdb, … in this order
	Memory int     // MiB; default 512
	CPUs   int     // default 1

	// SimCAAM loads the simulated CAAM with these parameters. If it is nil, the board's
	// kernel has none.
	SimCAAM *SimCAAM
	// Mainline makes the machine a board with the mainline kernel and its drivers. If
	// it is nil, the machine runs Debian 12's stock kernel.
	Mainline *Mainline
	// Imxcrypt is the path on the host of a binary to install as /usr/bin/imxcrypt.
	Imxcrypt string
	// ExtraFiles are additional files, keyed by their path in the guest.
	ExtraFiles map[string]File
	// Withhold names modules that the guest must not have ("dm-crypt"), to simulate a
	// kernel without them. Modules that depend on them are not loaded either.
	Withhold []string

	// Root is the device ("/dev/vda") that holds the root filesystem of a complete
	// system. The initramfs loads its modules, including the simulated CAAM, and starts
	// /sbin/init on that filesystem. The system must run the agent as a service
	// (AgentService). Imxcrypt, ExtraFiles and Withhold have no effect on it.
	Root string
	// Initramfs is the path on the host of an initramfs to boot instead of the one made
	// here. The system that it starts must run the agent. Imxcrypt, ExtraFiles, SimCAAM
	// and Withhold have no effect on it.
	Initramfs string
	// Suspend makes an amd64 machine that can suspend to RAM and that
	// QMP("system_wakeup", nil) wakes. It boots some seconds slower.
	Suspend bool

	Append   string   // additional kernel arguments
	QEMUArgs []string // additional arguments of QEMU
	// Timeout limits the boot and each Run, Put and Get. The default is 20 minutes, far
	// more than anything takes even on a busy host.
	Timeout time.Duration
}

// File is a file for the guest: Data, the contents of the file Host on the host, or a
// symbolic link to Link.
type File struct {
	Data []byte
	Host string
	Link string
	Mode fs.FileMode // default 0644, 0755 for Host
}

// SimCAAM holds the parameters of the simulated CAAM, test/simcaam. Only the parameters
// that are set are passed to the module.
type SimCAAM struct {
	OTPMK   string        // 64 hexadecimal digits: the chip's fused key; default: the module's default
	Closed  bool          // security state
	Latency time.Duration // of each request, asynchronous
	// Params are additional parameters, "name=value" separated by spaces.
	Params string
}

const (
	defaultMemory  = 512 // MiB
	defaultTimeout = 20 * time.Minute
)

// clone copies the configuration so that later changes to the caller's maps and slices
// do not affect the machine. Disks stay shared: their contents persist.
func (c Config) clone() Config {
	c.Disks = append([]*Disk(nil), c.Disks...)
	c.Withhold = append([]string(nil), c.Withhold...)
	c.QEMUArgs = append([]string(nil), c.QEMUArgs...)
	files := make(map[string]File, len(c.ExtraFiles))
	for name, f := range c.ExtraFiles {
		files[name] = f
	}
	c.ExtraFiles = files
	if c.SimCAAM != nil {
		sim := *c.SimCAAM
		c.SimCAAM = &sim
	}
	if c.Mainline != nil {
		board := *c.Mainline
		c.Mainline = &board
	}
	return c
}

func (c Config) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}
