// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"

	"imxcrypt/caam"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// Chip is a CAAM engine: the driver or NXP's program, as configured.
type Chip interface {
	Create(ctx context.Context, wrap caam.Wrap, keySize int) (*caam.BlackKey, caam.Blob, error)
	Import(ctx context.Context, blob caam.Blob) (*caam.BlackKey, error)
}

// PlainChip is a chip whose engine can seal an existing red key.
type PlainChip interface {
	CreateFrom(ctx context.Context, wrap caam.Wrap, red *secret.Buffer) (*caam.BlackKey, caam.Blob, error)
}

// chipSource creates black keys and blobs with the CAAM.
type chipSource struct {
	chip Chip
	ring Keyring
}

func (c chipSource) Create(ctx context.Context, r Request) (Key, []byte, error) {
	black, blob, err := c.chip.Create(ctx, r.Wrap, r.KeySize)
	if err != nil {
		return nil, nil, err
	}
	return NewBlackKey(black, c.ring), blob, nil
}

func (c chipSource) Sample(ctx context.Context, r Request) (Key, error) {
	key, _, err := c.Create(ctx, r)
	return key, err
}

func (c chipSource) Open(ctx context.Context, r Request, stored []byte) (Key, error) {
	blob, err := caam.ParseBlob(stored)
	if err != nil {
		return nil, err
	}
	black, err := c.chip.Import(ctx, blob)
	if err != nil {
		return nil, err
	}
	if black.RedKeyLen() != r.KeySize || black.Wrap() != r.Wrap {
		defer black.Wipe()
		return nil, fault.Newf(fault.KeyLengthMismatch, "the blob holds a %s key of %d bytes, the header says %s and %d",
			black.Wrap(), black.RedKeyLen(), r.Wrap, r.KeySize)
	}
	return NewBlackKey(black, c.ring), nil
}

func (c chipSource) CreateFrom(ctx context.Context, r Request, red *secret.Buffer) (Key, []byte, error) {
	with, ok := c.chip.(PlainChip)
	if !ok {
		return nil, nil, fault.Newf(fault.CAAMBadArgument, "this engine does not import plain keys: they would be seen in its arguments")
	}
	black, blob, err := with.CreateFrom(ctx, r.Wrap, red)
	if err != nil {
		return nil, nil, err
	}
	if black.RedKeyLen() != r.KeySize || black.Wrap() != r.Wrap {
		defer black.Wipe()
		return nil, nil, fault.Newf(fault.KeyLengthMismatch, "the chip made a %s key of %d bytes of one of %d", black.Wrap(), black.RedKeyLen(), r.KeySize)
	}
	return NewBlackKey(black, c.ring), blob, nil
}
