// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
)

// Main runs a program that needs machines and is not a test, such as a demonstration or
// a benchmark. It cleans up afterwards and returns the exit code. Error messages are
// prefixed with name.
func Main(name string, run func(TB)) (code int) {
	p := &programTB{name: name}
	defer p.cleanUp()
	defer func() {
		switch e := recover().(type) {
		case nil:
		case programEnded:
		default:
			panic(e)
		}
		if p.failed {
			code = 1
		}
	}()
	run(p)
	return 0
}

// programEnded ends the program from within a machine's method.
type programEnded struct{}

// programTB stands in for a test: it keeps track of folders and cleanups.
type programTB struct {
	name   string
	failed bool
	last   []func()
}

func (p *programTB) Helper()      {}
func (p *programTB) Name() string { return p.name }
func (p *programTB) Failed() bool { return p.failed }

// Logf is silent until something has failed: the machines' reports about themselves are
// for tests.
func (p *programTB) Logf(format string, args ...any) {
	if p.failed {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

func (p *programTB) Errorf(format string, args ...any) {
	p.failed = true
	fmt.Fprintf(os.Stderr, p.name+": "+format+"\n", args...)
}

func (p *programTB) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(programEnded{})
}

func (p *programTB) Cleanup(f func()) { p.last = append(p.last, f) }

func (p *programTB) TempDir() string {
	dir, err := os.MkdirTemp("", "imxcrypt-"+p.name+"-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *programTB) cleanUp() {
	for i := len(p.last) - 1; i >= 0; i-- {
		p.last[i]()
	}
}
