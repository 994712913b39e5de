// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/keyring"
)

// BenchmarkOptions say what is measured.
type BenchmarkOptions struct {
	// Device is an empty block device; its first MiB are written to, and are
	// zeros again afterwards.
	Device string
	// Source is SourceCAAM, or SourceDev for ciphers in software.
	Source string
	// Wrap and KeySize (bytes) are of the keys made.
	Wrap    string
	KeySize int
	// Each is how long reading and writing are measured for each setting.
	Each time.Duration
	// Keys is how many keys are made and imported.
	Keys int
	// Progress is told of each row when it is measured.
	Progress func(BenchmarkRow)
}

// BenchmarkRow is one setting of dm-crypt and what it reached.
type BenchmarkRow struct {
	Cipher     string   `json:"cipher"`
	SectorSize int      `json:"sector_size"`
	Flags      []string `json:"crypt_flags"`
	// Bytes a second.
	Write float64 `json:"write_bytes_per_second"`
	Read  float64 `json:"read_bytes_per_second"`
	// Problem says why the setting could not be measured.
	Problem string `json:"problem,omitempty"`
}

// KeyTimes are of the key hardware.
type KeyTimes struct {
	Keys   int           `json:"keys"`
	Create time.Duration `json:"create_median_ns"`
	Import time.Duration `json:"import_median_ns"`
}

// BenchmarkResult is a whole benchmark.
type BenchmarkResult struct {
	// Times is nil for SourceDev.
	Times *KeyTimes      `json:"key_times"`
	Rows  []BenchmarkRow `json:"rows"`
	// Best is the setting for the configuration; nil if none could be measured.
	Best *BenchmarkRow `json:"best"`
}

const (
	benchmarkName = "imxcrypt:bench"
	// No volume's: dm needs one to tell a left-over of ours by.
	benchmarkUUID = "00000000-0000-4000-8000-0000000be9c4"
	benchmarkSpan = 16 * mib
	benchmarkIO   = 256 * kib
	// worthwhile is how much faster a setting must be before it is recommended
	// over a plainer one.
	worthwhile = 1.1
)

// Benchmark measures how fast keys are made and imported, and what dm-crypt
// reaches with each setting that a volume may have.
func (m *Manager) Benchmark(ctx context.Context, o BenchmarkOptions) (_ BenchmarkResult, err error) {
	var result BenchmarkResult
	if o.Each <= 0 || o.Keys <= 0 {
		return result, refuse(fault.Usage, "a benchmark needs a time and a number of keys above 0")
	}
	release, err := m.sys.Locks.Acquire(ctx, "bench")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := m.removeBenchmark(ctx); err != nil {
		return result, err
	}
	dev, size, err := m.scratch(o.Device)
	if err != nil {
		return result, err
	}
	key, err := m.benchmarkKey(ctx, o, &result)
	if err != nil {
		return result, err
	}
	defer key.wipe()
	defer func() { err = errors.Join(err, m.clean(o.Device, size)) }()
	refused := map[string]bool{} // flags, told once
	for _, row := range settings(o.Source, o.KeySize) {
		if err := ctx.Err(); err != nil {
			return result, fault.New(fault.Interrupted, "stopped on request", err)
		}
		flags := strings.Join(row.Flags, " ")
		if refused[flags] {
			continue
		}
		if err := m.measure(ctx, &row, dev, size, key, o.Each); err != nil {
			if len(result.Rows) == 0 && nothingWorks(err) {
				return result, err
			}
			row.Problem = err.Error()
			if len(row.Flags) > 0 && errors.Is(err, unix.EINVAL) {
				row.Problem = "this kernel's dm-crypt does not take these flags"
				refused[flags] = true
			}
		}
		result.Rows = append(result.Rows, row)
		if o.Progress != nil {
			o.Progress(row)
		}
	}
	result.Best = recommend(result.Rows)
	return result, nil
}

// removeBenchmark takes away what a benchmark that was killed left: the lock is
// held, so nobody uses it.
func (m *Manager) removeBenchmark(ctx context.Context) error {
	info, err := m.sys.Mapper.Info(benchmarkName)
	if err != nil || info.UUID != dmcrypt.HelperUUID(benchmarkUUID, benchmarkName) {
		return nil // the first measurement tells what is wrong
	}
	return m.sys.Mapper.Remove(ctx, benchmarkName)
}

// nothingWorks tells of an error that every other setting would meet too.
func nothingWorks(err error) bool {
	switch fault.CodeOf(err) {
	case fault.DMMissing, fault.DMCryptMissing, fault.CipherMissing, fault.KeyringMissing, fault.PermissionMissing:
		return true
	}
	return false
}

// settings are all that a volume of a source may have. plain is left out, which
// is plain64 by another name, and for the CAAM the flags no_read_workqueue and
// no_write_workqueue: with its driver, which answers later, nobody has tried them.
func settings(source string, keySize int) []BenchmarkRow {
	flags := [][]string{{}, {"same_cpu_crypt"}, {"submit_from_crypt_cpus"}, {"same_cpu_crypt", "submit_from_crypt_cpus"}, {"high_priority"}}
	if source == SourceDev {
		flags = append(flags, []string{"no_read_workqueue", "no_write_workqueue"})
	}
	var rows []BenchmarkRow
	for _, cipher := range ciphers(source) {
		sizes := []int{512, 1024, 2048, 4096}
		switch {
		case strings.HasSuffix(cipher, "-plain"), cipher == "aes-cbc-plain64" && keySize > 32:
			continue
		case strings.HasSuffix(cipher, "-eboiv"):
			sizes = sizes[3:] // one more job of the hardware for each sector
		}
		for _, size := range sizes {
			for _, f := range flags {
				rows = append(rows, BenchmarkRow{Cipher: cipher, SectorSize: size, Flags: slices.Clone(f)})
			}
		}
	}
	return rows
}

// scratch looks at the device: it must be nobody's, and empty.
func (m *Manager) scratch(path string) (n blockdev.Number, size int64, err error) {
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return n, 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	e, err := blockdev.SampleFrom(dev, 0, dev.Size())
	if err != nil {
		return n, 0, fault.New(fault.IOFailed, "read "+path, err)
	}
	if !e.Empty {
		return n, 0, refuse(fault.NotEmpty, "%s is not empty: data at byte %d", path, e.Offset)
	}
	size = min(dev.Size(), benchmarkSpan) / benchmarkIO * benchmarkIO
	if size == 0 {
		return n, 0, refuse(fault.DeviceUnsuitable, "%s has %d KiB, a benchmark needs at least %d KiB", path, dev.Size()/kib, benchmarkIO/kib)
	}
	return dev.Number(), size, nil
}

// clean makes the device empty again.
func (m *Manager) clean(path string, size int64) error {
	dev, err := m.sys.Devices.Open(path, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(zero(context.Background(), dev, 0, size), dev.Flush(), dev.Close())
}

// benchmarkKey makes keys and opens them again, and returns one to encrypt with.
func (m *Manager) benchmarkKey(ctx context.Context, o BenchmarkOptions, result *BenchmarkResult) (liveKey, error) {
	if o.Source == SourceDev {
		buf, err := secret.New(o.KeySize)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(m.sys.Rand, buf.Bytes()); err != nil {
			buf.Wipe()
			return nil, fmt.Errorf("draw a key: %w", err)
		}
		return newLogonKey(buf, m.sys.Keyring), nil
	}
	chip, err := m.sys.Chip()
	if err != nil {
		return nil, err
	}
	var created, imported []time.Duration
	var blob caam.Blob
	for range o.Keys {
		began := m.sys.Now()
		black, b, err := chip.Create(ctx, caam.Wrap(o.Wrap), o.KeySize)
		if err != nil {
			return nil, err
		}
		created = append(created, m.sys.Now().Sub(began))
		black.Wipe()
		blob = b
	}
	var key *caam.BlackKey
	for range o.Keys {
		if key != nil {
			key.Wipe()
		}
		began := m.sys.Now()
		if key, err = chip.Import(ctx, blob); err != nil {
			return nil, err
		}
		imported = append(imported, m.sys.Now().Sub(began))
	}
	result.Times = &KeyTimes{Keys: o.Keys, Create: median(created), Import: median(imported)}
	return &logonKey{payload: key.Bytes(), release: key.Wipe, ring: m.sys.Keyring}, nil
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// measure writes and reads through one mapping.
func (m *Manager) measure(ctx context.Context, row *BenchmarkRow, n blockdev.Number, size int64, key liveKey, each time.Duration) (err error) {
	options, err := dmcrypt.CryptOptions(row.SectorSize, row.Flags...)
	if err != nil {
		return err
	}
	a, err := m.activate(ctx, benchmarkName, dmcrypt.HelperUUID(benchmarkUUID, benchmarkName), keyring.Describe(benchmarkUUID, 1), key, false,
		func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
			return dmcrypt.Table{dmcrypt.Crypt{
				Length: uint64(size / sectorBytes), Cipher: dmcrypt.Cipher(row.Cipher), Key: ref,
				Device: dmcrypt.Number{Major: n.Major, Minor: n.Minor}, Options: options,
			}}, nil
		})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.remove(ctx)) }()
	dev, err := a.open(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	buf := make([]byte, benchmarkIO)
	if _, err := io.ReadFull(m.sys.Rand, buf); err != nil {
		return err
	}
	if row.Write, err = m.throughput(ctx, dev.WriteAt, buf, size, each); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	if row.Read, err = m.throughput(ctx, dev.ReadAt, buf, size, each); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// parts is how many parts a measurement has. The fastest counts: what others do
// meanwhile only ever makes one slower.
const parts = 3

// throughput is in bytes a second, one request of len(buf) at a time, round and
// round over the device.
func (m *Manager) throughput(ctx context.Context, do func([]byte, int64) (int, error), buf []byte, size int64, each time.Duration) (float64, error) {
	best, at := 0.0, int64(0)
	for range parts {
		for began, done := m.sys.Now(), 0; ; {
			if _, err := do(buf, at); err != nil {
				return 0, err
			}
			done += len(buf)
			if at += int64(len(buf)); at >= size {
				at = 0
			}
			if took := m.sys.Now().Sub(began); took >= each/parts {
				best = max(best, float64(done)/took.Seconds())
				break
			}
			if err := ctx.Err(); err != nil {
				return 0, err
			}
		}
	}
	return best, nil
}

// score weighs reading and writing alike.
func (r BenchmarkRow) score() float64 { return math.Sqrt(r.Read * r.Write) }

// recommend takes the fastest setting of the source's usual cipher, the first
// row's, but a plainer one where that costs little: larger sectors before smaller
// ones, no flags before flags. Other ciphers are chosen for what they hide, not
// for speed.
func recommend(rows []BenchmarkRow) *BenchmarkRow {
	var best *BenchmarkRow
	usable := func(r BenchmarkRow) bool { return r.Problem == "" && r.Cipher == rows[0].Cipher }
	for _, r := range slices.Backward(rows) {
		if usable(r) && len(r.Flags) == 0 && (best == nil || r.score() > worthwhile*best.score()) {
			best = &r
		}
	}
	if best == nil {
		return nil
	}
	plain := *best
	for _, r := range rows {
		if usable(r) && len(r.Flags) > 0 && r.SectorSize == plain.SectorSize && r.score() > worthwhile*plain.score() && r.score() > best.score() {
			best = &r
		}
	}
	return best
}
