// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"unsafe"

	"imxcrypt/internal/secret"
)

// DefaultDevice is the node that the BSP driver registers (a misc device).
const DefaultDevice = "/dev/caam-keygen"

// command is struct caam_keygen_cmd of linux/caam_keygen.h. The padding is
// spelled out because GOARCH=arm aligns uint64 to 4 bytes, while the ARM EABI,
// like the 64-bit ones, aligns it to 8.
type command struct {
	keyEncLen   uint8
	keyModeLen  uint8
	keyValueLen uint16
	blackKeyLen uint32
	keyEnc      uint64
	keyMode     uint64
	keyValue    uint64
	blackKey    uint64
	blobLen     uint32
	_           uint32
	blob        uint64
}

// The struct's size is in the ioctl numbers; the build fails on an architecture with
// another layout.
const commandSize = 56

var (
	_ [commandSize - unsafe.Sizeof(command{})]struct{}
	_ [unsafe.Sizeof(command{}) - commandSize]struct{}
	_ [unsafe.Offsetof(command{}.blob) - 48]struct{}
	_ [48 - unsafe.Offsetof(command{}.blob)]struct{}
)

// _IOWR('K', 0 and 1, struct caam_keygen_cmd).
const (
	ioctlCreate = 3<<30 | commandSize<<16 | 'K'<<8
	ioctlImport = ioctlCreate + 1
)

// exchange holds all the memory that one command points into. It has its own locked
// pages: it may hold a red key and will hold a black one, and the kernel gets plain
// addresses, so the garbage collector must not move it.
type exchange struct {
	// args holds, at the offsets below, the arguments and the blob.
	args *secret.Buffer
	// key receives the black key.
	key *secret.Buffer
}

// Offsets in exchange.args, in bytes. A value is at most a red key and a NUL.
const (
	encAt   = 0
	modeAt  = 8
	valueAt = 16
	blobAt  = valueAt + maxRedKey + 16
	argsEnd = blobAt + MaxBlobSize
)

func newExchange() (*exchange, error) {
	args, err := secret.New(argsEnd)
	if err != nil {
		return nil, err
	}
	key, err := secret.New(MaxBlackKeySize)
	if err != nil {
		args.Wipe()
		return nil, err
	}
	return &exchange{args: args, key: key}, nil
}

// wipe frees all of it, except what takeKey has returned.
func (x *exchange) wipe() {
	x.args.Wipe()
	x.key.Wipe()
}

// takeKey hands over the black key's buffer, truncated to n bytes.
func (x *exchange) takeKey(n int) (*secret.Buffer, error) {
	if err := x.key.Truncate(n); err != nil {
		return nil, err
	}
	key := x.key
	x.key = nil
	return key, nil
}

func (x *exchange) blob() []byte { return x.args.Bytes()[blobAt:argsEnd] }

// put copies b to offset at and returns its address for the kernel.
func (x *exchange) put(at int, b []byte) uint64 {
	dst := x.args.Bytes()[at : at+len(b)]
	copy(dst, b)
	return address(dst)
}

func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// createCommand fills in CREATE. mode is "-s", with the size in decimal and a NUL as
// value, or "-t", with the red key's bytes.
func (x *exchange) createCommand(w Wrap, mode string, value []byte) *command {
	enc := append([]byte(w), 0)
	return &command{
		keyEnc:      x.put(encAt, enc),
		keyEncLen:   uint8(len(enc)),
		keyMode:     x.put(modeAt, append([]byte(mode), 0)),
		keyModeLen:  uint8(len(mode) + 1),
		keyValue:    x.put(valueAt, value),
		keyValueLen: uint16(len(value)),
		blackKey:    address(x.key.Bytes()),
		blackKeyLen: MaxBlackKeySize,
		blob:        address(x.blob()),
		blobLen:     MaxBlobSize,
	}
}

// importCommand fills in IMPORT. The caller has parsed the blob: the driver copies
// blob_len bytes into an array of 144 without checking.
func (x *exchange) importCommand(blob Blob) *command {
	return &command{
		blackKey:    address(x.key.Bytes()),
		blackKeyLen: MaxBlackKeySize,
		blob:        x.put(blobAt, blob),
		blobLen:     uint32(len(blob)),
	}
}

// kernelText returns the message that the driver may have left in a buffer that was all
// zero before, or "". It must be plain text up to a NUL: hardware failures leave the
// buffer alone, and key material never passes.
func kernelText(buffer []byte) string {
	end := 0
	for end < len(buffer) && buffer[end] != 0 {
		if c := buffer[end]; c != '\n' && (c < ' ' || c > '~') {
			return ""
		}
		end++
	}
	const shortest = 8 // longer than a tagged object's magic, which is letters
	if end == len(buffer) || end < shortest {
		return ""
	}
	for _, b := range buffer[end:] {
		if b != 0 {
			return ""
		}
	}
	for end > 0 && (buffer[end-1] == '\n' || buffer[end-1] == ' ') {
		end--
	}
	return string(buffer[:end])
}
