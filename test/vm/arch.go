// SPDX-License-Identifier: Apache-2.0

package vm

import "fmt"

// Arch is the architecture of a virtual machine, by Go's and Debian's name.
type Arch string

// The architectures of the boards (arm64, and 32-bit arm under its kernel) and
// of a PC.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Arches lists all architectures, for tests that run on each.
func Arches() []Arch { return []Arch{AMD64, ARM64} }

// platform is what an architecture needs in QEMU.
type platform struct {
	qemu      string
	machine   []string // arguments of QEMU
	console   string   // the kernel's name of the first serial port
	append    string   // kernel arguments
	triplet   string   // Debian's library directory
	modules   []string // in addition to bootModules and guestModules
	kernelELF bool     // boot the unpacked kernel through its PVH entry
	lacks     []string // modules that this kernel does not have
	// mainline is set for a mainline kernel instead of Debian's stock kernel.
	mainline *MainlineKernel
}

func (a Arch) platform() (platform, error) {
	switch a {
	case AMD64:
		return platform{
			qemu: "qemu-system-x86_64",
			// q35 has PCIe ports for late devices, and suspend to RAM.
			machine: []string{"-machine", "q35,vmport=off", "-cpu", "max", "-global", "ICH9-LPC.disable_s3=0"},
			console: "ttyS0",
			append:  "tsc=reliable no_timer_check",
			triplet: "x86_64-linux-gnu",
			modules: []string{"aesni-intel", "crc32c-intel"},
			// Debian's bzImage is compressed with xz; an emulated processor needs
			// seconds to unpack it.
			kernelELF: true,
		}, nil
	case ARM64:
		return platform{
			qemu:    "qemu-system-aarch64",
			machine: []string{"-machine", "virt,gic-version=3", "-cpu", "cortex-a53"},
			console: "ttyAMA0",
			triplet: "aarch64-linux-gnu",
			modules: []string{"aes-ce-cipher", "aes-ce-blk", "aes-neon-blk", "aes-neon-bs", "sha2-ce"},
		}, nil
	}
	return platform{}, fmt.Errorf("unknown architecture %q (%s, %s)", string(a), AMD64, ARM64)
}
