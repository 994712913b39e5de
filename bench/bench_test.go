// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/bench"
	"imxcrypt/caam/caamtest"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
	"imxcrypt/volume"
	"imxcrypt/volume/mapping"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

const mib = 1 << 20

func newBoard(disk volumetest.Store) *volumetest.Board {
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: disk})
	b.Directories = []string{"/data"}
	return b
}

func refused(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if fault.CodeOf(err) != code {
		t.Fatalf("expected code %s, got %s: %v", code, fault.CodeOf(err), err)
	}
}

func TestLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(2 * mib)
	b := newBoard(disk)
	rows := 0
	o := bench.Options{
		Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 3,
		Progress: func(bench.Row) { rows++ },
	}
	r, err := bench.Run(ctx, b.System(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != rows || r.Best == nil || r.Times == nil || r.Times.Keys != 3 {
		t.Errorf("%+v", r)
	}
	sizes, seen := map[int]bool{}, map[string]bool{}
	for _, row := range r.Rows {
		setting := fmt.Sprintf("%s %d %v", row.Cipher, row.SectorSize, row.Flags)
		if seen[setting] {
			t.Errorf("measured twice: %s", setting)
		}
		seen[setting] = true
		sizes[row.SectorSize] = true
		if row.Problem != "" || row.Write <= 0 || row.Read <= 0 {
			t.Errorf("%+v", row)
		}
	}
	for _, want := range []string{"capi:tk(cbc(aes))-plain64 512 []", "capi:tk(cbc(aes))-plain64 1024 [same_cpu_crypt]", "capi:tk(cbc(aes))-eboiv 4096 [submit_from_crypt_cpus]"} {
		if !seen[want] {
			t.Errorf("%s was not measured: %v", want, seen)
		}
	}
	if len(sizes) != 4 {
		t.Errorf("sector sizes: %v", sizes)
	}
	if !bytes.Equal(disk.Bytes(), make([]byte, 2*mib)) {
		t.Error("the device is not empty any more")
	}
	if b.Ring.Left() != 0 {
		t.Error("a key is left in a keyring")
	}
	s := spec.Volume{
		Name: "data", Mapping: "data", Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32,
		Cipher: "capi:tk(cbc(aes))-plain64", SectorSize: 4096, Header: spec.HeaderOnDevice, HeaderSize: mib / 2,
		Filesystem: spec.Filesystem{Type: "ext4", Label: "data"}, Mount: spec.Mount{Path: "/data"},
		StateDir: "/var/lib/imxcrypt",
	}
	if _, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{DryRun: true}); err != nil {
		t.Fatalf("%v (code %s)", err, fault.CodeOf(err))
	}

	for _, o.Source = range []string{spec.SourceTrusted, spec.SourceDev} {
		if r, err = bench.Run(ctx, b.System(), o); err != nil || r.Best == nil || (r.Times != nil) != (o.Source == spec.SourceTrusted) || b.Ring.Left() != 0 {
			t.Errorf("%s: %+v, %v", o.Source, r, err)
		}
	}
}

// auto is measured with what provisioning would choose, each cipher of trusted keys with
// keys of its own size.
func TestMeasuresWhatProvisioningWouldChoose(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(2 * mib))
	o := bench.Options{Device: "/dev/mmcblk2p3", Source: spec.SourceAuto, Each: time.Millisecond, Keys: 3}
	sys := b.System()
	run := func(want string) map[string]int {
		t.Helper()
		r, err := bench.Run(context.Background(), sys, o)
		if err != nil || r.Best == nil || r.Source != want || r.Why == "" || r.Times == nil || r.Times.Keys != o.Keys || b.Ring.Left() != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		sizes := map[string]int{}
		for _, row := range r.Rows {
			if row.Problem != "" {
				t.Errorf("%+v", row)
			}
			sizes[row.Cipher] = row.KeySize
		}
		return sizes
	}
	run(spec.SourceCAAM)
	sys.Chip = func() (source.Chip, error) { return nil, errors.New("no driver") }
	all := map[string]int{"aes-xts-plain64": 64, keysource.Adiantum: 32, "aes-cbc-essiv:sha256": 32}
	if got := run(spec.SourceTrusted); !maps.Equal(got, all) {
		t.Errorf("measured %v", got)
	}
	o.KeySize = 64
	if got := run(spec.SourceTrusted); !maps.Equal(got, map[string]int{"aes-xts-plain64": 64}) {
		t.Errorf("keys of 64 bytes: %v", got)
	}
	o.KeySize = 0
	b.NoCiphers = []string{"xts(aes)"}
	r, err := bench.Run(context.Background(), sys, o)
	if err != nil || r.Best == nil || r.Best.Cipher != keysource.Adiantum || r.Rows[0].Problem == "" || r.Rows[1].Cipher != keysource.Adiantum {
		t.Errorf("a kernel without XTS: %+v, %v", r, err)
	}
	b.NoCiphers = []string{"xts(aes)", "adiantum(xchacha12,aes)", "cbc(aes)"}
	_, err = bench.Run(context.Background(), sys, o)
	refused(t, err, fault.SoftCipherMissing)
	for _, wrong := range []bench.Options{{Source: spec.SourceAuto, KeySize: 48}, {Source: spec.SourceAuto, KeySize: 64, Wrap: "ecb"}, {Source: spec.SourceTrusted, KeySize: 16}} {
		wrong.Device, wrong.Each, wrong.Keys = o.Device, o.Each, o.Keys
		if _, err := bench.Run(context.Background(), sys, wrong); fault.ExitOf(err) != fault.ExitUsage {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// What a killed benchmark left does not get in the way.
func TestAfterAKilledOne(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(16 * mib))
	uuid := dmcrypt.HelperUUID("00000000-0000-4000-8000-0000000be9c4", "imxcrypt:bench")
	table := dmcrypt.Table{dmcrypt.Linear{Length: 8, Device: dmcrypt.Number{Major: 179, Minor: 8}}}
	if _, err := b.DM.Activate(context.Background(), "imxcrypt:bench", uuid, table, false); err != nil {
		t.Fatal(err)
	}
	r, err := bench.Run(context.Background(), b.System(), bench.Options{
		Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	if err != nil || r.Best == nil || b.DM.State() != "" {
		t.Errorf("%+v, %v\n%s", r, err, b.DM.State())
	}
}

func TestTouchesNoData(t *testing.T) {
	t.Parallel()
	disk := crashtest.NewImage(2 * mib)
	if _, err := disk.WriteAt([]byte("somebody's data"), mib); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(disk.Bytes())
	_, err := bench.Run(context.Background(), newBoard(disk).System(), bench.Options{
		Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	refused(t, err, fault.NotEmpty)
	if !bytes.Equal(disk.Bytes(), before) {
		t.Error("the device was written to")
	}
}

// A failure that every setting would have is reported once, as an error.
func TestWithoutDeviceMapper(t *testing.T) {
	t.Parallel()
	s := newBoard(crashtest.NewImage(2 * mib)).System()
	s.Mapper = noMapper{s.Mapper}
	r, err := bench.Run(context.Background(), s, bench.Options{
		Device: "/dev/mmcblk2p3", Source: spec.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	refused(t, err, fault.DMMissing)
	if len(r.Rows) > 0 {
		t.Errorf("%+v", r.Rows)
	}
}

// noMapper is a kernel without device-mapper.
type noMapper struct{ mapping.Mapper }

func (noMapper) Activate(context.Context, string, string, dmcrypt.Table, bool) (n dmcrypt.Number, _ error) {
	return n, &dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrNoDeviceMapper, Err: unix.ENOENT}
}

func (noMapper) Info(string) (dmcrypt.Info, error) {
	return dmcrypt.Info{}, &dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrNoDeviceMapper, Err: unix.ENOENT}
}
