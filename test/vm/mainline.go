// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Mainline describes a board with a mainline kernel, packaged by Debian. The kernel's
// own drivers, unchanged, make trusted keys with the hardware that Keys names. The
// board is an ARM64 machine; test/mainline builds what it needs.
type Mainline struct {
	Keys   KeyHardware
	Kernel MainlineKernel
	// OTPMK is the key fused into the chip, any text; another text is another chip. It
	// applies to CAAM, DCP and TEE. The default is "chip-1".
	OTPMK string
	// State is the security state of CAAM or DCP. The default is Trusted.
	State SecurityState
	// TPM is the chip of a board whose trusted keys come from a TPM.
	TPM *TPM
	// Source is the kernel parameter trusted.source: caam, dcp, tee or tpm. The default
	// is the board's hardware, or caam on a board without any, to simulate a kernel
	// built for that hardware alone. SourceUnset leaves the choice to the kernel, where
	// TEE is compiled in and takes precedence over CAAM and DCP.
	Source string
	// Keygen adds NXP's interface to the board's CAAM, /dev/caam-keygen and tk(),
	// through our own driver, test/simcaam/job.c. This CAAM then makes the black keys.
	Keygen bool
	// Manual leaves loading trusted.ko, and dm-crypt.ko which needs it, to the test:
	// `modprobe trusted source=…`.
	Manual bool
}

// KeyHardware is what seals a board's trusted keys.
type KeyHardware string

// The hardware for which there is a model. The zero value is a board without any. TEE
// is a real OP-TEE; building it takes a minute of processor time, once.
const (
	NoKeys KeyHardware = ""
	CAAM   KeyHardware = "caam"
	DCP    KeyHardware = "dcp"
	TEE    KeyHardware = "tee"
	TPM2   KeyHardware = "tpm"
)

// defaultOTPMK is the key of a board that sets none. The models have the same default.
const defaultOTPMK = "chip-1"

// SecurityState is the chip's state as determined by fuses and boot.
type SecurityState string

// The states of CAAM. DCP has only Trusted and NonSecure, an open chip.
const (
	Trusted   SecurityState = "trusted"
	Secure    SecurityState = "secure"
	NonSecure SecurityState = "nonsecure"
)

// SourceUnset is for Mainline.Source and passes no such parameter.
const SourceUnset = "-"

// MainlineKernel selects the kernel of such a board.
type MainlineKernel string

// The kernels. The zero value is the newer one of Debian 12.
const (
	Linux612 MainlineKernel = ""
	// Linux7 is the 7.x of Debian 13's backports, which has protected keys. It is
	// downloaded and built only when a test asks for it, so it is for soak tests.
	Linux7 MainlineKernel = "7.x"
	// Linux7Protected is Linux7 with the two changed lines that protected keys need
	// (test/mainline/build).
	Linux7Protected MainlineKernel = "7.x-protected"
)

// flavour returns the kernel's name in test/tools/fetch-debian.
func (k MainlineKernel) flavour() string {
	if k == Linux612 {
		return "6.12-cloud-arm64"
	}
	return "7.x-cloud-arm64"
}

// modules returns the folder, below build, where test/mainline/build puts its modules.
func (k MainlineKernel) modules() string {
	return map[MainlineKernel]string{
		Linux612: "mainline/modules", Linux7: "mainline-7.x/modules", Linux7Protected: "mainline-7.x/modules-protected",
	}[k]
}

// lacks returns the modules that k does not have: only the stock kernel or 6.12 has
// them.
func (k MainlineKernel) lacks() []string {
	if k == Linux612 {
		return []string{"brd", "f2fs"}
	}
	// Most of them are compiled into this kernel.
	return strings.Fields(`imxcrypt_jobcaam f2fs aes-ce-cipher sha2-ce nhpoly1305-neon chacha-neon ghash-generic
		sha256_generic crc32c_generic crc32_generic xxhash_generic blake2b_generic`)
}

// mainlineDrivers are loaded before trusted.ko, which looks for hardware only once.
var mainlineDrivers = []string{"caam_jr", "dcp", "tpm_tis"}

// mainlinePlatform returns the platform of an ARM64 machine with another kernel.
func mainlinePlatform(p platform, kernel MainlineKernel) platform {
	p.mainline = &kernel
	p.modules = slices.Concat(p.modules, mainlineDrivers, strings.Fields(`
		trusted optee adiantum nhpoly1305-neon chacha-neon
		imxcrypt_jobcaam
		gcm ghash-generic crypto_null`))
	if p.lacks = kernel.lacks(); kernel != Linux612 {
		p.modules = append(p.modules, "chacha")
		// The unchanged kernel writes past a buffer whenever it makes a protected key.
		// This puts the write into a red zone, where it is reported.
		p.append = "slab_debug=FZU,kmalloc-64"
	}
	return p
}

// platform returns what this machine needs in QEMU.
func (c Config) platform() (platform, error) {
	p, err := c.Arch.platform()
	if err != nil || c.Mainline == nil {
		return p, err
	}
	if c.Arch != ARM64 {
		return p, fmt.Errorf("%s: boards with mainline's kernel are %s", c.Arch, ARM64)
	}
	if c.SimCAAM != nil && c.Mainline.Kernel != Linux612 {
		return p, errors.New("the simulated CAAM is not built for Linux 7.x")
	}
	return mainlinePlatform(p, c.Mainline.Kernel), c.Mainline.valid()
}

// kernelFlavour returns Debian's name of the machine's kernel.
func (c Config) kernelFlavour() string {
	if c.Mainline != nil {
		return c.Mainline.Kernel.flavour()
	}
	return string(c.Arch)
}

func (b *Mainline) valid() error {
	switch {
	case !slices.Contains([]KeyHardware{NoKeys, CAAM, DCP, TEE, TPM2}, b.Keys):
		return fmt.Errorf("unknown key hardware %q", b.Keys)
	case b.Kernel.modules() == "":
		return fmt.Errorf("unknown kernel %q", b.Kernel)
	case (b.Keys == TPM2) != (b.TPM != nil):
		return errors.New("Mainline.TPM is for a board whose keys are the TPM's, and only for that")
	case b.Keygen && (b.Keys != CAAM || b.Kernel != Linux612):
		return errors.New("Mainline.Keygen needs a CAAM, and Linux 6.12")
	case b.chip() == "" && (b.OTPMK != "" && b.Keys != TEE || b.State != ""):
		return errors.New("Mainline.OTPMK is that of CAAM, DCP or TEE, and State that of CAAM or DCP")
	}
	return nil
}

// chip returns the name of the model in QEMU, or "" if the board has none.
func (b *Mainline) chip() string {
	return map[KeyHardware]string{CAAM: "fsl-caam", DCP: "fsl-dcp"}[b.Keys]
}

// qemu returns the arguments and the environment that put the hardware on the board.
// dir is the folder of the machine's sockets.
func (b *Mainline) qemu(im *image, dir string) (args, env []string) {
	if b.TPM != nil {
		return []string{
			"-chardev", "socket,id=tpm,path=" + filepath.Join(dir, tpmSocket),
			"-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis-device,tpmdev=tpm",
		}, nil
	}
	chip := b.chip()
	if chip == "" {
		return nil, nil
	}
	device := "imx-crypto,model=" + chip
	if b.OTPMK != "" {
		device += ",otpmk=" + strings.ReplaceAll(b.OTPMK, ",", ",,")
	}
	if b.State != "" {
		device += ",state=" + string(b.State)
	}
	return []string{"-device", device}, []string{"LD_PRELOAD=" + im.models}
}

// source returns the parameters of trusted.ko.
func (b *Mainline) source() string {
	switch {
	case b.Source == SourceUnset:
		return ""
	case b.Source != "":
		return "source=" + b.Source
	case b.Keys == NoKeys:
		return "source=" + string(CAAM)
	}
	return "source=" + string(b.Keys)
}

// buildMainline builds for the kernel and returns its release, and a text that changes
// with what is built.
func buildMainline(ctx context.Context, top string, kernel MainlineKernel) (release, madeOf string, err error) {
	cmd := exec.CommandContext(ctx, filepath.Join(top, "test/mainline/build"), filepath.Join(top, "build"), kernel.flavour())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("test/mainline/build: %w:\n%s", err, tail(stderr.String(), 30))
	}
	release, madeOf, ok := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if !ok {
		return "", "", fmt.Errorf("test/mainline/build: no two lines in %q", out)
	}
	return release, madeOf + string(kernel), nil
}
