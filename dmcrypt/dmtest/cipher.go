// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// cryptPart encrypts the sectors of one crypt target.
type cryptPart struct {
	k         *Kernel
	algorithm string // "tk(cbc(aes))"
	mode      string // cbc, xts or adiantum
	wrapped   bool
	iv        string
	payload   []byte
	sector    int64  // bytes
	ivOffset  uint64 // in 512-byte sectors
	large     bool
}

// modes are the algorithms that the fake has. Its Adiantum is as wide as a sector in that
// every byte depends on the key and the number; the ciphertext is the fake's own.
var modes = map[string]string{
	"cbc(aes)": "cbc", "tk(cbc(aes))": "cbc", "cbc(paes)": "cbc", "xts(aes)": "xts", "adiantum(xchacha12,aes)": "adiantum",
}

func (k *Kernel) newCrypt(c dmcrypt.Crypt) (*cryptPart, error) {
	spec, err := c.Cipher.Parse()
	if err != nil {
		return nil, &dmcrypt.Error{Kind: dmcrypt.ErrCipher, Err: err}
	}
	p := &cryptPart{
		k: k, algorithm: spec.Algorithm, wrapped: spec.Wrapped(), iv: spec.IV,
		sector: int64(c.SectorSize()), ivOffset: c.IVOffset, large: c.Has("iv_large_sectors"),
	}
	if k.o.NoCiphers == nil || !slices.Contains(k.o.NoCiphers(), spec.Algorithm) {
		p.mode = modes[spec.Algorithm]
	}
	known := p.mode == "cbc" && (slices.Contains([]string{"plain", "plain64", "eboiv"}, spec.IV) || spec.IV == "essiv" && spec.IVOptions == "sha256") ||
		p.mode != "" && p.mode != "cbc" && slices.Contains([]string{"plain", "plain64"}, spec.IV)
	if !known {
		return nil, &dmcrypt.Error{Kind: dmcrypt.ErrNoCipher, Detail: string(c.Cipher), Err: unix.ENOENT,
			KernelLog: []string{"crypt: Error allocating crypto tfm (-ENOENT)"}}
	}
	payload, err := k.lookUp(c.Key)
	if err != nil {
		return nil, &dmcrypt.Error{Kind: dmcrypt.ErrNoKey, Detail: c.Key.String(), Err: err,
			KernelLog: []string{"crypt: Error decoding and setting key (-ENOKEY)"}}
	}
	if len(payload) != c.Key.Size || k.o.SetKey(p.algorithm, payload) != nil {
		return nil, &dmcrypt.Error{Kind: dmcrypt.ErrKeyRefused, Detail: c.Key.String(), Err: unix.EINVAL,
			KernelLog: []string{"crypt: Error decoding and setting key (-EINVAL)"}}
	}
	p.payload = slices.Clone(payload)
	return p, nil
}

// lookUp finds a key for the calling thread. The kernel lock is held; the callback must
// not call back into the Kernel.
func (k *Kernel) lookUp(ref dmcrypt.KeyRef) ([]byte, error) {
	if k.o.Key == nil {
		return nil, unix.ENOKEY
	}
	return k.o.Key(unix.Gettid(), ref.Type, ref.Description)
}

// key returns the current AES key.
func (p *cryptPart) key() ([]byte, error) {
	if !p.wrapped {
		return p.payload, nil
	}
	if p.k.o.RedKey == nil {
		return nil, fmt.Errorf("dmtest: no RedKey for %s: %w", p.algorithm, unix.EIO)
	}
	red, err := p.k.o.RedKey(p.algorithm, p.payload)
	if err != nil {
		// The block layer has no EBADMSG: BLK_STS_PROTECTION.
		return nil, fmt.Errorf("request refused by the cipher (%v): %w", err, unix.EILSEQ)
	}
	return red, nil
}

// crypt encrypts or decrypts whole sectors in place; at is the place of the first one in
// the target, in bytes.
func (p *cryptPart) crypt(data []byte, at int64, encrypt bool) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	if p.mode == "adiantum" {
		wide := sha512.Sum512(key)
		key = wide[:]
	}
	var tweaked *xts.Cipher
	var block cipher.Block
	if p.mode == "cbc" {
		block, err = aes.NewCipher(key)
	} else {
		tweaked, err = xts.NewCipher(aes.NewCipher, key)
	}
	if err != nil {
		return fmt.Errorf("dmtest: key of %d bytes: %w", len(key), unix.EIO)
	}
	for off := int64(0); off < int64(len(data)); off += p.sector {
		sector := data[off : off+p.sector]
		number := uint64(at+off)/dmcrypt.SectorBytes + p.ivOffset
		if p.large {
			number /= uint64(p.sector) / dmcrypt.SectorBytes
		}
		switch {
		case block != nil && encrypt:
			cipher.NewCBCEncrypter(block, p.cbcIV(key, block, number)).CryptBlocks(sector, sector)
		case block != nil:
			cipher.NewCBCDecrypter(block, p.cbcIV(key, block, number)).CryptBlocks(sector, sector)
		case encrypt:
			tweaked.Encrypt(sector, sector, p.plainNumber(number))
		default:
			tweaked.Decrypt(sector, sector, p.plainNumber(number))
		}
	}
	return nil
}

// plainNumber returns what plain and plain64 make of a sector's number.
func (p *cryptPart) plainNumber(number uint64) uint64 {
	if p.iv == "plain" {
		return number & 0xffffffff
	}
	return number
}

// cbcIV makes the IV (drivers/md/dm-crypt.c). eboiv is the byte offset, encrypted as one
// block; it takes the byte offset to be the number times the sector size even if the
// number counts 512-byte sectors. essiv is the number, encrypted with the hash of the
// key.
func (p *cryptPart) cbcIV(key []byte, block cipher.Block, number uint64) []byte {
	iv := make([]byte, aes.BlockSize)
	switch p.iv {
	case "eboiv":
		binary.LittleEndian.PutUint64(iv, number*uint64(p.sector))
	case "essiv":
		binary.LittleEndian.PutUint64(iv, number)
		salt := sha256.Sum256(key)
		block, _ = aes.NewCipher(salt[:]) // always 32 bytes
	default:
		binary.LittleEndian.PutUint64(iv, p.plainNumber(number))
		return iv
	}
	block.Encrypt(iv, iv)
	return iv
}
