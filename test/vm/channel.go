// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"imxcrypt/test/guest/wire"
)

// ErrGone is the error of every operation in progress when the machine loses power,
// crashes or ends.
var ErrGone = errors.New("the virtual machine is gone")

// channel is the host's end of the port to the guest.
type channel struct {
	conn  net.Conn
	hello chan wire.Header

	writing sync.Mutex

	mu    sync.Mutex
	next  uint64
	calls map[uint64]*call
	gone  error // set once nothing more can arrive
}

// call is one request and the replies received so far.
type call struct {
	id uint64

	mu      sync.Mutex
	changed *sync.Cond
	pid     int
	stdout  bytes.Buffer // or the contents of a file
	stderr  bytes.Buffer
	started bool
	done    bool
	end     wire.Header
	err     error
}

func newChannel(conn net.Conn) *channel {
	c := &channel{conn: conn, hello: make(chan wire.Header, 1), calls: map[uint64]*call{}}
	go c.receive()
	return c
}

// open allocates a request number. It fails if the machine is gone.
func (c *channel) open() (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return nil, c.gone
	}
	c.next++
	k := &call{id: c.next}
	k.changed = sync.NewCond(&k.mu)
	c.calls[k.id] = k
	return k, nil
}

func (c *channel) send(h wire.Header, payload []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := wire.Write(c.conn, h, payload); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

func (c *channel) receive() {
	in := bufio.NewReaderSize(c.conn, wire.MaxPayload)
	for {
		h, payload, err := wire.Read(in)
		if err != nil {
			c.lose(fmt.Errorf("%w: %w", ErrGone, err))
			return
		}
		if h.Op == wire.Hello {
			c.hello <- h
			continue
		}
		c.mu.Lock()
		k := c.calls[h.ID]
		c.mu.Unlock()
		if k != nil && k.take(h, payload) {
			c.mu.Lock()
			delete(c.calls, h.ID)
			c.mu.Unlock()
		}
	}
}

func (c *channel) lose(err error) {
	c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return
	}
	c.gone = err
	for id, k := range c.calls {
		k.finish(wire.Header{}, c.gone)
		delete(c.calls, id)
	}
	close(c.hello)
}

// take records a frame and reports whether it was the request's last.
func (k *call) take(h wire.Header, payload []byte) (last bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.changed.Broadcast()
	switch h.Op {
	case wire.Started:
		k.started, k.pid = true, h.PID
	case wire.Output:
		if h.Stream == 2 {
			k.stderr.Write(payload)
		} else {
			k.stdout.Write(payload)
		}
	case wire.Data:
		k.stdout.Write(payload)
		k.done = h.Last
	case wire.Done, wire.Exited:
		k.done, k.end = true, h
	case wire.Failed:
		k.done, k.err = true, errors.New(h.Error)
	}
	return k.done
}

func (k *call) finish(h wire.Header, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.done {
		k.done, k.end, k.err = true, h, err
	}
	k.changed.Broadcast()
}

// wait blocks until ready returns true or the request has ended. It returns false if
// the time limit expires first.
func (k *call) wait(limit time.Duration, ready func() bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	end := time.Now().Add(limit)
	timer := time.AfterFunc(limit, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.changed.Broadcast()
	})
	defer timer.Stop()
	for !k.done && !ready() {
		if !time.Now().Before(end) {
			return false
		}
		k.changed.Wait()
	}
	return true
}

// never makes wait return only at the end of the request.
func never() bool { return false }
