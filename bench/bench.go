// SPDX-License-Identifier: Apache-2.0

// Package bench measures how fast a board makes and imports keys, and what dm-crypt
// reaches with each setting that a volume may have.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
)

// Options says what is measured.
type Options struct {
	// Device is an empty block device; its first MiB are written to, and are
	// zeros again afterwards.
	Device string
	// Source is SourceCAAM or SourceTrusted, SourceAuto for the one that provisioning
	// would choose, or SourceDev for ciphers in software.
	Source string
	// Wrap and KeySize (bytes) are those of the keys that are made. If empty, keys of the
	// CAAM are wrapped with ccm, and each cipher has its usual key size; otherwise both
	// narrow what SourceAuto stands for.
	Wrap    string
	KeySize int
	// Each is how long reading and writing are measured for each setting.
	Each time.Duration
	// Keys is how many keys are made and imported.
	Keys int
	// Progress is called for each row once it is measured.
	Progress func(Row)
}

// Row is one setting of dm-crypt and its speed.
type Row struct {
	Cipher     string   `json:"cipher"`
	KeySize    int      `json:"key_size"`
	SectorSize int      `json:"sector_size"`
	Flags      []string `json:"crypt_flags"`
	// Write and Read are in bytes per second.
	Write float64 `json:"write_bytes_per_second"`
	Read  float64 `json:"read_bytes_per_second"`
	// slowWrite and slowRead are from the slowest parts of the two measurements.
	slowWrite, slowRead float64
	// Problem says why the setting could not be measured.
	Problem string `json:"problem,omitempty"`
}

// KeyTimes are the times of the key hardware.
type KeyTimes struct {
	Keys   int             `json:"keys"`
	Create volume.Duration `json:"create_median_ms"`
	Import volume.Duration `json:"import_median_ms"`
}

// Result is a whole benchmark.
type Result struct {
	// Source is the source that was measured, and Why is why SourceAuto chose it.
	Source string `json:"source"`
	Why    string `json:"why,omitempty"`
	// Times is nil for SourceDev; otherwise it is for keys of the first cipher's size.
	Times *KeyTimes `json:"key_times"`
	Rows  []Row     `json:"rows"`
	// Best is the setting for the configuration; nil if none could be measured.
	Best *Row `json:"best"`
}

const (
	name = "imxcrypt:bench"
	// No volume has it. device-mapper needs one, and it marks a leftover as ours.
	uuid        = "00000000-0000-4000-8000-0000000be9c4"
	span        = 16 * header.MiB
	requestSize = 256 * header.KiB
	// worthwhile is how much faster a setting must be before it is recommended
	// over a plainer one.
	worthwhile = 1.1
)

// benchmark is one run.
type benchmark struct {
	volume.System
	Options
}

// Run measures how fast keys are made and imported, and what dm-crypt reaches with
// each setting that a volume may have.
func Run(ctx context.Context, sys volume.System, o Options) (_ Result, err error) {
	b := benchmark{sys.WithDefaults(), o}
	var result Result
	if o.Each <= 0 || o.Keys <= 0 {
		return result, fault.Newf(fault.Usage, "a benchmark needs a time and a number of keys above 0")
	}
	release, err := b.Locks.Acquire(ctx, "bench")
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := b.removeLeftover(ctx); err != nil {
		return result, err
	}
	if err := b.choose(&result); err != nil {
		return result, err
	}
	rows := settings(b.Source, b.KeySize)
	if len(rows) == 0 {
		return result, fault.Newf(fault.Usage, "no cipher of source %s has keys of %d bytes", b.Source, b.KeySize)
	}
	dev, size, err := b.scratch()
	if err != nil {
		return result, err
	}
	keys := map[int]source.Key{} // by their size
	defer func() {
		for _, key := range keys {
			key.Wipe()
		}
	}()
	for _, row := range rows {
		if keys[row.KeySize] != nil {
			continue
		}
		if keys[row.KeySize], err = b.makeKey(ctx, row.KeySize, &result); err != nil {
			delete(keys, row.KeySize)
			return result, err
		}
	}
	written := false
	defer func() {
		if written {
			err = errors.Join(err, b.clean(size))
		}
	}()
	refused := map[string]bool{} // flags and ciphers, reported once
	var missing error
	for _, row := range rows {
		if err := ctx.Err(); err != nil {
			return result, fault.New(fault.Interrupted, "stopped on request", err)
		}
		flags := strings.Join(row.Flags, " ")
		if refused[flags] || refused[row.Cipher] {
			continue
		}
		if err := b.measure(ctx, &row, dev, size, keys[row.KeySize], &written); err != nil {
			if len(result.Rows) == 0 && nothingWorks(err) {
				return result, err
			}
			row.Problem = err.Error()
			switch {
			case fault.Is(err, fault.SoftCipherMissing):
				refused[row.Cipher] = true
				missing = cmp.Or(missing, err)
			case len(row.Flags) > 0 && errors.Is(err, unix.EINVAL):
				row.Problem = "this kernel's dm-crypt does not take these flags"
				refused[flags] = true
			}
		}
		result.Rows = append(result.Rows, row)
		if o.Progress != nil {
			o.Progress(row)
		}
	}
	// A key size given by the caller may leave other ciphers than the source's usual
	// ones.
	result.Best = recommend(result.Rows, append(keysource.Defaults(b.Source), rows[0].Cipher))
	if result.Best == nil {
		return result, missing
	}
	return result, nil
}

// choose determines which source is measured.
func (b *benchmark) choose(result *Result) error {
	if b.Source == spec.SourceAuto {
		s := spec.Volume{Source: b.Source, Wrap: b.Wrap, KeySize: b.KeySize}
		if err := s.Permitted(); err != nil {
			return err
		}
		choice, err := source.Sources{Chip: b.Chip, Keyring: b.Keyring}.Choose(s)
		if err != nil {
			return err
		}
		b.Source, result.Why = choice.Source, choice.Why
	}
	b.Wrap = cmp.Or(b.Wrap, string(caam.CCM))
	result.Source = b.Source
	return nil
}

// removeLeftover removes what a killed benchmark left. The lock is held, so nothing uses
// it.
func (b benchmark) removeLeftover(ctx context.Context) error {
	info, err := b.Mapper.Info(name)
	if err != nil || info.UUID != dmcrypt.HelperUUID(uuid, name) {
		return nil // the first measurement reports what is wrong
	}
	return b.Mapper.Remove(ctx, name)
}

// nothingWorks reports whether every other setting would fail in the same way: all of the
// CAAM's ciphers need the same driver, while ciphers in software are separate modules.
func nothingWorks(err error) bool {
	switch fault.CodeOf(err) {
	case fault.DMMissing, fault.DMCryptMissing, fault.CipherMissing, fault.KeyringMissing, fault.PermissionMissing:
		return true
	}
	return false
}

// settings lists all settings that a volume of a source may have, with keys of keySize,
// or of each cipher's usual size if that is 0. It leaves out plain, which is plain64 by
// another name; CBC with plain64 for trusted keys, which no new volume should have; and
// for the CAAM the flags no_read_workqueue and no_write_workqueue, which have not been
// tried with its driver, which answers later.
func settings(source string, keySize int) []Row {
	flags := [][]string{{}, {"same_cpu_crypt"}, {"submit_from_crypt_cpus"}, {"same_cpu_crypt", "submit_from_crypt_cpus"}, {"high_priority"}}
	if source != spec.SourceCAAM {
		flags = append(flags, []string{"no_read_workqueue", "no_write_workqueue"})
	}
	var rows []Row
	for _, c := range keysource.Ciphers(source) {
		n := cmp.Or(keySize, c.KeySizes[len(c.KeySizes)-1])
		if strings.HasSuffix(c.Name, "-plain") || source == spec.SourceTrusted && c.Name == keysource.CBC || !slices.Contains(c.KeySizes, n) {
			continue
		}
		for _, size := range keysource.SectorSizes() {
			if !keysource.FitsSector(c.Name, size) {
				continue
			}
			for _, f := range flags {
				rows = append(rows, Row{Cipher: c.Name, KeySize: n, SectorSize: size, Flags: slices.Clone(f)})
			}
		}
	}
	return rows
}

// scratch checks that the device is unused and empty.
func (b benchmark) scratch() (n blockdev.Number, size int64, err error) {
	dev, err := b.Devices.Open(b.Device, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return n, 0, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	// Read everything that will be written to, and samples of the rest.
	for _, end := range []int64{min(dev.Size(), span), dev.Size()} {
		e, err := blockdev.Sample(dev, end)
		if err != nil {
			return n, 0, fault.New(fault.IOFailed, "read "+b.Device, err)
		}
		if !e.Empty {
			return n, 0, fault.Newf(fault.NotEmpty, "%s is not empty: data at byte %d", b.Device, e.Offset)
		}
	}
	size = min(dev.Size(), span) / requestSize * requestSize
	if size == 0 {
		return n, 0, fault.Newf(fault.DeviceUnsuitable, "%s has %d KiB, a benchmark needs at least %d KiB", b.Device, dev.Size()/header.KiB, requestSize/header.KiB)
	}
	return dev.Number(), size, nil
}

// clean makes the device empty again.
func (b benchmark) clean(size int64) error {
	dev, err := b.Devices.Open(b.Device, blockdev.Flags{Write: true, Exclusive: true, Direct: true})
	if err != nil {
		return err
	}
	return errors.Join(blockdev.Zero(context.Background(), dev, 0, size), dev.Flush(), dev.Close())
}

// makeKey makes keys of a size and opens them again, and returns one to encrypt with. The
// first size that it is called with is timed, over many keys.
func (b benchmark) makeKey(ctx context.Context, size int, result *Result) (source.Key, error) {
	if b.Source == spec.SourceDev {
		buf, err := secret.New(size)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(b.Rand, buf.Bytes()); err != nil {
			buf.Wipe()
			return nil, fmt.Errorf("draw a key: %w", err)
		}
		return source.NewLogonKey(buf, b.Keyring), nil
	}
	n := b.Keys
	if result.Times != nil {
		n = 1
	}
	if b.Source == spec.SourceTrusted {
		return b.makeTrusted(ctx, size, n, result)
	}
	chip, err := b.Chip()
	if err != nil {
		return nil, err
	}
	var created, imported []time.Duration
	var blob caam.Blob
	for range n {
		began := b.Now()
		black, sealed, err := chip.Create(ctx, caam.Wrap(b.Wrap), size)
		if err != nil {
			return nil, err
		}
		created = append(created, b.Now().Sub(began))
		black.Wipe()
		blob = sealed
	}
	var key *caam.BlackKey
	for range n {
		if key != nil {
			key.Wipe()
		}
		began := b.Now()
		if key, err = chip.Import(ctx, blob); err != nil {
			return nil, err
		}
		imported = append(imported, b.Now().Sub(began))
	}
	result.timed(created, imported)
	return source.NewBlackKey(key, b.Keyring), nil
}

// makeTrusted is makeKey for trusted keys, which hold nothing that must be wiped.
func (b benchmark) makeTrusted(ctx context.Context, size, n int, result *Result) (key source.Key, err error) {
	src, err := source.Sources{Keyring: b.Keyring}.Of(spec.Volume{Source: b.Source, Cipher: keysource.CipherNames(b.Source)[0]})
	if err != nil {
		return nil, err
	}
	r := source.Request{UUID: uuid, Generation: 1, KeySize: size}
	var created, opened []time.Duration
	var blob []byte
	for range n {
		began := b.Now()
		if _, blob, err = src.Create(ctx, r); err != nil {
			return nil, err
		}
		created = append(created, b.Now().Sub(began))
	}
	for range n {
		began := b.Now()
		if key, err = src.Open(ctx, r, blob); err != nil {
			return nil, err
		}
		opened = append(opened, b.Now().Sub(began))
	}
	result.timed(created, opened)
	return key, nil
}

// timed records the times of the first keys.
func (r *Result) timed(created, imported []time.Duration) {
	if r.Times == nil {
		r.Times = &KeyTimes{Keys: len(created), Create: volume.Duration(median(created)), Import: volume.Duration(median(imported))}
	}
}

func median(all []time.Duration) time.Duration {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all[len(all)/2]
}

// measure writes and reads through one mapping. written is set before the first write.
func (b benchmark) measure(ctx context.Context, row *Row, n blockdev.Number, size int64, key source.Key, written *bool) error {
	options, err := dmcrypt.CryptOptions(row.SectorSize, row.Flags...)
	if err != nil {
		return err
	}
	table := func(ref dmcrypt.KeyRef) (dmcrypt.Table, error) {
		return dmcrypt.Table{dmcrypt.Crypt{
			Length: uint64(size / header.SectorBytes), Cipher: dmcrypt.Cipher(row.Cipher), Key: ref,
			Device: n, Options: options,
		}}, nil
	}
	return mapping.Kernel{Devices: b.Devices, Mapper: b.Mapper}.WithPrivate(ctx, name, uuid, 1, key, false, table, func(a *mapping.Private) error {
		return mapping.WithDevice(a, true, func(dev header.Device) error {
			return b.measureOn(ctx, row, dev, size, written)
		})
	})
}

// measureOn is measure on the mapped device.
func (b benchmark) measureOn(ctx context.Context, row *Row, dev header.Device, size int64, written *bool) (err error) {
	buf := make([]byte, requestSize)
	if _, err := io.ReadFull(b.Rand, buf); err != nil {
		return err
	}
	*written = true
	if row.Write, row.slowWrite, err = b.throughput(ctx, dev.WriteAt, buf, size); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := dev.Flush(); err != nil {
		return err
	}
	if row.Read, row.slowRead, err = b.throughput(ctx, dev.ReadAt, buf, size); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// parts is how many parts a measurement has. The fastest one counts: other activity can
// only make a part slower.
const parts = 3

// throughput returns bytes per second, with one request of len(buf) at a time, round and
// round over the device.
func (b benchmark) throughput(ctx context.Context, do func([]byte, int64) (int, error), buf []byte, size int64) (best, slowest float64, err error) {
	at := int64(0)
	slowest = math.Inf(1)
	for range parts {
		for began, done := b.Now(), 0; ; {
			if _, err := do(buf, at); err != nil {
				return 0, 0, err
			}
			done += len(buf)
			if at += int64(len(buf)); at >= size {
				at = 0
			}
			if took := b.Now().Sub(began); took >= b.Each/parts {
				speed := float64(done) / took.Seconds()
				best, slowest = max(best, speed), min(slowest, speed)
				break
			}
			if err := ctx.Err(); err != nil {
				return 0, 0, err
			}
		}
	}
	return best, slowest, nil
}

// score weighs reading and writing equally.
func (r Row) score() float64 { return math.Sqrt(r.Read * r.Write) }

// beats reports whether a setting is worth choosing over a plainer one: it is faster by
// more than the measurements of it vary.
func (r Row) beats(plainer Row) bool {
	return r.score() > worthwhile*plainer.score() && math.Sqrt(r.slowRead*r.slowWrite) > plainer.score()
}

// recommend returns the best setting of the first of the ciphers that could be measured,
// or of a later one if that is worth it. Ciphers that are not among them are chosen for
// what they hide, not for speed.
func recommend(rows []Row, ciphers []string) *Row {
	var best *Row
	for _, cipher := range ciphers {
		if r := recommendFor(rows, cipher); r != nil && (best == nil || r.beats(*best)) {
			best = r
		}
	}
	return best
}

// recommendFor returns the fastest setting of a cipher, or a plainer one if that costs
// little: larger sectors before smaller ones, no flags before flags.
func recommendFor(rows []Row, cipher string) *Row {
	var best *Row
	usable := func(r Row) bool { return r.Problem == "" && r.Cipher == cipher }
	for _, r := range slices.Backward(rows) {
		if usable(r) && len(r.Flags) == 0 && (best == nil || r.beats(*best)) {
			best = &r
		}
	}
	if best == nil {
		return nil
	}
	plain := *best
	for _, r := range rows {
		if usable(r) && len(r.Flags) > 0 && r.SectorSize == plain.SectorSize && r.beats(plain) && r.score() > best.score() {
			best = &r
		}
	}
	return best
}
