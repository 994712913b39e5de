// SPDX-License-Identifier: Apache-2.0

package caam_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
)

// The test binary also is NXP's program: started under its name, it behaves as that
// program does, including its faults.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "caam-keygen" {
		os.Exit(caamKeygen())
	}
	os.Exit(m.Run())
}

// fake is what a fake caam-keygen finds beside itself.
type fake struct {
	// Chip is a saved simulated chip; Device, if set, a real device instead.
	Chip     []byte
	Device   string
	Location string
	// Behave names one of the ways to go wrong.
	Behave string
}

// seen is what a fake caam-keygen noticed of the way it was run.
type seen struct {
	Args, Env []string
	// Over is the filesystem at the location.
	Over  string
	Umask int
}

func caamKeygen() int {
	dir := filepath.Dir(os.Args[0])
	var f fake
	data, err := os.ReadFile(filepath.Join(dir, "fake.json"))
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err == nil {
		err = f.notice(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake caam-keygen:", err)
		return 9
	}
	switch f.Behave {
	case "no device":
		fmt.Println("Unable to open device /dev/caam-keygen")
		return 255
	case "hang":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
		}
		return 0
	case "flood":
		fmt.Print(strings.Repeat("no message\x01\n", 1<<15))
		return 0
	}
	if err := os.MkdirAll(f.Location, 0o777); err != nil {
		fmt.Println("Unable to create key and blob location path", f.Location)
		return 255
	}
	// Whatever happens from here on, the exit status is 0.
	switch os.Args[1] {
	case "create":
		f.create(os.Args[2], os.Args[3], os.Args[5])
	case "import":
		f.open(os.Args[2], os.Args[3])
	}
	return 0
}

func (f fake) notice(dir string) error {
	s := seen{Args: os.Args, Env: os.Environ(), Umask: syscall.Umask(0o022)}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if words := strings.Fields(line); len(words) > 8 && strings.HasPrefix(f.Location+"/", words[4]+"/") && words[4] != "/" {
			_, tail, _ := strings.Cut(line, " - ")
			s.Over, _, _ = strings.Cut(tail, " ")
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "seen.json"), data, 0o600)
}

func (f fake) engine() (caamtest.Engine, error) {
	if f.Device != "" {
		return caam.OpenIoctl(f.Device)
	}
	return caamtest.Load(f.Chip)
}

func (f fake) create(name, enc, size string) {
	if f.Behave == "kernel's words" {
		usage("Invalid key size, expected values are between 16 and 64 bytes.\n")
		return
	}
	n, _ := strconv.Atoi(size)
	if f.Behave == "another size" {
		n = 16
	}
	e, err := f.engine()
	if err != nil {
		usage("")
		return
	}
	key, blob, err := e.Create(context.Background(), caam.Wrap(enc), n)
	if err != nil {
		usage("")
		return
	}
	f.write(name, key.Bytes())
	switch f.Behave {
	case "no blob":
	case "cut blob":
		f.write(name+".bb", blob[:50])
	default:
		f.write(name+".bb", blob)
	}
}

func (f fake) open(blobFile, name string) {
	blob, err := os.ReadFile(blobFile)
	if err != nil {
		fmt.Println("Failed to get blob file status.")
		return
	}
	e, err := f.engine()
	if err != nil {
		usage("")
		return
	}
	key, err := e.Import(context.Background(), blob)
	if err != nil {
		usage("\xc0\x01\xfeF")
		return
	}
	f.write(name, key.Bytes())
}

// usage prints what the program prints after a failure: the text that the driver left, or
// whatever was in memory there, and its usage.
func usage(text string) {
	fmt.Printf("%s\nCAAM keygen usage: caam-keygen [options]\nOptions:\ncreate <key_name> <key_enc> <key_mode> <key_val>\n", text)
}

func (f fake) write(name string, data []byte) {
	path := filepath.Join(f.Location, name)
	isKey := !strings.HasSuffix(name, ".bb")
	switch {
	case isKey && f.Behave == "cut key":
		data = data[:len(data)-1]
	case isKey && f.Behave == "grown key":
		data = append(data, make([]byte, 5000)...)
	case isKey && f.Behave == "empty key":
		data = nil
	case isKey && f.Behave == "link for a key":
		_ = os.Symlink("/etc/hostname", path)
		return
	case isKey && f.Behave == "directory for a key":
		_ = os.Mkdir(path, 0o755)
		return
	case isKey && f.Behave == "pipe for a key":
		_ = syscall.Mkfifo(path, 0o644)
		return
	}
	if err := os.WriteFile(path, data, 0o666); err != nil {
		fmt.Println("Failed to write black key to file.")
	}
}
