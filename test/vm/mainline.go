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

// Mainline describes a board with a kernel of mainline, Debian's, whose own
// drivers, unchanged, make trusted keys with the hardware that Keys names. It is
// an ARM64 machine; test/mainline builds what it needs.
type Mainline struct {
	Keys   KeyHardware
	Kernel MainlineKernel
	// OTPMK is what is fused into the chip, any text: another one, another
	// chip. Of CAAM, DCP and TEE; default "chip-1".
	OTPMK string
	// State is the security state of CAAM or DCP, default Trusted.
	State SecurityState
	// TPM is the chip of a board whose keys are the TPM's.
	TPM *TPM
	// Source is the parameter trusted.source of the kernel: caam, dcp, tee or
	// tpm. The default is the hardware's, and caam on a board without any, so
	// that a kernel built for that hardware alone is played. SourceUnset leaves
	// the choice to the kernel; TEE is compiled in, and shadows CAAM and DCP.
	Source string
	// Keygen adds NXP's interface to the board's CAAM, /dev/caam-keygen and tk(), by
	// a driver of our own, test/simcaam/job.c: black keys that this CAAM makes.
	Keygen bool
	// Manual leaves trusted.ko and dm-crypt.ko, which needs it, to the test:
	// `modprobe trusted source=…`.
	Manual bool
}

// KeyHardware is what seals a board's trusted keys.
type KeyHardware string

// The hardware that there is a model of. The zero value is a board without any. TEE
// is a real OP-TEE, which takes a minute of processor time to build, once.
const (
	NoKeys KeyHardware = ""
	CAAM   KeyHardware = "caam"
	DCP    KeyHardware = "dcp"
	TEE    KeyHardware = "tee"
	TPM2   KeyHardware = "tpm"
)

// defaultOTPMK is that of a board that names none; the models have the same.
const defaultOTPMK = "chip-1"

// SecurityState is what fuses and boot have made of the chip.
type SecurityState string

// The states of CAAM. DCP knows Trusted and NonSecure, an open chip.
const (
	Trusted   SecurityState = "trusted"
	Secure    SecurityState = "secure"
	NonSecure SecurityState = "nonsecure"
)

// SourceUnset is for Mainline.Source: no such parameter.
const SourceUnset = "-"

// MainlineKernel is which kernel such a board has.
type MainlineKernel string

// The kernels. The zero value is Debian 12's newer one.
const (
	Linux612 MainlineKernel = ""
	// Linux7 is the 7.x of Debian 13's backports, which has protected keys. It
	// is downloaded and built when a test asks for it, so: for soak tests.
	Linux7 MainlineKernel = "7.x"
	// Linux7Protected is Linux7 with the two lines changed that protected keys need
	// (test/mainline/build).
	Linux7Protected MainlineKernel = "7.x-protected"
)

// flavour is test/tools/fetch-debian's name of the kernel.
func (k MainlineKernel) flavour() string {
	if k == Linux612 {
		return "6.12-cloud-arm64"
	}
	return "7.x-cloud-arm64"
}

// modules is where test/mainline/build has its modules, below build.
func (k MainlineKernel) modules() string {
	return map[MainlineKernel]string{
		Linux612: "mainline/modules", Linux7: "mainline-7.x/modules", Linux7Protected: "mainline-7.x/modules-protected",
	}[k]
}

// lacks are modules that only Debian's stock kernel has, or the 6.12.
func (k MainlineKernel) lacks() []string {
	if k == Linux612 {
		return []string{"brd", "f2fs"}
	}
	// Most are part of the kernel there.
	return strings.Fields(`imxcrypt_jobcaam f2fs aes-ce-cipher sha2-ce nhpoly1305-neon chacha-neon ghash-generic
		sha256_generic crc32c_generic crc32_generic xxhash_generic blake2b_generic`)
}

// mainlineDrivers are loaded before trusted.ko, which asks once what is there.
var mainlineDrivers = []string{"caam_jr", "dcp", "tpm_tis"}

// mainlinePlatform is that of an ARM64 machine with another kernel.
func mainlinePlatform(p platform, kernel MainlineKernel) platform {
	p.mainline = &kernel
	p.modules = slices.Concat(p.modules, mainlineDrivers, strings.Fields(`
		trusted optee adiantum nhpoly1305-neon chacha-neon
		imxcrypt_jobcaam
		gcm ghash-generic crypto_null`))
	if p.lacks = kernel.lacks(); kernel != Linux612 {
		p.modules = append(p.modules, "chacha")
		// Unchanged, it writes past a buffer whenever it makes a protected key: so
		// that lands in a red zone, and is reported.
		p.append = "slab_debug=FZU,kmalloc-64"
	}
	return p
}

// platform is what this machine needs in QEMU.
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

// kernelFlavour is Debian's name of the machine's kernel.
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

// chip is the name of the model in QEMU, "" if the board has none.
func (b *Mainline) chip() string {
	return map[KeyHardware]string{CAAM: "fsl-caam", DCP: "fsl-dcp"}[b.Keys]
}

// qemu returns the arguments and the environment that put the hardware on the
// board. dir is the folder of its sockets.
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

// buildMainline returns the kernel's release, and a text that changes with what
// is built.
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
