// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

const quiet = dmcrypt.SkipLockFS | dmcrypt.NoFlush

func (s suite) publish() {
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 8)})
	if h, err := s.Open(s.Mapper.Node(suiteName), false); !errors.Is(err, unix.ENOENT) {
		s.Errorf("a private mapping has the node %s (%v, %v)", s.Mapper.Node(suiteName), h, err)
	}
	s.must(s.open(suiteName, n, true).Close())
	s.must(s.Mapper.Announce(s.ctx(), suiteName))
	h, err := s.Open(s.Mapper.Node(suiteName), true)
	s.must(err)
	data := fill(4096, 1)
	if _, err := h.WriteAt(data, 4096); err != nil {
		s.Error(err)
	}
	s.must(h.Close())
	got := make([]byte, len(data))
	if _, err := s.Backing.ReadAt(got, 8*512+4096); err != nil || !bytes.Equal(got, data) {
		s.Errorf("what was written is not on the device (%v)", err)
	}
	s.must(s.Mapper.Announce(s.ctx(), suiteName)) // repeating it is harmless
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
	s.absent(suiteName)
}

func (s suite) busy() {
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 8)})
	h := s.open(suiteName, n, false)
	err := s.Mapper.Remove(s.ctx(), suiteName)
	s.is(err, dmcrypt.ErrBusy, unix.EBUSY)
	var e *dmcrypt.Error
	if errors.As(err, &e) && e.Opens != 1 {
		s.Errorf("open %d times", e.Opens)
	}
	if i, err := s.Mapper.Info(suiteName); err != nil || i.Opens != 1 {
		s.Errorf("got %+v, %v", i, err)
	}
	s.must(h.Close())
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
	s.absent(suiteName)
}

func (s suite) later() {
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 8)})
	h := s.open(suiteName, n, false)
	s.must(s.Mapper.RemoveLater(suiteName))
	if i, err := s.Mapper.Info(suiteName); err != nil || !i.Removing {
		s.Errorf("got %+v, %v", i, err)
	}
	s.must(h.Close())
	// The kernel does it in a work queue.
	for range 3000 {
		if _, err := s.Mapper.Info(suiteName); errors.Is(err, dmcrypt.ErrNotFound) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.absent(suiteName)
	s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 8)})
	s.must(s.Mapper.RemoveLater(suiteName)) // which is now
	s.absent(suiteName)
}

func (s suite) suspended() {
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 8)})
	h := s.open(suiteName, n, false)
	s.must(s.Mapper.Suspend(s.ctx(), suiteName, quiet))
	s.must(s.Mapper.Suspend(s.ctx(), suiteName, quiet)) // repeating it is harmless
	if i, err := s.Mapper.Info(suiteName); err != nil || !i.Suspended {
		s.Errorf("got %+v, %v", i, err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := h.ReadAt(make([]byte, 4096), 0)
		read <- err
	}()
	select {
	case err := <-read:
		s.Errorf("a read from a suspended mapping returned (%v)", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.must(s.Mapper.Resume(suiteName, dmcrypt.Private, quiet))
	if err := <-read; err != nil {
		s.Errorf("after the resume: %v", err)
	}
	s.must(s.Mapper.Resume(suiteName, dmcrypt.Private, quiet)) // repeating it is harmless
	s.must(h.Close())
}

func (s suite) swap() {
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 0)})
	for i := range int64(2) {
		if _, err := s.Backing.WriteAt(fill(4096, byte(i+1)), i*64*512); err != nil {
			s.Fatal(err)
		}
	}
	h := s.open(suiteName, n, false)
	for i := range uint64(2) {
		table := dmcrypt.Table{s.linear(0, 64, 64*i)}
		s.must(s.Mapper.Swap(s.ctx(), suiteName, table, false, dmcrypt.Private, quiet))
		if _, err := s.Mapper.Verify(suiteName, suiteUUID, table, false); err != nil {
			s.Error(err)
		}
		got := make([]byte, 4096)
		if _, err := h.ReadAt(got, 0); err != nil || !bytes.Equal(got, fill(4096, byte(i+1))) {
			s.Errorf("the file open since before does not read table %d (%v)", i, err)
		}
	}
	want, err := s.Mapper.Table(suiteName)
	s.must(err)
	bad := s.linear(0, 64, 0)
	bad.Device = s.Absent
	if err := s.Mapper.Swap(s.ctx(), suiteName, dmcrypt.Table{bad}, false, dmcrypt.Private, quiet); err == nil {
		s.Error("a table over nothing was taken")
	}
	i, err := s.Mapper.Verify(suiteName, suiteUUID, want, false)
	if err != nil || i.Suspended || i.Inactive {
		s.Errorf("after a swap that failed: %+v, %v", i, err)
	}
	s.must(h.Close())
}

func (s suite) stack() {
	lower := s.encrypted(suiteName+"-lower", s.crypt("aes-xts-plain64", 64, "sector_size:4096"))
	top := dmcrypt.Table{
		dmcrypt.Linear{Length: 64, Device: lower, Offset: 64},
		dmcrypt.Linear{Start: 64, Length: 64, Device: lower},
	}
	n := s.activate(suiteName, suiteUUID, top)
	s.is(s.Mapper.Remove(s.ctx(), suiteName+"-lower"), dmcrypt.ErrBusy)
	devices, err := s.Mapper.Devices(suiteName)
	if s.must(err); len(devices) != 1 || devices[0] != lower {
		s.Errorf("stands on %v, want %v", devices, lower)
	}
	h, below := s.open(suiteName, n, true), s.open(suiteName+"-lower", lower, false)
	data := fill(8192, 9)
	if _, err := h.WriteAt(data, 56*512); err != nil { // across both pieces
		s.Fatal(err)
	}
	got := make([]byte, 4096)
	for at, want := range map[int64][]byte{(64 + 56) * 512: data[:4096], 0: data[4096:]} {
		if _, err := below.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
			s.Errorf("at %d below: not what was written above (%v)", at, err)
		}
	}
	s.must(h.Close())
	s.must(below.Close())
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
}

// flushes checks that a flush waits for a suspended mapping below, as reads and writes
// do, and does not wait if flushes are directed to another device.
func (s suite) flushes() {
	lower := s.activate(suiteName+"-lower", "", dmcrypt.Table{s.linear(0, 64, 64)})
	n := s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 0), dmcrypt.Linear{Start: 64, Length: 64, Device: lower}})
	h := s.open(suiteName, n, true)
	data := fill(4096, 5)
	for _, led := range []bool{false, true} {
		if led {
			s.must(s.Mapper.Swap(s.ctx(), suiteName, dmcrypt.Table{
				s.linear(0, 64, 0), dmcrypt.Delay{Start: 64, Length: 64, Device: lower, Flush: s.Device},
			}, false, dmcrypt.Private, quiet))
		}
		s.must(s.Mapper.Suspend(s.ctx(), suiteName+"-lower", quiet))
		flushed, written := make(chan error, 1), make(chan error, 1)
		go func() { flushed <- h.Flush() }()
		if led {
			select {
			case err := <-flushed:
				s.must(err)
			case <-time.After(time.Minute):
				s.Fatal("the flush waits")
			}
		}
		go func() { _, err := h.WriteAt(data, 64*512); written <- err }()
		select {
		case <-flushed:
			s.Error("the flush did not wait")
		case <-written:
			s.Error("the write did not wait")
		case <-time.After(200 * time.Millisecond):
		}
		s.must(s.Mapper.Resume(suiteName+"-lower", dmcrypt.Private, quiet))
		s.must(<-written)
		if !led {
			s.must(<-flushed)
		}
	}
	s.must(h.Close())
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
	s.must(s.Mapper.Remove(s.ctx(), suiteName+"-lower"))
}

func (s suite) readOnly() {
	table := dmcrypt.Table{s.linear(0, 64, 8)}
	n, err := s.Mapper.Activate(s.ctx(), suiteName, suiteUUID, table, true)
	s.must(err)
	i, err := s.Mapper.Verify(suiteName, suiteUUID, table, true)
	if err != nil || !i.ReadOnly {
		s.Errorf("got %+v, %v", i, err)
	}
	_, err = s.Mapper.Verify(suiteName, suiteUUID, table, false)
	s.is(err, dmcrypt.ErrMismatch)
	path, err := s.Mapper.DevicePath(suiteName, n)
	s.must(err)
	if h, err := s.Open(path, true); err == nil {
		if _, err := h.WriteAt(fill(4096, 3), 0); err == nil {
			s.Error("a read-only mapping was written")
		}
		s.must(h.Close())
	}
	s.must(s.open(suiteName, n, false).Close())
	s.must(s.Mapper.Remove(s.ctx(), suiteName))
}

func (s suite) inactive() {
	s.activate(suiteName, suiteUUID, dmcrypt.Table{s.linear(0, 64, 0)})
	if t, err := s.Mapper.InactiveTable(suiteName); err != nil || t != nil {
		s.Errorf("inactive table %v, %v", t, err)
	}
	next := dmcrypt.Table{s.linear(0, 32, 8)}
	s.must(s.Mapper.Load(s.ctx(), suiteName, next, false))
	if t, err := s.Mapper.InactiveTable(suiteName); err != nil || !next.Equal(t) {
		s.Errorf("inactive table %v, %v", t, err)
	}
	if i, err := s.Mapper.Info(suiteName); err != nil || !i.Inactive || !i.Live {
		s.Errorf("got %+v, %v", i, err)
	}
	s.must(s.Mapper.Clear(suiteName))
	s.must(s.Mapper.Clear(suiteName)) // repeating it is harmless
	if i, err := s.Mapper.Info(suiteName); err != nil || i.Inactive {
		s.Errorf("got %+v, %v", i, err)
	}
}

func (s suite) rename() {
	table := dmcrypt.Table{s.linear(0, 64, 0)}
	s.activate(suiteName, "", table)
	s.must(s.Mapper.Announce(s.ctx(), suiteName))
	s.activate(suiteName+"-taken", "", dmcrypt.Table{s.linear(0, 8, 64)})
	s.is(s.Mapper.Rename(suiteName, suiteName+"-taken", dmcrypt.Public), unix.EBUSY)
	s.is(s.Mapper.Rename(suiteName, "a b", dmcrypt.Public), dmcrypt.ErrInvalid)
	s.must(s.Mapper.SetUUID(suiteName, suiteUUID))
	if err := s.Mapper.SetUUID(suiteName, suiteUUID+"x"); err == nil {
		s.Error("a uuid was changed")
	}
	s.must(s.Mapper.Rename(suiteName, suiteName+"-new", dmcrypt.Public))
	s.absent(suiteName)
	s.must(s.Mapper.Announce(s.ctx(), suiteName+"-new"))
	h, err := s.Open(s.Mapper.Node(suiteName+"-new"), false)
	s.must(err)
	s.must(h.Close())
	if _, err := s.Mapper.Verify(suiteName+"-new", suiteUUID, table, false); err != nil {
		s.Error(err)
	}
	s.must(s.Mapper.Remove(s.ctx(), suiteName+"-new"))
}

func (s suite) notFound() {
	const name = suiteName + "-absent"
	_, infoErr := s.Mapper.Info(name)
	_, tableErr := s.Mapper.Table(name)
	_, devicesErr := s.Mapper.Devices(name)
	_, byErr := s.Mapper.ByNumber(s.Absent)
	for op, err := range map[string]error{
		"info": infoErr, "table": tableErr, "devices": devicesErr, "by number": byErr,
		"remove": s.Mapper.Remove(s.ctx(), name), "remove later": s.Mapper.RemoveLater(name),
		"suspend": s.Mapper.Suspend(s.ctx(), name, quiet), "resume": s.Mapper.Resume(name, dmcrypt.Private, 0),
		"announce": s.Mapper.Announce(s.ctx(), name), "clear": s.Mapper.Clear(name),
		"load":   s.Mapper.Load(s.ctx(), name, dmcrypt.Table{s.linear(0, 8, 0)}, false),
		"rename": s.Mapper.Rename(name, suiteName, dmcrypt.Private),
	} {
		if !errors.Is(err, dmcrypt.ErrNotFound) {
			s.Errorf("%s: got %v, want not found", op, err)
		}
	}
}
