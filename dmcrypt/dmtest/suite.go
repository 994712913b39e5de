// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// Fixture is a device-mapper to test, with a device to map.
type Fixture struct {
	Mapper Mapper
	// Device has at least 4 MiB; Backing is its contents.
	Device  dmcrypt.Number
	Backing Backing
	// Absent is the number of a device that does not exist.
	Absent dmcrypt.Number
	// Open opens a mapping's node, bypassing all caches.
	Open func(path string, write bool) (Handle, error)
	// WithKey runs f on a thread that has a logon key; no other thread has it.
	WithKey func(description string, payload []byte, f func()) error
	// Mute means that the kernel log cannot be read, so that some reasons are missing.
	Mute bool
}

// Handle is an open mapping.
type Handle interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Flush() error
}

// Names and UUIDs of the suite's mappings.
const (
	suiteName = "imxcrypt-suite"
	suiteUUID = dmcrypt.UUIDPrefixVolume + "0123456789abcdef0123456789abcdef-" + suiteName
	keyName   = "imxcrypt:suite:1"
)

const suiteSectors = 2048 // of each mapping

type suite struct {
	*testing.T
	Fixture
}

// TestMapper is the contract of a device-mapper. fixture is called for each test; what it
// returns has no mapping whose name begins with "imxcrypt-suite".
func TestMapper(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		test func(suite)
	}{
		{"the kernel echoes the table as it was written", suite.echo},
		{"what is stored is what dm-crypt defines", suite.ciphertext},
		{"a private mapping has no node, a public one has", suite.publish},
		{"a key of another thread is not found", suite.otherThread},
		{"a key of another size is refused", suite.keySize},
		{"a cipher that is not there", suite.noCipher},
		{"a device that is not there", suite.noDevice},
		{"a table longer than the device", suite.tooLong},
		{"a name or uuid that is taken", suite.taken},
		{"a mapping that differs is named so", suite.mismatch},
		{"names and tables that are never tried", suite.refused},
		{"a context that is done", suite.cancelled},
		{"a mapping in use stays", suite.busy},
		{"a mapping in use goes later", suite.later},
		{"a suspended mapping makes its users wait", suite.suspended},
		{"a swap keeps files open", suite.swap},
		{"mappings stand on mappings", suite.stack},
		{"flushes can be led past what is suspended", suite.flushes},
		{"a read-only mapping cannot be written", suite.readOnly},
		{"mappings are listed by uuid", suite.list},
		{"an inactive table can be read and dropped", suite.inactive},
		{"a mapping can be renamed", suite.rename},
		{"what is not there is not found", suite.notFound},
		{"targets have versions", suite.versions},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := suite{t, fixture(t)}
			s.Cleanup(s.sweep)
			c.test(s)
		})
	}
}

// sweep looks for what a test left, which is an error, and removes it.
func (s suite) sweep() {
	left, err := s.Mapper.List()
	if err != nil {
		s.Errorf("list: %v", err)
	}
	for _, i := range left {
		if strings.HasPrefix(i.Name, suiteName) {
			s.Errorf("left behind: %+v", i)
			if err := s.Mapper.Remove(context.Background(), i.Name); err != nil {
				s.Errorf("remove what was left: %v", err)
			}
		}
	}
}

func (s suite) ctx() context.Context { return s.Context() }

func (s suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s suite) is(err error, wants ...error) {
	s.Helper()
	for _, want := range wants {
		if !errors.Is(err, want) {
			s.Errorf("got error %v, want %v", err, want)
		}
	}
}

func (s suite) linear(start, length, offset uint64) dmcrypt.Linear {
	return dmcrypt.Linear{Start: start, Length: length, Device: s.Device, Offset: offset}
}

func (s suite) crypt(cipher dmcrypt.Cipher, size int, options ...string) dmcrypt.Crypt {
	return dmcrypt.Crypt{
		Length: suiteSectors, Cipher: cipher, Device: s.Device, Offset: 8, Options: options,
		Key: dmcrypt.KeyRef{Size: size, Type: "logon", Description: keyName},
	}
}

func (s suite) key(size int) []byte {
	key := make([]byte, size)
	for i := range key {
		key[i] = byte(7*i + size)
	}
	return key
}

// activate makes a private mapping and removes it at the end.
func (s suite) activate(name, uuid string, t dmcrypt.Table) dmcrypt.Number {
	s.Helper()
	n, err := s.Mapper.Activate(s.ctx(), name, uuid, t, false)
	s.must(err)
	s.Cleanup(func() {
		err := s.Mapper.Remove(context.Background(), name)
		if err != nil && !errors.Is(err, dmcrypt.ErrNotFound) {
			s.Errorf("remove: %v", err)
		}
	})
	return n
}

// encrypted makes a private mapping with a key and removes it at the end.
func (s suite) encrypted(name string, c dmcrypt.Crypt) dmcrypt.Number {
	s.Helper()
	var n dmcrypt.Number
	var err error
	s.must(s.WithKey(keyName, s.key(c.Key.Size), func() {
		n, err = s.Mapper.Activate(s.ctx(), name, "", dmcrypt.Table{c}, false)
	}))
	s.must(err)
	s.Cleanup(func() { s.must(s.Mapper.Remove(context.Background(), name)) })
	return n
}

func (s suite) open(name string, n dmcrypt.Number, write bool) Handle {
	s.Helper()
	path, err := s.Mapper.DevicePath(name, n)
	s.must(err)
	h, err := s.Open(path, write)
	s.must(err)
	s.Cleanup(func() { _ = h.Close() }) // most tests have closed it
	return h
}

func (s suite) absent(name string) {
	s.Helper()
	if _, err := s.Mapper.Info(name); !errors.Is(err, dmcrypt.ErrNotFound) {
		s.Errorf("mapping %s is still there (%v)", name, err)
	}
	if h, err := s.Open(s.Mapper.Node(name), false); !errors.Is(err, unix.ENOENT) {
		s.Errorf("node %s is still there (%v, %v)", s.Mapper.Node(name), h, err)
	}
}

func (s suite) refusedWith(t dmcrypt.Table, wants ...error) *dmcrypt.Error {
	s.Helper()
	_, err := s.Mapper.Activate(s.ctx(), suiteName, suiteUUID, t, false)
	s.is(err, wants...)
	s.absent(suiteName)
	// Not Fatal: this may run on a goroutine other than the test's.
	e := &dmcrypt.Error{}
	if !errors.As(err, &e) {
		s.Errorf("error %v is not typed", err)
	}
	return e
}

// fill returns data that is different in each sector.
func fill(n int, seed byte) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i) ^ byte(i>>9) ^ seed
	}
	return data
}

func (s suite) list() {
	s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 8, 0)})
	s.activate(suiteName+"-other", "OTHER-suite", dmcrypt.Table{s.linear(0, 8, 8)})
	ours, err := s.Mapper.List(dmcrypt.UUIDPrefixVolume, dmcrypt.UUIDPrefixHelper)
	s.must(err)
	all, err := s.Mapper.List()
	s.must(err)
	names := func(l []dmcrypt.Info) string {
		var names []string
		for _, i := range l {
			if strings.HasPrefix(i.Name, suiteName) {
				names = append(names, i.Name)
			}
		}
		return fmt.Sprint(names)
	}
	if got, want := names(ours), fmt.Sprint([]string{suiteName}); got != want {
		s.Errorf("ours: %s, want %s", got, want)
	}
	if got, want := names(all), fmt.Sprint([]string{suiteName, suiteName + "-other"}); got != want {
		s.Errorf("all: %s, want %s", got, want)
	}
	if i := slices.IndexFunc(ours, func(i dmcrypt.Info) bool { return i.Name == suiteName }); i >= 0 {
		if !ours[i].Ours() || ours[i].UUID != suiteUUID || !ours[i].Live || ours[i].Suspended {
			s.Errorf("got %+v", ours[i])
		}
		by, err := s.Mapper.ByNumber(ours[i].Number)
		if s.must(err); by.Name != suiteName {
			s.Errorf("device %s is %+v", ours[i].Number, by)
		}
	}
}

func (s suite) versions() {
	v, err := s.Mapper.TargetVersion("crypt")
	s.must(err)
	if !dmcrypt.SupportsOption(v, "sector_size") {
		s.Errorf("crypt %s", v)
	}
	_, err = s.Mapper.TargetVersion("no-such-target")
	s.is(err, dmcrypt.ErrNoTarget)
	dm, err := s.Mapper.Version()
	if s.must(err); dm.Major != 4 {
		s.Errorf("device-mapper %s", dm)
	}
}
