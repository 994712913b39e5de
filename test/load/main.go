// SPDX-License-Identifier: Apache-2.0

// Load keeps a filesystem busy and checks every byte of it, for scenarios in which the
// device below changes meanwhile.
//
//	load DIR          write and verify files in DIR until SIGTERM; -pause 100ms between them
//	load -verify DIR  verify the files that are there
//	load -direct 7 DEVICE  the hash of block 7, read past the page cache
//
// Each file is {length u32, random bytes, SHA-256 of both}. It is written under another
// name, flushed and renamed, so that after a power cut each file is complete, either
// new or old.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	files   = 16
	maxFile = 64 << 10
)

func main() {
	verify := flag.Bool("verify", false, "only verify what is there")
	pause := flag.Duration("pause", 0, "wait between two files")
	block := flag.Int64("direct", -1, "print the hash of this block of 4096 bytes")
	flag.Parse()
	if *block >= 0 {
		if err := direct(flag.Arg(0), *block); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	l := load{dir: flag.Arg(0)}
	err := l.verifyAll()
	for err == nil && !*verify && ctx.Err() == nil {
		if err = l.round(); err == nil && l.wrote == 1 {
			fmt.Println("begun") // the starter waits for this before ending it
		}
		select {
		case <-ctx.Done():
		case <-time.After(*pause):
		}
	}
	if err == nil && !*verify {
		err = l.verifyAll()
	}
	fmt.Println(&l)
	if err != nil {
		fmt.Println("WRONG:", err)
		os.Exit(1)
	}
}

type load struct {
	dir             string
	wrote, verified int
	syncs, reads    []time.Duration
}

// String returns what was done, and the waits: median and longest.
func (l *load) String() string {
	return fmt.Sprintf("wrote %d files, verified %d; fsync median %v longest %v; read median %v longest %v",
		l.wrote, l.verified, middle(l.syncs), longest(l.syncs), middle(l.reads), longest(l.reads))
}

func middle(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2].Round(time.Millisecond / 10)
}

func longest(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return slices.Max(d).Round(time.Millisecond / 10)
}

func (l *load) path(n int) string { return filepath.Join(l.dir, fmt.Sprintf("file-%02d", n)) }

// round writes one file and verifies another.
func (l *load) round() error {
	if err := l.write(l.path(rand.IntN(files))); err != nil {
		return err
	}
	return l.verify(l.path(rand.IntN(files)))
}

func (l *load) write(path string) error {
	body := make([]byte, 4+rand.IntN(maxFile))
	binary.LittleEndian.PutUint32(body, uint32(len(body)))
	for at := 4; at+8 <= len(body); at += 8 {
		binary.LittleEndian.PutUint64(body[at:], rand.Uint64())
	}
	sum := sha256.Sum256(body)
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	if _, err = f.Write(append(body, sum[:]...)); err == nil {
		begun := time.Now()
		err = f.Sync()
		l.syncs = append(l.syncs, time.Since(begun))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.wrote++
	return os.Rename(path+".new", path)
}

// verify reads a file past the page cache and checks it. A file that was not written
// yet is fine.
func (l *load) verify(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	begun := time.Now()
	all, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	l.reads = append(l.reads, time.Since(begun))
	n := len(all) - sha256.Size
	if n < 4 || int(binary.LittleEndian.Uint32(all)) != n {
		return fmt.Errorf("%s: %d bytes are not what was written", path, len(all))
	}
	if sum := sha256.Sum256(all[:n]); !bytes.Equal(sum[:], all[n:]) {
		return fmt.Errorf("%s: its contents are not what was written", path)
	}
	l.verified++
	return nil
}

func (l *load) verifyAll() error {
	for n := range files {
		if err := l.verify(l.path(n)); err != nil {
			return err
		}
	}
	return nil
}
