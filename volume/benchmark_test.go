// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"testing"
	"time"

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
	sizes := map[int]bool{}
	for _, row := range r.Rows {
		sizes[row.SectorSize] = true
		if row.Problem != "" || row.Write <= 0 || row.Read <= 0 {
			t.Errorf("%+v", row)
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
