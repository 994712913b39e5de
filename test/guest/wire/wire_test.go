// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
)

func TestFramesArriveAsSent(t *testing.T) {
	var stream bytes.Buffer
	frames := []struct {
		header  Header
		payload []byte
	}{
		{Header{ID: 1, Op: Start, Argv: []string{"sh", "-c", "echo \"ä\""}, Env: []string{"A=b"}}, nil},
		{Header{ID: 1, Op: Output, Stream: 2}, bytes.Repeat([]byte{0, 0xff}, MaxPayload/2)},
		{Header{ID: 1, Op: Exited, Code: -1, Killed: 9, Micros: 12}, nil},
	}
	for _, f := range frames {
		if err := Write(&stream, f.header, f.payload); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range frames {
		h, payload, err := Read(&stream)
		if err != nil || !reflect.DeepEqual(h, f.header) || !bytes.Equal(payload, f.payload) {
			t.Errorf("got %+v with %d bytes, %v; want %+v", h, len(payload), err, f.header)
		}
	}
	if _, _, err := Read(&stream); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestLimitsOfFrames(t *testing.T) {
	if err := Write(io.Discard, Header{}, make([]byte, MaxPayload+1)); err == nil {
		t.Error("a payload over the limit was sent")
	}
	if err := Write(io.Discard, Header{Argv: []string{string(make([]byte, maxHeader))}}, nil); err == nil {
		t.Error("a header over the limit was sent")
	}
	if _, _, err := Read(bytes.NewReader([]byte("Linux version 6.1"))); !errors.Is(err, ErrFrame) {
		t.Errorf("a kernel's message: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	var stream bytes.Buffer
	if err := Write(&stream, Header{ID: 7, Op: Data, Last: true}, []byte("data")); err != nil {
		f.Fatal(err)
	}
	f.Add(stream.Bytes())
	f.Add(stream.Bytes()[:stream.Len()-1])
	f.Add([]byte("IMXF\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, payload, err := Read(bytes.NewReader(frame))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(&again, h, payload); err != nil {
			t.Fatal(err)
		}
		h2, payload2, err := Read(&again)
		if err != nil || !bytes.Equal(payload, payload2) || h2.ID != h.ID || h2.Op != h.Op {
			t.Errorf("%+v became %+v, %v", h, h2, err)
		}
	})
}
