// SPDX-License-Identifier: Apache-2.0

package caamtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
)

// Engine is what every engine of package caam can do.
type Engine interface {
	Create(ctx context.Context, w caam.Wrap, keySize int) (*caam.BlackKey, caam.Blob, error)
	CreateFrom(ctx context.Context, w caam.Wrap, red *secret.Buffer) (*caam.BlackKey, caam.Blob, error)
	Import(ctx context.Context, blob caam.Blob) (*caam.BlackKey, error)
}

// Suite is what [TestEngine] has to know about an engine.
type Suite struct {
	// Open returns an engine; all engines of one test use the same chip, in the same
	// power cycle.
	Open func(t testing.TB) Engine
	// Foreign is another chip; nil if there is none.
	Foreign func(t testing.TB) Engine
	// NoRedKeys: CreateFrom is refused, as a bad argument.
	NoRedKeys bool
	// Costly: each operation starts a program, so only samples are tried.
	Costly bool
	// NoErrno: the engine learns about failures without an errno.
	NoErrno bool
}

var _ Engine = (*Chip)(nil)
var _ Engine = (*caam.Ioctl)(nil)

type shape struct {
	wrap caam.Wrap
	size int
	// In bytes, as in the table of the interface's description.
	black, blob int
}

func shapes() []shape {
	return []shape{
		{caam.ECB, 16, 36, 96}, {caam.ECB, 24, 52, 104}, {caam.ECB, 32, 52, 112},
		{caam.CCM, 16, 48, 96}, {caam.CCM, 24, 56, 104}, {caam.CCM, 32, 64, 112},
	}
}

// TestEngine checks an engine against the package's contract.
func TestEngine(t *testing.T, s Suite) {
	t.Run("objects have their exact sizes", s.sizes)
	t.Run("a blob opens to its key", s.opens)
	t.Run("no two keys are the same", s.fresh)
	t.Run("a given key is sealed", s.given)
	t.Run("impossible requests are refused", s.impossible)
	t.Run("a damaged blob is distinguished from a rejected one", s.bitFlips)
	t.Run("no length but the right one gets through", s.lengths)
	t.Run("another chip's blob is rejected", s.foreign)
	t.Run("a cancelled context ends it", s.cancelled)
	t.Run("several goroutines share an engine", s.shared)
}

func (s Suite) create(t testing.TB, e Engine, w caam.Wrap, n int) (*caam.BlackKey, caam.Blob) {
	t.Helper()
	key, blob, err := e.Create(context.Background(), w, n)
	if err != nil {
		t.Fatalf("create %s %d: %v", w, n, err)
	}
	t.Cleanup(key.Wipe)
	return key, blob
}

func (s Suite) sizes(t *testing.T) {
	e := s.Open(t)
	for _, c := range shapes() {
		key, blob := s.create(t, e, c.wrap, c.size)
		if key.Len() != c.black || len(key.Bytes()) != c.black || len(blob) != c.blob {
			t.Errorf("%s %d: black key of %d bytes, want %d; blob of %d, want %d", c.wrap, c.size, key.Len(), c.black, len(blob), c.blob)
		}
		if key.Wrap() != c.wrap || key.RedKeyLen() != c.size || blob.Wrap() != c.wrap || blob.RedKeyLen() != c.size {
			t.Errorf("%s %d: key says %s %d, blob %s %d", c.wrap, c.size, key.Wrap(), key.RedKeyLen(), blob.Wrap(), blob.RedKeyLen())
		}
		if end := tagSize + c.size + 48; !bytes.Equal(blob[end:], make([]byte, len(blob)-end)) {
			t.Errorf("%s %d: what the driver left behind the %d bytes that the hardware uses is in the blob", c.wrap, c.size, end)
		}
		for what, data := range map[caam.Form][]byte{caam.FormBlackKey: key.Bytes(), caam.FormBlob: blob} {
			if info, err := caam.Inspect(data); err != nil || info.Form != what {
				t.Errorf("%s %d: a %s reads as %+v, %v", c.wrap, c.size, what, info, err)
			}
		}
	}
}

func (s Suite) opens(t *testing.T) {
	e := s.Open(t)
	for i, c := range shapes() {
		if s.Costly && i%2 == 0 {
			continue
		}
		made, blob := s.create(t, e, c.wrap, c.size)
		key, err := e.Import(context.Background(), blob)
		if err != nil {
			t.Errorf("%s %d: %v", c.wrap, c.size, err)
			continue
		}
		if key.Len() != c.black || key.Wrap() != c.wrap || key.RedKeyLen() != c.size {
			t.Errorf("%s %d: imported a %s key of %d in %d bytes", c.wrap, c.size, key.Wrap(), key.RedKeyLen(), key.Len())
		}
		// ECB has no nonce: the same key is the same black key.
		if c.wrap == caam.ECB && !bytes.Equal(key.Bytes(), made.Bytes()) {
			t.Errorf("ecb %d: the blob opened to another key", c.size)
		}
		key.Wipe()
		if key.Bytes() != nil || key.Len() != 0 {
			t.Errorf("%s %d: a wiped key is still there", c.wrap, c.size)
		}
	}
}

func (s Suite) fresh(t *testing.T) {
	e := s.Open(t)
	one, blobOne := s.create(t, e, caam.ECB, 32)
	two, blobTwo := s.create(t, e, caam.ECB, 32)
	if bytes.Equal(one.Bytes(), two.Bytes()) || bytes.Equal(blobOne, blobTwo) {
		t.Error("two keys are the same")
	}
}

func (s Suite) given(t *testing.T) {
	e := s.Open(t)
	ctx := context.Background()
	red, err := secret.New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer red.Wipe()
	for i := range red.Bytes() {
		red.Bytes()[i] = byte(i + 1)
	}
	if s.NoRedKeys {
		_, _, err := e.CreateFrom(ctx, caam.CCM, red)
		wantKind(t, err, caam.BadArgument)
		return
	}
	for n := 32; n >= 16; n -= 8 {
		if err := red.Truncate(n); err != nil {
			t.Fatal(err)
		}
		if n == 16 {
			red.Bytes()[7] = 0 // a key is not a string
		}
		one, blob, err := e.CreateFrom(ctx, caam.ECB, red)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		defer one.Wipe()
		two, err := e.Import(ctx, blob)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		defer two.Wipe()
		if one.RedKeyLen() != n || !bytes.Equal(one.Bytes(), two.Bytes()) {
			t.Errorf("%d bytes: came back as another key, of %d", n, two.RedKeyLen())
		}
	}
}

func (s Suite) impossible(t *testing.T) {
	e := s.Open(t)
	for _, n := range []int{-1, 0, 1, 15, 17, 20, 31, 33, 48, 64, 65, 1 << 20} {
		_, _, err := e.Create(context.Background(), caam.CCM, n)
		wantKind(t, err, caam.BadArgument)
	}
	for _, w := range []caam.Wrap{"", "CCM", "cbc", "ccm\x00"} {
		_, _, err := e.Create(context.Background(), w, 32)
		wantKind(t, err, caam.BadArgument)
	}
}

func (s Suite) bitFlips(t *testing.T) {
	e := s.Open(t)
	_, blob := s.create(t, e, caam.CCM, 32)
	// The hardware reads the key's length and 48 bytes more; what follows is padding.
	const read = tagSize + 32 + 48
	step := 7
	if s.Costly {
		step = 27
	}
	for at := 0; at < len(blob); at++ {
		// Try the header byte by byte, which costs nothing; each byte of the rest is a
		// job for the hardware.
		if at >= tagSize && at%step != 0 && at != read-1 && at != read {
			continue
		}
		bad := bytes.Clone(blob)
		bad[at] ^= 0x10
		key, err := e.Import(context.Background(), bad)
		switch {
		case at < tagSize:
			wantKind(t, err, caam.Damaged)
		case at < read:
			wantKind(t, err, caam.Rejected)
			if !s.NoErrno && !errors.Is(err, unix.EBADMSG) {
				t.Errorf("byte %d: the errno is lost in %v", at, err)
			}
			if fault.CodeOf(err) != fault.BlobRejected {
				t.Errorf("byte %d: code %s", at, fault.CodeOf(err))
			}
		case err != nil:
			t.Errorf("byte %d, which the hardware never reads: %v", at, err)
		}
		key.Wipe()
	}
}

func (s Suite) lengths(t *testing.T) {
	e := s.Open(t)
	key, blob := s.create(t, e, caam.CCM, 32)
	grown := append(bytes.Clone(blob), make([]byte, 4096)...)
	for n := range 200 {
		if n == len(blob) {
			continue
		}
		_, err := e.Import(context.Background(), grown[:n])
		wantKind(t, err, caam.Damaged)
	}
	// A header that matches the length does not help.
	for _, n := range []int{145, 400, len(grown)} {
		long := bytes.Clone(grown[:n])
		binary.LittleEndian.PutUint32(long[16:], uint32(n-tagSize))
		_, err := e.Import(context.Background(), long)
		wantKind(t, err, caam.Damaged)
	}
	_, err := e.Import(context.Background(), key.Bytes())
	wantKind(t, err, caam.Damaged)
}

func (s Suite) foreign(t *testing.T) {
	if s.Foreign == nil {
		t.Skip("NOT TESTED HERE: there is no second chip here; the tests over the simulated chip have one")
	}
	_, blob := s.create(t, s.Foreign(t), caam.CCM, 32)
	_, err := s.Open(t).Import(context.Background(), blob)
	wantKind(t, err, caam.Rejected)
}

func (s Suite) cancelled(t *testing.T) {
	e := s.Open(t)
	_, blob := s.create(t, e, caam.CCM, 32)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Import(ctx, blob); !errors.Is(err, context.Canceled) {
		t.Errorf("import: %v", err)
	}
	if _, _, err := e.Create(ctx, caam.CCM, 32); !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
}

func (s Suite) shared(t *testing.T) {
	e := s.Open(t)
	var all sync.WaitGroup
	failed, rounds := make([]error, 8), 4
	if s.Costly {
		failed, rounds = failed[:4], 1
	}
	for i := range failed {
		all.Go(func() { failed[i] = roundTrips(e, shapes()[i%len(shapes())], rounds) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Error(err)
	}
}

func roundTrips(e Engine, c shape, rounds int) error {
	for range rounds {
		made, blob, err := e.Create(context.Background(), c.wrap, c.size)
		if err != nil {
			return err
		}
		defer made.Wipe()
		key, err := e.Import(context.Background(), blob)
		if err != nil {
			return err
		}
		defer key.Wipe()
		if c.wrap == caam.ECB && !bytes.Equal(made.Bytes(), key.Bytes()) {
			return fmt.Errorf("%s %d: another goroutine's key came back", c.wrap, c.size)
		}
	}
	return nil
}

func wantKind(t testing.TB, err error, want caam.Kind) {
	t.Helper()
	var e *caam.Error
	if !errors.As(err, &e) || e.Kind != want {
		t.Errorf("got %v, want an error of kind %q", err, want)
	}
}
