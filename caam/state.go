// SPDX-License-Identifier: Apache-2.0

package caam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// SecurityState says which master key the chip seals blobs under.
type SecurityState string

const (
	// Open: a test key that every open chip has. Such blobs open on any open chip, and on
	// none once the chip is closed.
	Open SecurityState = "open"
	// Closed: the chip's own fused key.
	Closed SecurityState = "closed"
	// Unknown: nothing readable says which, or the evidence conflicts.
	Unknown SecurityState = "unknown"
)

// State is what Linux reveals of the chip's security state.
type State struct {
	State SecurityState
	// SoC is the chip's name according to the kernel ("i.MX8MP"); empty if it gives none.
	SoC string
	// Key names the unit of this SoC that seals keys: caam, dcp or ele; empty for an
	// unknown SoC.
	Key string
	// KeepsKeys reports whether black keys survive suspend-to-RAM on this SoC.
	KeepsKeys bool
	// Evidence lists, as sentences, what was read and what it said.
	Evidence []string
}

// lockedWord is the value that a fuse reads as if its bank may not be read.
const lockedWord = 0xBADABADA

// ReadSecurityState evaluates the fuses and the kernel log. root is the directory above
// sys, empty for the running system; log holds the lines of the kernel log that the
// caller has. It never fails: what cannot be read is evidence of an unknown state.
//
// The fuse decides. For a closed chip it is necessary but not sufficient. That is why the
// log is evaluated too, which can only make the result more cautious. The log alone means
// "open" only if CAAM or DCP itself reports the test key.
func ReadSecurityState(root string, log []string) State {
	s := State{State: Unknown}
	s.readSoC(root)
	fuse := s.readFuse(root)
	hint := s.readLog(log)
	switch {
	case hint == testKeyInUse, fuse == Open:
		s.State = Open
	case fuse == Closed && hint == notSecure:
		s.note("fuse and kernel log disagree: taken for unknown")
	case fuse == Closed:
		s.State = Closed
	}
	return s
}

func (s *State) note(format string, args ...any) {
	s.Evidence = append(s.Evidence, fmt.Sprintf(format, args...))
}

func (s *State) readSoC(root string) {
	data, err := os.ReadFile(filepath.Join(root, "/sys/devices/soc0/soc_id"))
	s.SoC = strings.TrimSpace(string(data))
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && s.SoC == "":
		s.note("the kernel names no SoC (/sys/devices/soc0/soc_id)")
	case err != nil:
		s.note("the SoC's name cannot be read: %v", err)
	}
}

// readFuse returns what the fuse says: Open, Closed or Unknown.
func (s *State) readFuse(root string) SecurityState {
	if s.SoC == "" {
		return Unknown
	}
	f, known := familyOf(s.SoC)
	if !known {
		s.note("SoC %q: where it keeps its fuses is not known", s.SoC)
		return Unknown
	}
	s.Key, s.KeepsKeys = f.Key, slices.Contains(f.KeepsKeys, s.SoC)
	if f.NoFuse != "" {
		s.note("%s: %s", s.SoC, f.NoFuse)
		return Unknown
	}
	word, source, err := f.word(root)
	if err != nil {
		s.note("%s: the fuses cannot be read: %v", s.SoC, err)
		return Unknown
	}
	if word == lockedWord {
		s.note("%s: %s reads %#08x, which is a locked word", s.SoC, source, word)
		return Unknown
	}
	state := Open
	if word&uint32(f.Mask) != 0 {
		state = Closed
	}
	s.note("%s: %s is %#08x, bit %#08x says %s", s.SoC, source, word, uint32(f.Mask), state)
	return state
}

// word reads the fuse's word from the nvmem or, if that is missing, from the file of an
// old BSP. source names the place it came from.
func (f family) word(root string) (word uint32, source string, err error) {
	nvmem := filepath.Join("/sys/bus/nvmem/devices", f.NVMEM, "nvmem")
	word, err = readWord(filepath.Join(root, nvmem), int64(f.Offset))
	if err == nil {
		return word, fmt.Sprintf("%s at %#x", nvmem, uint32(f.Offset)), nil
	}
	if f.Old != "" && errors.Is(err, fs.ErrNotExist) {
		old := filepath.Join("/sys/fsl_otp", f.Old)
		data, oldErr := os.ReadFile(filepath.Join(root, old))
		if oldErr == nil {
			v, err := strconv.ParseUint(strings.TrimSpace(string(data)), 0, 32)
			return uint32(v), old, err
		}
		if !errors.Is(oldErr, fs.ErrNotExist) {
			err = oldErr
		}
	}
	return 0, "", err
}

func readWord(path string, at int64) (uint32, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var word [4]byte
	if _, err := file.ReadAt(word[:], at); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%s ends before %#x", path, at+int64(len(word)))
		}
		return 0, err
	}
	return binary.LittleEndian.Uint32(word[:]), nil
}

// hint is what the kernel log suggests.
type hint int

const (
	nothing hint = iota
	looksSecure
	notSecure
	testKeyInUse
)

// readLog recognizes the messages of drivers/crypto/caam, of the trusted keys' DCP source
// and of the BSP's caam-snvs driver. The caam-snvs state "init" is not evidence: it is
// printed when the driver starts early.
func (s *State) readLog(log []string) hint {
	found := nothing
	for _, line := range log {
		line = strings.TrimSpace(line)
		switch {
		case strings.Contains(line, "using insecure test key"),
			strings.Contains(line, "Device neither in secure nor trusted mode!"):
			s.note("the kernel log: %q", line)
			found = max(found, testKeyInUse)
		case strings.Contains(line, "caam-snvs") && strings.Contains(line, "violation handlers armed"):
			s.note("the kernel log: %q", line)
			switch {
			case strings.Contains(line, "non-secure state"):
				found = max(found, notSecure)
			case strings.Contains(line, "trusted state"), strings.Contains(line, "secure state"):
				found = max(found, looksSecure)
			}
		}
	}
	return found
}
