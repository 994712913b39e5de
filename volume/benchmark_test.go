// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

func TestBenchmarkLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	disk := crashtest.NewImage(2 * mib)
	b := newBoard(disk)
	rows := 0
	o := volume.BenchmarkOptions{
		Device: "/dev/mmcblk2p3", Source: volume.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 3,
		Progress: func(volume.BenchmarkRow) { rows++ },
	}
	r, err := b.Manager().Benchmark(ctx, o)
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
	p, err := b.Manager().Provision(ctx, func() volume.Spec { s := spec(); s.HeaderSize, s.Gap = mib/2, 0; return s }(), volume.ProvisionOptions{DryRun: true})
	must(t, p, err)

	o.Source, o.KeySize = volume.SourceDev, 64
	if r, err = b.Manager().Benchmark(ctx, o); err != nil || r.Times != nil || r.Best == nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// What a benchmark that was killed left is in nobody's way.
func TestBenchmarkAfterAKilledOne(t *testing.T) {
	t.Parallel()
	b := newBoard(crashtest.NewImage(16 * mib))
	mapForeign(t, b, "imxcrypt:bench", dmcrypt.HelperUUID("00000000-0000-4000-8000-0000000be9c4", "imxcrypt:bench"))
	r, err := b.Manager().Benchmark(context.Background(), volume.BenchmarkOptions{
		Device: "/dev/mmcblk2p3", Source: volume.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	if err != nil || r.Best == nil || b.DM.State() != "" {
		t.Errorf("%+v, %v\n%s", r, err, b.DM.State())
	}
}

func TestBenchmarkTouchesNoData(t *testing.T) {
	t.Parallel()
	disk := crashtest.NewImage(2 * mib)
	if _, err := disk.WriteAt([]byte("somebody's data"), mib); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(disk.Bytes())
	_, err := newBoard(disk).Manager().Benchmark(context.Background(), volume.BenchmarkOptions{
		Device: "/dev/mmcblk2p3", Source: volume.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	refused(t, err, fault.NotEmpty)
	if !bytes.Equal(disk.Bytes(), before) {
		t.Error("the device was written to")
	}
}

// What every setting would fail with is told once, as the error that it is.
func TestBenchmarkWithoutDeviceMapper(t *testing.T) {
	t.Parallel()
	s := newBoard(crashtest.NewImage(2 * mib)).System()
	s.Mapper = noMapper{s.Mapper}
	r, err := volume.New(s).Benchmark(context.Background(), volume.BenchmarkOptions{
		Device: "/dev/mmcblk2p3", Source: volume.SourceCAAM, Wrap: "ccm", KeySize: 32, Each: time.Millisecond, Keys: 1,
	})
	refused(t, err, fault.DMMissing)
	if len(r.Rows) > 0 {
		t.Errorf("%+v", r.Rows)
	}
}

// noMapper is a kernel without device-mapper.
type noMapper struct{ volume.Mapper }

func (noMapper) Activate(context.Context, string, string, dmcrypt.Table, bool) (n dmcrypt.Number, _ error) {
	return n, &dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrNoDeviceMapper, Err: unix.ENOENT}
}

func (noMapper) Info(string) (dmcrypt.Info, error) {
	return dmcrypt.Info{}, &dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrNoDeviceMapper, Err: unix.ENOENT}
}
