// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

func (s suite) echo() {
	offset := s.crypt("aes-xts-plain64", 64, "allow_discards", "sector_size:4096", "iv_large_sectors")
	offset.IVOffset = 4096
	for _, table := range []dmcrypt.Table{
		{s.linear(0, 64, 8)},
		{s.linear(0, 64, 8), dmcrypt.Fail{Start: 64, Length: 32}, s.linear(96, 32, 256)},
		{s.crypt("capi:cbc(aes)-plain", 32)},
		{s.crypt("capi:cbc(aes)-plain64", 16, "allow_discards", "same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue")},
		{s.crypt("capi:cbc(aes)-eboiv", 24, "sector_size:1024")},
		{offset},
		{dmcrypt.Flakey{Length: 64, Device: s.Device, Offset: 8, Up: 100}},
		{s.linear(0, 64, 8), dmcrypt.Delay{Start: 64, Length: 64, Device: s.Device, Offset: 8, Flush: s.Device, FlushOffset: 128}},
	} {
		s.must(s.WithKey(keyName, s.key(keyLength(table)), func() {
			if _, err := s.Mapper.Activate(s.ctx(), suiteName, suiteUUID, table, false); err != nil {
				s.Errorf("%s: %v", table, err)
			}
		}))
		live, err := s.Mapper.Table(suiteName)
		if err != nil {
			s.Fatalf("%s: %v", table, err)
		}
		if live.String() != table.String() {
			s.Errorf("live table\n%s\nwant\n%s", live, table)
		}
		if _, err := s.Mapper.Verify(suiteName, suiteUUID, table, false); err != nil {
			s.Errorf("%s: %v", table, err)
		}
		devices, err := s.Mapper.Devices(suiteName)
		if err != nil || fmt.Sprint(devices) != fmt.Sprint(table.Devices()) {
			s.Errorf("%s: devices %v (%v), want %v", table, devices, err, table.Devices())
		}
		s.must(s.Mapper.Remove(s.ctx(), suiteName))
		s.absent(suiteName)
	}
}

func keyLength(t dmcrypt.Table) int {
	if c, ok := t[0].(dmcrypt.Crypt); ok {
		return c.Key.Size
	}
	return 1
}

// ciphertext compares what is on the device with what a fake writes. For the fake itself
// it shows only that reading undoes writing.
func (s suite) ciphertext() {
	type variant struct {
		cipher   dmcrypt.Cipher
		key      int
		options  []string
		ivOffset uint64
	}
	var variants []variant
	for _, cipher := range []struct {
		name dmcrypt.Cipher
		key  int
	}{{"capi:cbc(aes)-plain", 16}, {"capi:cbc(aes)-plain64", 32}, {"aes-cbc-eboiv", 32}, {"aes-xts-plain64", 64}, {"aes-xts-plain", 32}} {
		for _, options := range [][]string{nil, {"sector_size:4096"}, {"sector_size:4096", "iv_large_sectors"}} {
			for _, ivOffset := range []uint64{0, 1 << 33} {
				if strings.HasSuffix(string(cipher.name), "plain") && ivOffset != 0 {
					ivOffset = 1 << 20
				}
				variants = append(variants, variant{cipher.name, cipher.key, options, ivOffset})
			}
		}
	}
	for _, v := range variants {
		c := s.crypt(v.cipher, v.key, v.options...)
		c.IVOffset, c.Start = v.ivOffset, 0
		name := fmt.Sprintf("%s %v iv offset %d", v.cipher, v.options, v.ivOffset)

		memory := NewMemory(int64(c.Offset+c.Length) * dmcrypt.SectorBytes)
		model := New(Options{
			Device: func(dmcrypt.Number) (Backing, error) { return memory, nil },
			Key:    func(int, string, string) ([]byte, error) { return s.key(v.key), nil },
		})
		number, err := model.Activate(s.ctx(), suiteName, "", dmcrypt.Table{c}, false)
		s.must(err)
		path, err := model.DevicePath(suiteName, number)
		s.must(err)
		modelled, err := model.Open(path, true)
		s.must(err)

		s.must(s.WithKey(keyName, s.key(v.key), func() {
			if number, err = s.Mapper.Activate(s.ctx(), suiteName, "", dmcrypt.Table{c}, false); err != nil {
				return
			}
		}))
		if err != nil {
			s.Fatalf("%s: %v", name, err)
		}
		real := s.open(suiteName, number, true)
		data := fill(8<<10, byte(v.key))
		const at = 12 << 10
		for _, h := range []Handle{real, modelled} {
			if _, err := h.WriteAt(data, at); err != nil {
				s.Fatalf("%s: %v", name, err)
			}
		}
		stored, want := make([]byte, len(data)), make([]byte, len(data))
		raw := int64(c.Offset)*dmcrypt.SectorBytes + at
		if _, err := s.Backing.ReadAt(stored, raw); err != nil {
			s.Fatal(err)
		}
		if _, err := memory.ReadAt(want, raw); err != nil {
			s.Fatal(err)
		}
		if !bytes.Equal(stored, want) || bytes.Equal(stored, data) {
			s.Errorf("%s: device holds %x…, want %x…", name, stored[:16], want[:16])
		}
		back := make([]byte, len(data))
		if _, err := real.ReadAt(back, at); err != nil || !bytes.Equal(back, data) {
			s.Errorf("%s: read back %x… (%v), want %x…", name, back[:16], err, data[:16])
		}
		s.must(real.Close())
		s.must(s.Mapper.Remove(s.ctx(), suiteName))
	}
}

func (s suite) otherThread() {
	table := dmcrypt.Table{s.crypt("aes-xts-plain64", 64)}
	s.must(s.WithKey(keyName, s.key(64), func() {
		done := make(chan struct{})
		go func() { // never on the thread that waits for it, which is locked
			defer close(done)
			s.refusedWith(table, dmcrypt.ErrNoKey, unix.ENOKEY)
		}()
		<-done
		_, err := s.Mapper.Activate(s.ctx(), suiteName, suiteUUID, table, false)
		if err != nil {
			s.Errorf("on the key's thread: %v", err)
		}
	}))
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
}

func (s suite) keySize() {
	s.must(s.WithKey(keyName, s.key(32), func() {
		kind := dmcrypt.ErrKeyRefused
		if s.Mute {
			kind = dmcrypt.ErrInvalid
		}
		e := s.refusedWith(dmcrypt.Table{s.crypt("aes-xts-plain64", 64)}, kind, unix.EINVAL)
		if !s.Mute && !strings.Contains(e.Error(), ":64:logon:"+keyName) {
			s.Errorf("error %q does not name the key", e)
		}
	}))
}

func (s suite) noCipher() {
	s.must(s.WithKey(keyName, s.key(32), func() {
		e := s.refusedWith(dmcrypt.Table{s.crypt("capi:cbc(nosuch)-plain64", 32)}, dmcrypt.ErrNoCipher)
		if !strings.Contains(e.Error(), "cbc(nosuch)") {
			s.Errorf("error %q does not name the cipher", e)
		}
	}))
}

func (s suite) noDevice() {
	c := s.crypt("aes-xts-plain64", 64)
	c.Device = s.Absent
	s.must(s.WithKey(keyName, s.key(64), func() {
		e := s.refusedWith(dmcrypt.Table{c}, dmcrypt.ErrNoDevice)
		if !strings.Contains(e.Error(), s.Absent.String()) {
			s.Errorf("error %q does not name the device", e)
		}
	}))
}

func (s suite) tooLong() {
	size := uint64(s.Backing.Size() / dmcrypt.SectorBytes)
	s.refusedWith(dmcrypt.Table{s.linear(0, size, 8)}, dmcrypt.ErrDeviceTooSmall, unix.EINVAL)
	s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 0)})
	err := s.Mapper.Load(s.ctx(), suiteName, dmcrypt.Table{s.linear(0, size, 8)}, false)
	s.is(err, dmcrypt.ErrDeviceTooSmall)
}

func (s suite) taken() {
	table := dmcrypt.Table{s.linear(0, 8, 0)}
	s.activate(suiteName, suiteUUID, table)
	_, err := s.Mapper.Activate(s.ctx(), suiteName, "", table, false)
	s.is(err, dmcrypt.ErrExists, unix.EBUSY)
	if err == nil || !strings.Contains(err.Error(), suiteUUID) {
		s.Errorf("error %v does not say whose the name is", err)
	}
	_, err = s.Mapper.Activate(s.ctx(), suiteName+"-2", suiteUUID, table, false)
	s.is(err, dmcrypt.ErrExists, unix.EBUSY)
	s.absent(suiteName + "-2")
	if _, err := s.Mapper.Verify(suiteName, suiteUUID, table, false); err != nil {
		s.Errorf("the one that was there: %v", err)
	}
}

func (s suite) mismatch() {
	s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 8, 0)})
	_, err := s.Mapper.Verify(suiteName, suiteUUID+"x", dmcrypt.Table{s.linear(0, 16, 8)}, true)
	s.is(err, dmcrypt.ErrMismatch)
	for _, word := range []string{"uuid", "length", "offset", "read-only"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			s.Errorf("error %v does not name the %s", err, word)
		}
	}
	_, err = s.Mapper.Verify(suiteName+"-2", "", dmcrypt.Table{s.linear(0, 16, 8)}, false)
	s.is(err, dmcrypt.ErrNotFound)
}

func (s suite) refused() {
	good := dmcrypt.Table{s.linear(0, 8, 0)}
	for _, name := range []string{"", "a/b", "a b", "control", "..", strings.Repeat("n", dmcrypt.MaxName+1), "ä"} {
		_, err := s.Mapper.Activate(s.ctx(), name, "", good, false)
		s.is(err, dmcrypt.ErrInvalid)
	}
	_, err := s.Mapper.Activate(s.ctx(), suiteName, strings.Repeat("u", dmcrypt.MaxUUID+1), good, false)
	s.is(err, dmcrypt.ErrInvalid)
	s.refusedWith(dmcrypt.Table{s.crypt("capi:tk(cbc(aes))-essiv:sha256", 64)}, dmcrypt.ErrCipher)
	s.refusedWith(dmcrypt.Table{s.crypt("capi:tk(cbc(aes))-plain64", 20)}, dmcrypt.ErrKeySize)
	s.refusedWith(nil, dmcrypt.ErrInvalid)

	long, uuid := suiteName+strings.Repeat("n", dmcrypt.MaxName-len(suiteName)), strings.Repeat("u", dmcrypt.MaxUUID)
	s.activate(long, uuid, good)
	if i, err := s.Mapper.Info(long); err != nil || i.Name != long || i.UUID != uuid {
		s.Errorf("the longest name: %+v, %v", i, err)
	}
}

func (s suite) cancelled() {
	ctx, cancel := context.WithCancel(s.ctx())
	cancel()
	_, err := s.Mapper.Activate(ctx, suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 8, 0)}, false)
	s.is(err, context.Canceled)
	s.absent(suiteName)
}
