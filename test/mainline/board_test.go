// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

// Package mainline tests the facts about the mainline kernel on which the product
// relies. The boards run the kernel's own drivers, unchanged, over models of the
// hardware; see README.md.
package mainline

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// board is a machine with the program onethread.
type board struct {
	*vm.Machine
	t *testing.T
}

const onethread = "/usr/bin/onethread"

func start(t *testing.T, m vm.Mainline, disks ...*vm.Disk) board {
	t.Helper()
	if m.Keys == vm.TPM2 && m.TPM == nil {
		m.TPM = vm.NewTPM(t)
	}
	return board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.ARM64, Mainline: &m, Disks: disks,
		ExtraFiles: map[string]vm.File{onethread: {Host: vm.BuildProgram(t, "./test/mainline/onethread", "arm64")}},
	})}
}

// calls makes system calls on one thread of a new process, whose thread, process and
// session keyrings end with it, and returns the result of each.
func (b board) calls(calls ...[]string) []string {
	b.t.Helper()
	return b.callsBy([]string{"keyctl", "session", "-", onethread}, calls...)
}

// callsBy is calls in a process started by the command argv.
func (b board) callsBy(argv []string, calls ...[]string) []string {
	b.t.Helper()
	var in bytes.Buffer
	for _, c := range calls {
		// Strings can always be encoded as JSON, and writing to a buffer cannot fail.
		_ = json.NewEncoder(&in).Encode(c)
	}
	r := b.RunCommand(vm.Command{Argv: argv, Stdin: in.Bytes()})
	answers := strings.Split(strings.TrimRight(r.Stdout, "\n"), "\n")
	if r.Code != 0 || len(answers) != len(calls) {
		b.t.Fatalf("%d answers to %q: %v", len(answers), calls, r)
	}
	for i, a := range answers {
		answers[i] = strings.TrimSpace(a)
	}
	return answers
}

// expect makes one call in its own process and checks the result.
func (b board) expect(want string, call ...string) {
	b.t.Helper()
	if got := b.calls(call)[0]; got != want {
		b.t.Errorf("%.200q: %s, expected %s", call, got, want)
	}
}

// add is a call that adds a key to the thread keyring.
func add(payload string) []string { return []string{"add", "thread", "kmk", payload} }

// read is a call that reads all of that key.
func read() []string { return []string{"read", "thread", "kmk", "4096"} }

// newKey lets the kernel make a key, and returns its blob in the format of keyctl pipe.
func (b board) newKey(payload string) (blob string) {
	b.t.Helper()
	answers := b.calls(add(payload), read())
	length, blob, ok := strings.Cut(strings.TrimPrefix(answers[1], "ok "), " ")
	if answers[0] != "ok" || !ok || length != fmt.Sprint(len(blob)) {
		b.t.Fatalf("%q: %q", payload, answers)
	}
	if _, err := hex.DecodeString(blob); err != nil || blob != strings.ToLower(blob) {
		b.t.Fatalf("%q is no lower-case hexadecimal text", blob)
	}
	return blob
}

// flip returns the blob with one bit of a byte changed. A negative index counts from
// the end.
func flip(blob string, at int) string {
	// newKey has already decoded it.
	raw, _ := hex.DecodeString(blob)
	if at < 0 {
		at += len(raw)
	}
	raw[at] ^= 0x10
	return hex.EncodeToString(raw)
}

// crypt returns the parameters of a table over /dev/vda.
func crypt(cipher string, size int) string {
	return fmt.Sprintf("%s :%d:trusted:kmk 0 /dev/vda 0 1 sector_size:4096", cipher, size)
}

const sectors = "16384"
