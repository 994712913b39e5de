// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command onethread makes system calls about keys and tables in a virtual machine, all
// on one thread, because a thread keyring belongs to one thread.
//
// Each line of its input is a call, a JSON array of strings. Each line of its output is
// "ok" followed by the result of the call, or the name of the errno:
//
//	["add", RING, DESCRIPTION, PAYLOAD]     a trusted key; RING is thread, process, session or user
//	["read", RING, DESCRIPTION, SIZE]       gives the length and what came into a buffer of that size
//	["unlink", RING, DESCRIPTION]
//	["map", NAME, SECTORS, PARAMETERS]      a mapping with one target, crypt
//	["unmap", NAME]
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread()
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "onethread:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	for calls := json.NewDecoder(in); ; {
		var c []string
		if err := calls.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := call(c)
		var errno syscall.Errno
		switch {
		case errors.As(err, &errno):
			answer = unix.ErrnoName(errno)
		case err != nil:
			return fmt.Errorf("%q: %w", c, err)
		default:
			answer = "ok " + answer
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return err
		}
	}
}

func call(c []string) (string, error) {
	switch {
	case len(c) == 4 && c[0] == "add":
		ring, err := ringOf(c[1])
		if err != nil {
			return "", err
		}
		_, err = unix.AddKey("trusted", c[2], []byte(c[3]), ring)
		return "", err
	case len(c) == 4 && c[0] == "read":
		return read(c[1], c[2], c[3])
	case len(c) == 3 && c[0] == "unlink":
		ring, err := ringOf(c[1])
		if err != nil {
			return "", err
		}
		id, err := unix.KeyctlSearch(ring, "trusted", c[2], 0)
		if err != nil {
			return "", err
		}
		_, err = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, ring, 0, 0)
		return "", err
	case len(c) == 4 && c[0] == "map":
		return "", mapDevice(c[1], c[2], c[3])
	case len(c) == 2 && c[0] == "unmap":
		return "", ioctl(unix.DM_DEV_REMOVE, c[1], nil)
	}
	return "", errors.New("unknown call")
}

func ringOf(name string) (int, error) {
	ring, ok := map[string]int{
		"thread": unix.KEY_SPEC_THREAD_KEYRING, "process": unix.KEY_SPEC_PROCESS_KEYRING,
		"session": unix.KEY_SPEC_SESSION_KEYRING, "user": unix.KEY_SPEC_USER_KEYRING,
	}[name]
	if !ok {
		return 0, fmt.Errorf("unknown keyring %q", name)
	}
	return ring, nil
}

func read(ringName, description, size string) (string, error) {
	ring, err := ringOf(ringName)
	if err != nil {
		return "", err
	}
	room, err := strconv.Atoi(size)
	if err != nil {
		return "", err
	}
	id, err := unix.KeyctlSearch(ring, "trusted", description, 0)
	if err != nil {
		return "", err
	}
	buffer := make([]byte, room)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buffer, 0)
	return fmt.Sprintf("%d %s", n, bytes.TrimRight(buffer, "\x00")), err
}

// mapDevice makes a mapping as dmsetup create does, without udev. If the table is
// refused, it removes the mapping again.
func mapDevice(name, sectors, parameters string) error {
	length, err := strconv.ParseUint(sectors, 10, 64)
	if err != nil {
		return err
	}
	if err := ioctl(unix.DM_DEV_CREATE, name, nil); err != nil {
		return err
	}
	target := unix.DmTargetSpec{Length: length}
	copy(target.Target_type[:], "crypt")
	table := unsafe.Slice((*byte)(unsafe.Pointer(&target)), unsafe.Sizeof(target))
	table = append(bytes.Clone(table), parameters+"\x00"...)
	err = ioctl(unix.DM_TABLE_LOAD, name, table)
	if err == nil {
		err = ioctl(unix.DM_DEV_SUSPEND, name, nil) // without the flag: resume
	}
	if err != nil {
		_ = ioctl(unix.DM_DEV_REMOVE, name, nil) // the table's error is the one to return
	}
	return err
}

// ioctl sends device-mapper a command about a mapping. Data is a table of one target.
func ioctl(command uint, name string, data []byte) error {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	header := unix.DmIoctl{Version: [3]uint32{4, 0, 0}}
	copy(header.Name[:], name)
	const headerSize = int(unsafe.Sizeof(header))
	buffer := make([]byte, headerSize+len(data))
	header.Data_size, header.Data_start = uint32(len(buffer)), uint32(headerSize)
	if len(data) > 0 {
		header.Target_count = 1
	}
	copy(buffer, unsafe.Slice((*byte)(unsafe.Pointer(&header)), headerSize))
	copy(buffer[headerSize:], data)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), uintptr(command), uintptr(unsafe.Pointer(&buffer[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
