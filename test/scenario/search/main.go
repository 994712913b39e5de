// SPDX-License-Identifier: Apache-2.0

// Command search looks for a secret in a running test machine: in every regular file of
// its filesystems, and in the arguments and environment of every process.
//
//	search SECRET [EXCEPT…]
//
// SECRET is a file that holds the secret; it and the EXCEPT files are skipped. The
// secret is searched for as it is, in hexadecimal of either case and in base64. Files
// that hold it are printed, one per line. The exit code is 1 if there are any, 0 if
// there are none, and 2 if something could not be examined.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: search SECRET [EXCEPT…]")
		os.Exit(2)
	}
	secret, err := os.ReadFile(os.Args[1])
	if err != nil || len(secret) < 16 {
		fmt.Fprintln(os.Stderr, "search: no secret of 16 bytes or more:", err)
		os.Exit(2)
	}
	found, err := search(forms(secret), os.Args[1:])
	for _, f := range found {
		fmt.Println(f)
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "search:", err)
		os.Exit(2)
	case len(found) > 0:
		os.Exit(1)
	}
}

// forms returns the ways in which the secret may be written. There are three in base64,
// because its first byte may be at any position in a group of three. The digits that
// depend on neighbouring bytes are cut off.
func forms(secret []byte) [][]byte {
	digits := []byte(hex.EncodeToString(secret))
	list := [][]byte{secret, digits, bytes.ToUpper(digits)}
	for lead := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, lead), secret...))
		list = append(list, []byte(encoded[4:len(encoded)-4]))
	}
	return list
}

func search(forms [][]byte, except []string) (found []string, err error) {
	look := func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, f := range forms {
			if bytes.Contains(data, f) {
				found = append(found, path)
				return nil
			}
		}
		return nil
	}
	err = filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains([]string{"/proc", "/sys", "/dev"}, path):
			return fs.SkipDir
		case d.Type().IsRegular() && !slices.Contains(except, path):
			return look(path)
		}
		return nil
	})
	processes, globErr := filepath.Glob("/proc/[0-9]*/[ce][mn][dv]*")
	for _, path := range processes {
		// A process that has ended meanwhile has nothing left to search.
		_ = look(path)
	}
	return found, errors.Join(err, globErr)
}
