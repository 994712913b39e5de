// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/atomicfile"
	"imxcrypt/internal/blank"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

// remembered is what the board keeps about a volume apart from its device: that it was
// made here. It distinguishes a header that is gone from one that never existed, and an
// encryption that has ended from one that never began. Nothing is opened or overwritten
// because of it.
type remembered struct {
	UUID string `json:"uuid"`
	// Device and Header are where the volume was, as configured.
	Device string    `json:"device"`
	Header string    `json:"header"`
	At     time.Time `json:"at"`
	// Began is the mark of the encryption in place that made the volume, if it was seen
	// under way. Ended is the same mark once all of the volume is encrypted.
	Began string `json:"began,omitempty"`
	Ended string `json:"ended,omitempty"`
	// Decrypts is the mark of the decryption that was begun here.
	Decrypts string `json:"decrypts,omitempty"`
	// DecryptsFrom is the mark of the header before that, once it is replaced.
	DecryptsFrom string `json:"decrypts_from,omitempty"`
}

func rememberedPath(s spec.Volume) string {
	return filepath.Join(s.StateDir, "volumes", s.Name+".json")
}

// remember records a volume if the state directory can be written, and reports whether
// there is a record. Without one only the device can show it.
func (m *Manager) remember(s spec.Volume, uuid string) bool {
	if r, ok := m.recall(s); ok && r.UUID == uuid {
		return true
	}
	return m.record(s, remembered{UUID: uuid, Device: s.Device, Header: s.Header, At: m.sys.Now().UTC().Truncate(time.Second)})
}

// record reports whether the record could be written.
func (m *Manager) record(s spec.Volume, r remembered) bool {
	data, err := json.Marshal(r)
	if err == nil {
		err = m.sys.Files.Replace(rememberedPath(s), append(data, '\n'), 0o600)
	}
	if err != nil {
		m.sys.Log.Debug("could not record that the volume was made here", "volume", s.Name, "error", err)
	}
	return err == nil
}

// recall returns the record of a volume if it is for the place that the configuration
// names.
func (m *Manager) recall(s spec.Volume) (r remembered, ok bool) {
	data, err := m.sys.Files.Read(rememberedPath(s), atomicfile.ReadOptions{MaxSize: header.BlockAlign})
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.sys.Log.Debug("whether the volume was made here cannot be read", "volume", s.Name, "error", err)
	}
	return r, err == nil && r.UUID != "" && r.Device == s.Device && r.Header == s.Header
}

// rememberedNow returns the record as stored, or nil.
func (m *Manager) rememberedNow(s spec.Volume) []byte {
	data, err := m.sys.Files.Read(rememberedPath(s), atomicfile.ReadOptions{MaxSize: header.BlockAlign})
	if err != nil {
		return nil
	}
	return data
}

// rememberAs restores what rememberedNow returned.
func (m *Manager) rememberAs(s spec.Volume, before []byte) {
	if before == nil {
		m.forget(s)
	} else if err := m.sys.Files.Replace(rememberedPath(s), before, 0o600); err != nil {
		m.sys.Log.Debug("the earlier record is not restored", "volume", s.Name, "error", err)
	}
}

// forget removes the record of a volume that no longer exists.
func (m *Manager) forget(s spec.Volume) {
	if err := m.sys.Files.Remove(rememberedPath(s)); err != nil {
		m.sys.Log.Debug("the record that the volume was made here stays", "volume", s.Name, "error", err)
	}
}

// explainNoHeader adds what is known about a header that cannot be used to its error.
func (m *Manager) explainNoHeader(s spec.Volume, path string, err error) error {
	err = m.explainMissing(s, path, err)
	switch fault.CodeOf(err) {
	case fault.HeaderMissing, fault.HeaderDamaged, fault.HeaderInvalid, fault.PlaintextFound, fault.ForeignHeader:
	default:
		return err
	}
	if info, infoErr := m.sys.Mapper.Info(s.Mapping); infoErr == nil && info.Live && strings.HasPrefix(info.UUID, dmcrypt.UUIDPrefixVolume) {
		err = fmt.Errorf("%w; /dev/mapper/%s is still open: save what is in it before it is locked", err, s.Mapping)
	}
	return err
}

// explainMissing distinguishes a header that is gone from one that never existed. err
// says that there is none, or what is in its place. If the device is empty now, nothing
// is left to lose.
func (m *Manager) explainMissing(s spec.Volume, path string, err error) error {
	switch fault.CodeOf(err) {
	case fault.NotProvisioned, fault.PlaintextFound, fault.ForeignHeader:
	default:
		return err
	}
	data, openErr := m.sys.Devices.Open(path, blockdev.Flags{})
	if openErr != nil {
		return err
	}
	defer data.Close()
	if r, ok, readErr := m.eraseRecordOf(s, data); readErr != nil || ok && r.State == header.EraseDone {
		return err
	}
	r, made := m.recall(s)
	if !fault.Is(err, fault.NotProvisioned) {
		if made {
			err = fmt.Errorf("%s: %w", r.text(s), err)
		}
		return err // err names what is there
	}
	if s.Detached() {
		switch plain := header.Plaintext(data); fault.CodeOf(plain) {
		case fault.PlaintextFound:
			return err // a filesystem, as before its encryption
		case fault.ShrinkStarted:
			return plain
		}
	}
	if made {
		if e, err := blockdev.Sample(data, data.Size()); err == nil && e.Empty {
			return fault.Newf(fault.VolumeGone, "%s, and %s is empty now: it is another disk, or all of it was discarded", r.text(s), path)
		}
		return fault.New(fault.HeaderMissing, "the header is gone: "+r.text(s), err)
	}
	from := s.HeaderSize
	if s.Detached() {
		from = 0
	}
	at, readErr := findNoise(data, from)
	if readErr != nil || at < 0 {
		return err
	}
	return fault.New(fault.HeaderMissing, fmt.Sprintf("the header is gone, or this is not the volume's device: what is at byte %d of %s looks like ciphertext", at, path), err)
}

func (r remembered) text(s spec.Volume) string {
	return fmt.Sprintf("volume %q (uuid %q) was made on %s on %s", s.Name, r.UUID, s.Device, r.At.Format(time.DateOnly))
}

// searchedForNoise is how many bytes of the data are searched for ciphertext: every
// filesystem writes to the first MiB.
const searchedForNoise = 16 * header.MiB

// findNoise returns where the first block is that cannot be distinguished from
// ciphertext, or -1.
func findNoise(data header.Device, from int64) (int64, error) {
	return findBlock(data, from, min(from+searchedForNoise, data.Size()), func(block []byte) bool {
		return !blank.Zero(block) && noisy(block)
	})
}

// findBlock returns where the first block of a range is that want accepts, or -1.
func findBlock(data header.Device, from, end int64, want func(block []byte) bool) (int64, error) {
	buf := make([]byte, header.MiB)
	for from < end {
		p := buf[:min(int64(len(buf)), end-from)]
		if n, err := data.ReadAt(p, from); n < len(p) {
			return -1, err
		}
		for at := 0; at+header.BlockAlign <= len(p); at += header.BlockAlign {
			if want(p[at : at+header.BlockAlign]) {
				return from + int64(at), nil
			}
		}
		from += int64(len(p))
	}
	return -1, nil
}

// noisy reports whether the bytes of a block are spread as evenly as random ones:
// chi-squared with 255 degrees of freedom, within seven deviations.
func noisy(block []byte) bool {
	var count [256]int
	for _, b := range block {
		count[b]++
	}
	chi, expected := 0.0, float64(len(block))/256
	for _, n := range count {
		chi += (float64(n) - expected) * (float64(n) - expected) / expected
	}
	return chi > 255-7*22.6 && chi < 255+7*22.6
}
