// SPDX-License-Identifier: Apache-2.0

package dmtest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/dmcrypt/dmtest"
)

// ring is the keyrings of all threads.
type ring struct {
	mu   sync.Mutex
	keys map[int]map[string][]byte
}

func (r *ring) find(thread int, _, description string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.keys[thread][description]; ok {
		return key, nil
	}
	return nil, unix.ENOKEY
}

func (r *ring) with(description string, payload []byte, f func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	r.mu.Lock()
	if r.keys == nil {
		r.keys = map[int]map[string][]byte{}
	}
	r.keys[thread] = map[string][]byte{description: payload}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.keys, thread)
		r.mu.Unlock()
	}()
	f()
	return nil
}

var (
	disk   = dmcrypt.Number{Major: 8, Minor: 1}
	absent = dmcrypt.Number{Major: 8, Minor: 99}
)

func newKernel(o dmtest.Options) (*dmtest.Kernel, *dmtest.Memory, *ring) {
	memory, keys := dmtest.NewMemory(4<<20), &ring{}
	o.Key = keys.find
	o.Device = func(n dmcrypt.Number) (dmtest.Backing, error) {
		if n != disk {
			return nil, unix.ENODEV
		}
		return memory, nil
	}
	return dmtest.New(o), memory, keys
}

func TestContract(t *testing.T) {
	t.Parallel()
	dmtest.TestMapper(t, func(t *testing.T) dmtest.Fixture {
		k, memory, keys := newKernel(dmtest.Options{})
		return dmtest.Fixture{
			Mapper: k, Device: disk, Backing: memory, Absent: absent, WithKey: keys.with,
			Open: func(path string, write bool) (dmtest.Handle, error) { return k.Open(path, write) },
		}
	})
}

// black makes a tagged black key from a 32-byte red key, as CAAM would.
func black(ccm bool) []byte {
	size, kind := 52, uint32(1)
	if ccm {
		size, kind = 64, 9
	}
	b := make([]byte, size)
	copy(b, "OgaT")
	binary.LittleEndian.PutUint32(b[8:], kind)
	binary.LittleEndian.PutUint32(b[12:], 32)
	binary.LittleEndian.PutUint32(b[16:], uint32(size-20))
	return b
}

func tkTable(size int) dmcrypt.Table {
	return dmcrypt.Table{dmcrypt.Crypt{
		Length: 2048, Cipher: "capi:tk(cbc(aes))-plain64", Device: disk, Offset: 2048, Options: []string{"sector_size:4096"},
		Key: dmcrypt.KeyRef{Size: size, Type: "logon", Description: "imxcrypt:v:1"},
	}}
}

// A black key of an earlier power cycle is accepted when the table is loaded. What
// happens then is the difference between CCM and ECB.
func TestStaleBlackKeys(t *testing.T) {
	t.Parallel()
	for name, ccm := range map[string]bool{"ccm": true, "ecb": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cycle := byte(1)
			k, _, keys := newKernel(dmtest.Options{RedKey: func(_ string, payload []byte) ([]byte, error) {
				if cycle != 1 && ccm {
					return nil, unix.EBADMSG
				}
				return bytes.Repeat([]byte{cycle}, 32), nil
			}})
			key := black(ccm)
			var err error
			if with := keys.with("imxcrypt:v:1", key, func() {
				_, err = k.Activate(t.Context(), "v", "", tkTable(len(key)), false)
			}); with != nil || err != nil {
				t.Fatal(with, err)
			}
			f, err := k.Open("/dev/dm-0", true)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			data, got := bytes.Repeat([]byte("data"), 1024), make([]byte, 4096)
			if _, err := f.WriteAt(data, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("with the fresh key: %x… (%v)", got[:16], err)
			}
			cycle = 2
			switch _, err := f.ReadAt(got, 0); {
			case ccm && !errors.Is(err, unix.EILSEQ):
				t.Errorf("CCM with a stale key: %v, want EILSEQ", err)
			case !ccm && (err != nil || bytes.Equal(got, data)):
				t.Errorf("ECB with a stale key: %v, want noise", err)
			}
		})
	}
}

func TestStateIsDmsetupsNotation(t *testing.T) {
	t.Parallel()
	k, _, keys := newKernel(dmtest.Options{})
	if k.State() != "" {
		t.Errorf("state of nothing: %q", k.State())
	}
	key := black(true)
	var err error
	if with := keys.with("imxcrypt:v:1", key, func() {
		_, err = k.Activate(t.Context(), "v", "CRYPT-LUKS2-1-v", tkTable(len(key)), true)
	}); with != nil || err != nil {
		t.Fatal(with, err)
	}
	if err := k.Announce(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open("/dev/mapper/v", true); !errors.Is(err, unix.EACCES) {
		t.Errorf("opened a read-only mapping for writing (%v)", err)
	}
	if _, err := k.Open("/dev/mapper/v", false); err != nil {
		t.Error(err)
	}
	if err := k.Suspend(t.Context(), "v", 0); err != nil {
		t.Error(err)
	}
	want := `v:253:0:L-sr:1:CRYPT-LUKS2-1-v
v: 0 2048 crypt capi:tk(cbc(aes))-plain64 :64:logon:imxcrypt:v:1 0 8:1 2048 1 sector_size:4096
/dev/mapper/v -> ../dm-0
`
	if got := k.State(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	events := k.Events()
	if len(events) != 2 || events[0].Visibility != dmcrypt.Private || events[1].Visibility != dmcrypt.Public {
		t.Errorf("events %+v: want a private one, then a public one", events)
	}
}

// Whatever step fails, nothing is left behind.
func TestAFailingStepLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, failing := range []string{"create", "load", "resume"} {
		t.Run(failing, func(t *testing.T) {
			t.Parallel()
			var steps []string
			k, _, _ := newKernel(dmtest.Options{Before: func(step, _ string) error {
				steps = append(steps, step)
				if step == failing {
					return unix.ENOMEM
				}
				return nil
			}})
			_, err := k.Activate(t.Context(), "v", "", dmcrypt.Table{dmcrypt.Linear{Length: 8, Device: disk}}, false)
			if !errors.Is(err, unix.ENOMEM) || k.State() != "" {
				t.Errorf("after %s: %v, state %q", strings.Join(steps, ", "), err, k.State())
			}
		})
	}
}

func TestAKernelWithoutDMCryptSaysSo(t *testing.T) {
	t.Parallel()
	k, _, keys := newKernel(dmtest.Options{NoTargets: func() []string { return []string{"crypt"} }})
	key := black(true)
	if err := keys.with("imxcrypt:v:1", key, func() {
		_, err := k.Activate(t.Context(), "v", "", tkTable(len(key)), false)
		if !errors.Is(err, dmcrypt.ErrNoTarget) {
			t.Errorf("got %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	k, _, keys = newKernel(dmtest.Options{NoCiphers: func() []string { return []string{"tk(cbc(aes))"} }})
	if err := keys.with("imxcrypt:v:1", key, func() {
		_, err := k.Activate(t.Context(), "v", "", tkTable(len(key)), false)
		if !errors.Is(err, dmcrypt.ErrNoCipher) {
			t.Errorf("got %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
