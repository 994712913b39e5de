// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// change is a configuration before and after a change.
type change struct{ from, to spec.Volume }

func changes() map[string]change {
	small := rotationSpec(rotationGap)
	small.SectorSize = 512
	ecb := small
	ecb.Wrap, ecb.KeySize, ecb.Cipher = "ecb", 16, "capi:tk(cbc(aes))-plain"
	dev := rotationCases()["dev"]
	devCBC := dev
	devCBC.Cipher, devCBC.KeySize, devCBC.SectorSize = "aes-cbc-plain64", 32, 512
	detached := rotationCases()["detached"]
	detachedSmall := detached
	detachedSmall.SectorSize, detachedSmall.Cipher = 512, "capi:tk(cbc(aes))-plain"
	trusted := trustedFrom(rotationSpec(rotationGap))
	devLeaving := trusted
	devLeaving.AllowInsecure = true
	detachedTrusted := trustedFrom(detached)
	journalTrusted := trustedFrom(rotationSpec(0))
	journal := rotationSpec(0)
	journalSmall := journal
	journalSmall.SectorSize = 1024
	return map[string]change{
		"larger sectors":                   {small, rotationSpec(rotationGap)},
		"smaller sectors":                  {rotationSpec(rotationGap), small},
		"everything, to the better":        {ecb, rotationSpec(rotationGap)},
		"everything, to the worse":         {rotationSpec(rotationGap), ecb},
		"dev":                              {devCBC, dev},
		"detached":                         {detachedSmall, detached},
		"larger sectors without a gap":     {journalSmall, journal},
		"caam to trusted":                  {rotationSpec(rotationGap), trusted},
		"caam to trusted, detached":        {detached, detachedTrusted},
		"caam to trusted without a gap":    {rotationSpec(0), journalTrusted},
		"ecb to trusted":                   {ecb, trusted},
		"trusted to caam":                  {trusted, rotationSpec(rotationGap)},
		"dev to trusted":                   {dev, devLeaving},
		"trusted to protected":             {trusted, protectedFrom(rotationSpec(rotationGap))},
		"protected to trusted, detached":   {protectedFrom(detached), detachedTrusted},
		"caam to protected":                {rotationSpec(rotationGap), protectedFrom(rotationSpec(rotationGap))},
		"a smaller key, the rest as it is": {rotationSpec(rotationGap), ecb128()},
	}
}

// trustedFrom returns a configuration with trusted keys instead of its own.
func trustedFrom(s spec.Volume) spec.Volume {
	s.Source, s.Wrap, s.Cipher, s.KeySize = spec.SourceTrusted, "", "aes-xts-plain64", 64
	return s
}

func ecb128() spec.Volume {
	s := rotationSpec(rotationGap)
	s.KeySize = 16
	return s
}

// A rotation makes the volume as the configuration now says. Before it has begun nothing
// else opens the volume with that configuration. Half-way and afterwards it opens.
func TestRotationChangesTheVolume(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range changes() {
		for _, live := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", in use"}[live], func(t *testing.T) {
				t.Parallel()
				b, want := filled(t, c.from, rotationDisk(c.from))
				if !live {
					r, err := b.Manager().Lock(ctx, c.from, volume.LockOptions{})
					must(t, r, err)
					_, err = b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{})
					refused(t, err, fault.HeaderMismatch)
					if !strings.Contains(err.Error(), "imxcrypt rotate data") {
						t.Errorf("no way out is named: %v", err)
					}
				}
				rotateUntil(t, b, c.to, 3)
				_, err := b.Manager().Unlock(ctx, c.from, volume.UnlockOptions{})
				refused(t, err, fault.HeaderMismatch)
				b = powerCycle(b)
				r, err := b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				same(t, "half-way", content(t, b), want)
				if st := b.Manager().Status(ctx, c.to); st.Err != nil || st.Rotation == nil {
					t.Fatalf("%+v", st)
				}
				if !live {
					r, err := b.Manager().Lock(ctx, c.to, volume.LockOptions{})
					must(t, r, err)
				}
				rr, err := b.Manager().Rotate(ctx, c.to, volume.RotateOptions{})
				must(t, rr.Result, err)
				b = powerCycle(b)
				r, err = b.Manager().Unlock(ctx, c.to, volume.UnlockOptions{Mount: true})
				must(t, r, err)
				same(t, "afterwards", content(t, b), want)
				if st := b.Manager().Status(ctx, c.to); st.Source != c.to.Source || st.Cipher != c.to.Cipher || st.SectorSize != c.to.SectorSize || st.KeySize != c.to.KeySize || st.Generation != 2 {
					t.Fatalf("%+v", st)
				}
			})
		}
	}
}

// What a rotation cannot change is refused, before anything is written.
func TestChangesThatARotationRefuses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	small := rotationSpec(rotationGap)
	small.SectorSize, small.Filesystem.Type, small.Mount.Path = 512, spec.FilesystemNone, ""
	noFilesystem := small
	noFilesystem.SectorSize = 4096
	foreign := rotationSpec(rotationGap)
	foreign.Cipher = "capi:tk(cbc(aes))-essiv:sha256"
	source := rotationCases()["dev"]
	notAllowed := trustedFrom(source)
	notAllowed.AllowInsecure = false
	for name, c := range map[string]struct {
		change
		code fault.Code
	}{
		"larger sectors under what is not known": {change{small, noFilesystem}, fault.SectorsRefused},
		"a cipher that a black key cannot have":  {change{rotationSpec(rotationGap), foreign}, fault.CipherNotAllowed},
		"to source dev":                          {change{rotationSpec(rotationGap), source}, fault.HeaderMismatch},
		"trusted to source dev":                  {change{trustedFrom(source), source}, fault.HeaderMismatch},
		"from source dev, not allowed any more":  {change{source, notAllowed}, fault.InsecureRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := crashtest.NewImage(rotationHeader + rotationGap + rotationData)
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, c.from, volume.ProvisionOptions{})
			must(t, r, err)
			r, err = b.Manager().Lock(ctx, c.from, volume.LockOptions{})
			must(t, r, err)
			before := disk.Bytes()
			for _, dry := range []bool{true, false} {
				_, err = b.Manager().Rotate(ctx, c.to, volume.RotateOptions{DryRun: dry})
				refused(t, err, c.code)
			}
			same(t, "refused", disk.Bytes(), before)
		})
	}
}

// A filesystem of small blocks keeps its small sectors, also in a dry run.
func TestSmallBlocksKeepSmallSectors(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	small := rotationSpec(rotationGap)
	small.SectorSize = 512
	for _, live := range []bool{false, true} {
		t.Run(map[bool]string{false: "locked", true: "in use"}[live], func(t *testing.T) {
			t.Parallel()
			filesystem := recordedFilesystem(t, "ext4-1k").Bytes()
			disk := crashtest.NewImage(rotationHeader + rotationGap + int64(len(filesystem)))
			b := newBoard(disk)
			r, err := b.Manager().Provision(ctx, small, volume.ProvisionOptions{})
			must(t, r, err)
			scrawl(t, b, filesystem, 0)
			r, err = b.Manager().Lock(ctx, small, volume.LockOptions{})
			must(t, r, err)
			if live {
				r, err = b.Manager().Unlock(ctx, small, volume.UnlockOptions{Mount: true})
				must(t, r, err)
			}
			before := disk.Bytes()
			for _, dry := range []bool{true, false} {
				_, err := b.Manager().Rotate(ctx, rotationSpec(rotationGap), volume.RotateOptions{DryRun: dry})
				refused(t, err, fault.SectorsRefused)
				if row, _ := fault.Lookup(fault.CodeOf(err)); row.Exit != fault.ExitRefused || !strings.Contains(err.Error(), "pieces of 1024 bytes") {
					t.Errorf("dry run %t: exit code %d: %v", dry, row.Exit, err)
				}
			}
			same(t, "refused", disk.Bytes(), before)
			rr, err := b.Manager().Rotate(ctx, small, volume.RotateOptions{})
			must(t, rr.Result, err)
		})
	}
}

// recordedFilesystem returns a disk with a filesystem that a mkfs program made:
// internal/fsprobe has the recordings.
func recordedFilesystem(t *testing.T, name string) *crashtest.Image {
	t.Helper()
	text, err := os.ReadFile("../internal/fsprobe/testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	var disk *crashtest.Image
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "size" {
			size, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			disk = crashtest.NewImage(size)
			continue
		}
		offset, err := strconv.ParseInt(key, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		row, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		write(disk, row, offset)
	}
	return disk
}
