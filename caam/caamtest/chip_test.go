// SPDX-License-Identifier: Apache-2.0

package caamtest_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/secret"
)

func TestChipIsAnEngine(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	caamtest.TestEngine(t, caamtest.Suite{
		Open:    func(testing.TB) caamtest.Engine { return chip },
		Foreign: func(testing.TB) caamtest.Engine { return caamtest.RandomChip() },
	})
}

func redKey(t *testing.T, n int) *secret.Buffer {
	t.Helper()
	red, err := secret.New(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(red.Wipe)
	for i := range red.Bytes() {
		red.Bytes()[i] = byte(0x40 + i)
	}
	return red
}

func TestBlackKeysDieWithThePower(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, w := range []caam.Wrap{caam.ECB, caam.CCM} {
		chip := caamtest.RandomChip()
		red := redKey(t, 24)
		key, blob, err := chip.CreateFrom(ctx, w, red)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		if got, err := chip.Unwrap(key.Bytes()); err != nil || !bytes.Equal(got, red.Bytes()) {
			t.Fatalf("%s: unwrapped to %x, %v", w, got, err)
		}
		chip.PowerCycle()
		got, err := chip.Unwrap(key.Bytes())
		switch {
		case w == caam.CCM && !errors.Is(err, unix.EBADMSG):
			t.Errorf("a stale ccm key: %v", err)
		case w == caam.ECB && (err != nil || len(got) != 24 || bytes.Equal(got, red.Bytes())):
			t.Errorf("a stale ecb key: %x, %v", got, err)
		}
		again, err := chip.Import(ctx, blob)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Wipe()
		if got, err := chip.Unwrap(again.Bytes()); err != nil || !bytes.Equal(got, red.Bytes()) {
			t.Errorf("%s: after the power cycle the blob opened to %x, %v", w, got, err)
		}
	}
}

func TestClosingLosesWhatWasMadeOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	open, other := caamtest.NewChip([32]byte{1}, false), caamtest.NewChip([32]byte{2}, false)
	key, blob, err := open.Create(ctx, caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	if key, err = other.Import(ctx, blob); err != nil {
		t.Errorf("an open chip's blob on another open one: %v", err)
	}
	key.Wipe()
	open.BurnFuse()
	if _, err := open.Import(ctx, blob); !errors.Is(err, unix.EBADMSG) {
		t.Errorf("after closing: %v", err)
	}
}

func TestSavedChipIsTheSameChip(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	key, _, err := chip.CreateFrom(context.Background(), caam.CCM, redKey(t, 32))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	again, err := caamtest.Load(chip.Save())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Unwrap(key.Bytes()); err != nil {
		t.Errorf("another power cycle: %v", err)
	}
	if _, err := caamtest.Load([]byte("{}")); err == nil {
		t.Error("a chip without keys was loaded")
	}
}

func TestFaultsComeAsFromTheDriver(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	chip.SetFault(func(op string) error {
		if op == "create" {
			return unix.ENODEV
		}
		return nil
	})
	var e *caam.Error
	if _, _, err := chip.Create(context.Background(), caam.CCM, 32); !errors.As(err, &e) || e.Kind != caam.NotInitialised {
		t.Errorf("got %v", err)
	}
}
