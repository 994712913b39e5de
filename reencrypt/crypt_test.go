// SPDX-License-Identifier: Apache-2.0

package reencrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"testing"
)

// cryptView is what a dm-crypt mapping with aes-cbc-plain64 shows of a device: each crypt
// sector is one CBC message, and its IV is the number of its first 512-byte sector. If
// some 512-byte sectors of a 4096-byte crypt sector are missing, they decrypt to noise,
// as in the kernel.
type cryptView struct {
	dev    ReadWriter
	block  cipher.Block
	sector int64
	offset int64
	size   int64
}

func newCryptView(t testing.TB, dev ReadWriter, key byte, sector int, offset, size int64) *cryptView {
	t.Helper()
	k := make([]byte, 32)
	for i := range k {
		k[i] = key + byte(i)
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		t.Fatal(err)
	}
	return &cryptView{dev: dev, block: b, sector: int64(sector), offset: offset, size: size}
}

func (v *cryptView) check(p []byte, off int64) error {
	if off < 0 || off%v.sector != 0 || int64(len(p))%v.sector != 0 || off+int64(len(p)) > v.size {
		return fmt.Errorf("unaligned or outside: %d bytes at %d", len(p), off)
	}
	return nil
}

func (v *cryptView) iv(off int64) []byte {
	iv := make([]byte, aes.BlockSize)
	binary.LittleEndian.PutUint64(iv, uint64(off/SectorSize))
	return iv
}

func (v *cryptView) ReadAt(p []byte, off int64) (int, error) {
	if err := v.check(p, off); err != nil {
		return 0, err
	}
	if n, err := v.dev.ReadAt(p, v.offset+off); err != nil {
		return n, err
	}
	for i := int64(0); i < int64(len(p)); i += v.sector {
		s := p[i : i+v.sector]
		cipher.NewCBCDecrypter(v.block, v.iv(off+i)).CryptBlocks(s, s)
	}
	return len(p), nil
}

func (v *cryptView) WriteAt(p []byte, off int64) (int, error) {
	if err := v.check(p, off); err != nil {
		return 0, err
	}
	c := make([]byte, len(p))
	for i := int64(0); i < int64(len(p)); i += v.sector {
		cipher.NewCBCEncrypter(v.block, v.iv(off+i)).CryptBlocks(c[i:i+v.sector], p[i:i+v.sector])
	}
	return v.dev.WriteAt(c, v.offset+off)
}

func (v *cryptView) Flush() error { return v.dev.Flush() }
