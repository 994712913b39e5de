// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
)

// unpackKernel writes the ELF image inside an x86 bzImage to a file. The boot header
// says where the image is (Documentation/arch/x86/boot.rst, payload_offset at 0x248 and
// payload_length at 0x24c).
func unpackKernel(bzImage, out string) error {
	image, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return fmt.Errorf("%s: not a bzImage", bzImage)
	}
	setup := int64(image[0x1f1])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	end := start + int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if end > int64(len(image)) || start >= end {
		return fmt.Errorf("%s: payload at %d…%d of %d bytes", bzImage, start, end, len(image))
	}
	payload := image[start:end]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")) {
		return fmt.Errorf("%s: payload is not xz", bzImage)
	}
	// The unpacked size follows the stream.
	cmd := exec.Command("xz", "--decompress", "--stdout", "--single-stream")
	cmd.Stdin = bytes.NewReader(payload)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xz of %s: %w: %s", bzImage, err, stderr.Bytes())
	}
	return writeAtomically(out, stdout.Bytes(), 0o644)
}
