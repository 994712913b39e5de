// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"io/fs"
	"time"
)

// Config describes a virtual machine. The zero value of each field but Arch is
// usable.
type Config struct {
	Arch   Arch
	Disks  []*Disk // /dev/vda, /dev/vdb, … in this order
	Memory int     // MiB; default 512
	CPUs   int     // default 1

	// SimCAAM loads the simulated CAAM with these parameters; nil: a board
	// whose kernel has none.
	SimCAAM *SimCAAM
	// Mainline makes it a board with mainline's kernel and drivers; nil: Debian
	// 12's stock kernel.
	Mainline *Mainline
	// Imxcrypt is the host's path of a binary to have as /usr/bin/imxcrypt.
	Imxcrypt string
	// ExtraFiles are further files, by their path in the guest.
	ExtraFiles map[string]File
	// Withhold names modules that the guest must not have ("dm-crypt"), to
	// play a kernel without them. What depends on them is not loaded either.
	Withhold []string

	// Root is the device ("/dev/vda") with the root filesystem of a system of
	// its own: the initramfs loads its modules, the simulated CAAM among them,
	// and starts /sbin/init there. That system must run the agent as a service
	// (AgentService). Imxcrypt, ExtraFiles and Withhold do not reach it.
	Root string
	// Initramfs is the host's path of an initramfs to boot instead of the one
	// that is made here. Whatever it starts must run the agent; Imxcrypt,
	// ExtraFiles, SimCAAM and Withhold do not reach it.
	Initramfs string
	// Suspend makes an amd64 machine that can suspend to RAM and be woken by
	// QMP("system_wakeup", nil). It boots some seconds slower.
	Suspend bool

	Append   string   // further kernel arguments
	QEMUArgs []string // further arguments of QEMU
	// Timeout of the boot and of each Run, Put and Get; default 20 minutes:
	// far more than anything takes, on a host that does much else.
	Timeout time.Duration
}

// File is a file for the guest: Data, or the contents of the file Host on the
// host, or a symbolic link to Link.
type File struct {
	Data []byte
	Host string
	Link string
	Mode fs.FileMode // default 0644, 0755 for Host
}

// SimCAAM are the parameters of the simulated CAAM, test/simcaam. Only what is
// set is passed to the module.
type SimCAAM struct {
	OTPMK   string        // 64 hexadecimal digits: the chip's fused key; default the module's
	Closed  bool          // security state
	Latency time.Duration // of each request, asynchronous
	// Params are further parameters, "name=value" separated by spaces.
	Params string
}

const (
	defaultMemory  = 512 // MiB
	defaultTimeout = 20 * time.Minute
)

// clone copies the configuration so that changes of the caller's maps and
// slices do not reach the machine. Disks stay shared: their contents persist.
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
