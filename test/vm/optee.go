// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// The addresses of the kernel and its initramfs when the firmware of a board with a TEE
// starts. The kernel's address is fixed in the firmware (test/mainline/optee/build).
// Below it are the device tree and the memory that OP-TEE shares with Linux.
const (
	teeKernel = 0x48000000
	teeInitrd = 0x4c000000
)

// fuseMark precedes the chip's key in the firmware (test/mainline/optee/chip.c).
const fuseMark = "imxcrypt's fuse:"

// teeFirmware returns the firmware of a board with a TEE.
func teeFirmware(ctx context.Context) ([]byte, error) {
	return makeOnce("optee", func() ([]byte, error) {
		top, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		if out, err := exec.CommandContext(ctx, filepath.Join(top, "test/mainline/optee/build")).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("test/mainline/optee/build: %w:\n%s", err, tail(string(out), 30))
		}
		return os.ReadFile(filepath.Join(top, "build/mainline/optee/flash.bin"))
	})
}

// secureWorld makes the machine start TF-A and OP-TEE, which in turn start the kernel.
// They take the memory of both worlds as QEMU leaves it, so everything is loaded from
// the beginning.
func (c *Config) secureWorld(ctx context.Context, kernel, initrd, dir string) error {
	firmware, err := teeFirmware(ctx)
	if err != nil {
		return err
	}
	before, after, ok := bytes.Cut(firmware, []byte(fuseMark))
	otpmk := c.Mainline.OTPMK
	if otpmk == "" {
		otpmk = defaultOTPMK
	}
	key := sha256.Sum256([]byte(otpmk))
	const size = 16 // HW_UNIQUE_KEY_LENGTH
	if !ok || len(after) < size {
		return errors.New("the firmware of a board with a TEE has no place for the chip's key")
	}
	flash := filepath.Join(dir, "flash")
	fused := bytes.Join([][]byte{before, []byte(fuseMark), key[:size], after[size:]}, nil)
	if err := os.WriteFile(flash, fused, 0o600); err != nil {
		return err
	}
	info, err := os.Stat(initrd)
	if err != nil {
		return err
	}
	c.Append += fmt.Sprintf(" initrd=%#x,%d", teeInitrd, info.Size())
	c.QEMUArgs = append([]string{
		"-machine", "secure=on", "-bios", flash,
		"-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", kernel, teeKernel),
		"-device", fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", initrd, teeInitrd),
	}, c.QEMUArgs...)
	return nil
}
