// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const uuid = "5b5ae3a8-3c5a-4b7a-9d3a-2f6d7c1e0a11"

// board is one machine with a key source. What a source stores outside of the blob
// survives between calls of open.
type board struct {
	open func(t testing.TB) source.Source
	// red returns the key that the cipher uses for what the calling thread has in its
	// keyring, or as many bytes that no other key has.
	red func(ref dmcrypt.KeyRef) ([]byte, error)
	// left counts the source's keys in all keyrings.
	left func() int
	// damage damages what the source stores outside of the blob; nil if nothing.
	damage func(t testing.TB, r source.Request)
}

// contract is one key source under test.
type contract struct {
	name   string
	wraps  []caam.Wrap
	sizes  []int // of keys, in bytes
	board  func() board
	absent fault.Code // on another board
	// damaged lists the codes of a damaged key.
	damaged []fault.Code
	// mismatch is the code of a key of another size; empty if the cipher refuses it.
	mismatch fault.Code
	// late reports that the hardware is not asked until the key is used, and refuses
	// then.
	late bool
}

// contracts lists every key source. A new source adds an entry.
func contracts() []contract {
	return []contract{{
		name:  spec.SourceCAAM,
		wraps: []caam.Wrap{caam.ECB, caam.CCM},
		sizes: []int{16, 32},
		board: func() board {
			chip := caamtest.RandomChip()
			from := source.Sources{Chip: func() (source.Chip, error) { return chip, nil }}
			return fake(&volumetest.Ring{}, from, spec.SourceCAAM, chip.Unwrap)
		},
		absent:   fault.BlobRejected,
		damaged:  []fault.Code{fault.BlobDamaged, fault.BlobRejected},
		mismatch: fault.KeyLengthMismatch,
	}, {
		name:  spec.SourceTrusted,
		wraps: []caam.Wrap{""},
		sizes: []int{32, 64},
		board: func() board {
			return fake(&volumetest.Ring{Trust: caamtest.RandomChip()}, source.Sources{}, spec.SourceTrusted, itself)
		},
		absent: fault.BlobRejected,
		// A truncated blob may have the form of another trust source's.
		damaged:  []fault.Code{fault.BlobDamaged, fault.BlobRejected, fault.TrustOther},
		mismatch: fault.BlobDamaged,
	}, {
		name:  keysource.Protected,
		wraps: []caam.Wrap{caam.ECB, caam.CCM},
		sizes: []int{32},
		board: func() board {
			chip := caamtest.RandomChip()
			return fake(&volumetest.Ring{Trust: chip}, source.Sources{}, keysource.Protected, chip.UnwrapProtected)
		},
		damaged:  []fault.Code{fault.BlobDamaged, fault.BlobRejected},
		mismatch: fault.BlobDamaged,
		late:     true,
	}, {
		name:  spec.SourceDev,
		wraps: []caam.Wrap{""},
		sizes: []int{16, 32},
		board: func() board {
			files := volumetest.NoFiles()
			from := source.Sources{Files: files, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)}
			b := fake(&volumetest.Ring{}, from, spec.SourceDev, itself)
			b.damage = func(t testing.TB, r source.Request) {
				path := source.Dev{Dir: stateDir}.Path(r)
				whole, err := files.Read(path, atomicfile.ReadOptions{MaxSize: 64})
				if err == nil {
					err = files.Replace(path, whole[:len(whole)-1], 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return b
		},
		absent:   fault.KeyFileDamaged,
		damaged:  []fault.Code{fault.KeyFileDamaged},
		mismatch: fault.KeyFileDamaged,
	}}
}

// fake returns a board whose keyrings show what is in them.
func fake(ring *volumetest.Ring, from source.Sources, keys string, unwrap func([]byte) ([]byte, error)) board {
	from.Keyring = ring
	red := func(ref dmcrypt.KeyRef) ([]byte, error) {
		payload, err := ring.Find(unix.Gettid(), ref.Type, ref.Description)
		if err != nil {
			return nil, err
		}
		if ref.Size != len(payload) {
			return nil, fmt.Errorf("used as %+v, with a payload of %d bytes", ref, len(payload))
		}
		return unwrap(payload)
	}
	return board{open: opener(from, keys), red: red, left: ring.Left}
}

// itself returns the key of a payload that is not wrapped.
func itself(payload []byte) ([]byte, error) { return payload, nil }

const stateDir = "/var/lib/imxcrypt"

// opener returns a function that opens the source of the keys that package keysource
// names so.
func opener(from source.Sources, keys string) func(testing.TB) source.Source {
	return func(t testing.TB) source.Source {
		s := spec.Volume{Name: "data", Source: keys, Cipher: keysource.CipherNames(keys)[0], AllowInsecure: true, StateDir: stateDir}
		if keys == keysource.Protected {
			s.Source, s.Protected = spec.SourceTrusted, true
		}
		src, err := from.Of(s)
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
}

// subject is a board under the contract of its source.
type subject struct {
	board
	contract
}

func (c contract) subject() subject { return subject{board: c.board(), contract: c} }

// clauses are the contract of [source.Source] and [source.Key], by its words.
func clauses() map[string]func(*testing.T, subject, source.Request) {
	return map[string]func(*testing.T, subject, source.Request){
		"a blob opens to the key that was created":     opensToItsKey,
		"generations have different keys":              generationsDiffer,
		"a repeated create yields a key that opens":    repeatedCreate,
		"a sample is a key that nothing remembers":     sampled,
		"another board's key is refused":               otherBoard,
		"a damaged key is refused":                     damagedKey,
		"a key of another size is refused":             otherSize,
		"a wiped key refuses use":                      wipedKey,
		"a key is visible to the calling thread alone": visibleToOneThread,
		"a failed use leaves no key behind":            failedUse,
	}
}

// Every key source keeps the contract.
func TestKeySources(t *testing.T) {
	t.Parallel()
	for _, c := range contracts() {
		for _, wrap := range c.wraps {
			r := source.Request{UUID: uuid, Generation: 1, Wrap: wrap, KeySize: 32}
			for name, test := range clauses() {
				t.Run(c.name+" "+string(wrap)+"/"+name, func(t *testing.T) {
					t.Parallel()
					test(t, c.subject(), r)
				})
			}
		}
	}
}

func (s subject) create(t testing.TB, r source.Request) (source.Key, []byte) {
	t.Helper()
	key, blob, err := s.open(t).Create(context.Background(), r)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(key.Wipe)
	return key, blob
}

func (s subject) reopen(t testing.TB, r source.Request, blob []byte) source.Key {
	t.Helper()
	key, err := s.open(t).Open(context.Background(), r, blob)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// redKey uses the key and returns what the cipher would encrypt with.
func (s subject) redKey(t testing.TB, key source.Key, size int) []byte {
	t.Helper()
	const description = "imxcrypt:" + uuid + ":1"
	var red []byte
	err := key.Use(description, func(ref dmcrypt.KeyRef) (err error) {
		if ref.Description != description {
			t.Errorf("used as %+v", ref)
		}
		red, err = s.red(ref)
		return err
	})
	if err != nil {
		t.Fatalf("use: %v", err)
	}
	if len(red) != size {
		t.Errorf("a key of %d bytes, want %d", len(red), size)
	}
	return red
}

// refuses reports whether the hardware refuses an opened key, and wipes the key.
func (s subject) refuses(key source.Key) bool {
	defer key.Wipe()
	return errors.Is(s.use(key), unix.EBADMSG)
}

// use has the cipher take a key.
func (s subject) use(key source.Key) error {
	return key.Use("imxcrypt:"+uuid+":1", func(ref dmcrypt.KeyRef) error {
		_, err := s.red(ref)
		return err
	})
}

func opensToItsKey(t *testing.T, s subject, r source.Request) {
	for _, size := range s.sizes {
		r.KeySize, r.Generation = size, size
		key, blob := s.create(t, r)
		made := s.redKey(t, key, size)
		if bytes.Contains(blob, made) {
			t.Error("the blob holds the key in the clear")
		}
		for range 2 {
			if opened := s.redKey(t, s.reopen(t, r, blob), size); !bytes.Equal(opened, made) {
				t.Errorf("%d bytes: opened to another key", size)
			}
		}
	}
}

func generationsDiffer(t *testing.T, s subject, r source.Request) {
	one, _ := s.create(t, r)
	r.Generation++
	two, _ := s.create(t, r)
	if bytes.Equal(s.redKey(t, one, r.KeySize), s.redKey(t, two, r.KeySize)) {
		t.Error("two generations have the same key")
	}
}

func repeatedCreate(t *testing.T, s subject, r source.Request) {
	first, firstBlob := s.create(t, r)
	second, secondBlob := s.create(t, r)
	if len(firstBlob) == 0 && !bytes.Equal(s.redKey(t, first, r.KeySize), s.redKey(t, second, r.KeySize)) {
		t.Error("the key was replaced, and nothing else holds the first one")
	}
	for _, c := range []struct {
		key  source.Key
		blob []byte
	}{{first, firstBlob}, {second, secondBlob}} {
		if !bytes.Equal(s.redKey(t, s.reopen(t, r, c.blob), r.KeySize), s.redKey(t, c.key, r.KeySize)) {
			t.Error("a blob opens to the key of another create")
		}
	}
}

func sampled(t *testing.T, s subject, r source.Request) {
	key, err := s.open(t).Sample(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	sample := s.redKey(t, key, r.KeySize)
	made, _ := s.create(t, r)
	if bytes.Equal(s.redKey(t, made, r.KeySize), sample) {
		t.Error("the key that is made is the sample")
	}
}

func otherBoard(t *testing.T, s subject, r source.Request) {
	_, blob := s.create(t, r)
	other := s.contract.subject()
	key, err := other.open(t).Open(context.Background(), r, blob)
	if s.late {
		if err != nil || !other.refuses(key) {
			t.Errorf("%v, and the hardware does not refuse the key", err)
		}
		return
	}
	if fault.CodeOf(err) != s.absent || key != nil {
		t.Errorf("%v (code %s), want %s", err, fault.CodeOf(err), s.absent)
	}
}

// A source that keeps the key itself is damaged where it keeps it, a blob byte by byte. A
// blob that still opens, since the hardware ignores the byte, must open to the same key.
func damagedKey(t *testing.T, s subject, r source.Request) {
	made, blob := s.create(t, r)
	want := s.redKey(t, made, r.KeySize)
	refused := func(what string, at int, blob []byte) bool {
		key, err := s.open(t).Open(context.Background(), r, blob)
		if err == nil && s.late && s.refuses(key) {
			return true
		}
		if err == nil {
			defer key.Wipe()
			if !bytes.Equal(s.redKey(t, key, r.KeySize), want) {
				t.Errorf("%s %d: opened to another key", what, at)
			}
			return false
		}
		if !slices.Contains(s.damaged, fault.CodeOf(err)) {
			t.Errorf("%s %d: %v (code %s), want one of %s", what, at, err, fault.CodeOf(err), s.damaged)
		}
		return true
	}
	if s.damage != nil {
		s.damage(t, r)
		if !refused("damage", 0, blob) {
			t.Error("the damaged key opened")
		}
		return
	}
	count := 0
	for at := range blob {
		bad := bytes.Clone(blob)
		bad[at] ^= 0x10
		if refused("flipped byte", at, bad) {
			count++
		}
		if !refused("cut to", at, blob[:at]) {
			t.Errorf("a blob cut to %d bytes opened", at)
		}
	}
	if count < len(blob)*4/5 {
		t.Errorf("%d of %d flipped bytes were refused", count, len(blob))
	}
}

func otherSize(t *testing.T, s subject, r source.Request) {
	_, blob := s.create(t, r)
	r.KeySize = 64
	key, err := s.open(t).Open(context.Background(), r, blob)
	if s.mismatch == "" && err == nil {
		defer key.Wipe()
		if err := s.use(key); !errors.Is(err, unix.EINVAL) {
			t.Errorf("used: %v", err)
		}
		return
	}
	if fault.CodeOf(err) != s.mismatch || key != nil {
		t.Errorf("%v (code %s), want %s", err, fault.CodeOf(err), s.mismatch)
	}
}

func wipedKey(t *testing.T, s subject, r source.Request) {
	created, blob := s.create(t, r)
	for _, key := range []source.Key{created, s.reopen(t, r, blob)} {
		key.Wipe()
		key.Wipe()
		err := key.Use("imxcrypt:"+uuid+":1", func(dmcrypt.KeyRef) error {
			t.Error("a wiped key was used")
			return nil
		})
		if err == nil {
			t.Error("a wiped key was accepted")
		}
	}
}

func visibleToOneThread(t *testing.T, s subject, r source.Request) {
	key, _ := s.create(t, r)
	if n := s.left(); n != 0 {
		t.Errorf("%d keys are in a keyring before use", n)
	}
	err := key.Use("imxcrypt:"+uuid+":1", func(ref dmcrypt.KeyRef) error {
		if _, err := s.red(ref); err != nil {
			t.Errorf("the calling thread does not see the key: %v", err)
		}
		if n := s.left(); n != 1 {
			t.Errorf("the key is in %d keyrings", n)
		}
		seen := make(chan error)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			_, err := s.red(ref)
			seen <- err
		}()
		if err := <-seen; err == nil {
			t.Error("another thread sees the key")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if n := s.left(); n != 0 {
		t.Errorf("%d keys are in a keyring after use", n)
	}
}

func failedUse(t *testing.T, s subject, r source.Request) {
	key, _ := s.create(t, r)
	err := key.Use("imxcrypt:"+uuid+":1", func(dmcrypt.KeyRef) error { return unix.EINVAL })
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("the error of the use is lost: %v", err)
	}
	if n := s.left(); n != 0 {
		t.Errorf("%d keys are in a keyring", n)
	}
}
