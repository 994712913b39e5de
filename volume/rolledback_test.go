// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// mountedOnce writes into the superblock what a kernel writes at a mount.
func mountedOnce(t *testing.T, b *volumetest.Board) {
	t.Helper()
	f, err := b.Mapping("data", true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	if _, err := f.ReadAt(block, 0); err != nil {
		t.Fatal(err)
	}
	sb := block[1024:2048]
	binary.LittleEndian.PutUint32(sb[0x2c:], 1_700_000_000) // s_mtime
	binary.LittleEndian.PutUint32(sb[0x3fc:], ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := f.WriteAt(block, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Someone restores the header from the time when the volume was being provisioned:
// provision does not format what has been in use since.
func TestAnOldHeaderOfProvisioningFormatsNothing(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	id := newIdentity(t)
	for name, s := range bothPlacements() {
		for _, recipients := range [][]string{nil, {id.Recipient().String()}} {
			t.Run(name, func(t *testing.T) {
				disk, files := crashtest.NewImage(16*mib), crashtest.NewImage(volumetest.FilesSize)
				b := newBoard(disk)
				b = boardOver(b.Chip, disk, files)
				// The image that holds the header.
				holder := disk
				if s.Detached() {
					holder = files
				}
				var old []byte
				r, err := b.Manager().Provision(ctx, s, volume.ProvisionOptions{Recipients: recipients, Progress: func(st volume.Step) {
					if st.What == "ext4 made" {
						old = holder.Bytes()
					}
				}})
				must(t, r, err)
				put(t, b, "the quick brown fox")
				mountedOnce(t, b)
				r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
				must(t, r, err)
				current := holder.Bytes()
				header := old
				if !s.Detached() {
					header = old[:mib] // not the data
				}
				write(holder, header, 0)
				before := disk.Bytes()

				b = powerCycle(b)
				_, err = b.Manager().Provision(ctx, s, volume.ProvisionOptions{Recipients: recipients})
				refused(t, err, fault.HeaderRolledBack)
				if len(b.Made()) > 0 || !bytes.Equal(before, disk.Bytes()) {
					t.Fatal("something was written")
				}
				_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				refused(t, err, fault.ProvisioningStarted)

				write(holder, current[:len(header)], 0)
				hasItsData(t, powerCycle(b), s)
			})
		}
	}
}

// The data moves by more than its own length. The superblock that it left is overwritten
// all the same, and does not make an older header look good.
func TestAnOlderHeaderAfterALongMove(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := rotationSpec(20 * mib)
	disk, files := rotationDisk(s), crashtest.NewImage(volumetest.FilesSize)
	b := boardOver(caamtest.RandomChip(), disk, files)
	fill(t, s, b)
	r, err := b.Manager().BackupHeader(ctx, s, backupFile)
	must(t, r, err)
	rr, err := b.Manager().Rotate(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	r, err = b.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	was := everything(t, b, disk)
	_, err = b.Manager().RestoreHeader(ctx, s, backupFile, volume.RestoreOptions{Confirm: confirmed, Force: true})
	if refused(t, err, fault.RollbackRefused); everything(t, b, disk) != was {
		t.Fatal("something was written")
	}
	old, err := b.Files.Read(backupFile, readAll())
	if err != nil {
		t.Fatal(err)
	}
	write(disk, old, 0)
	if _, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{}); err == nil {
		t.Fatal("an older header opens the volume")
	}
}

// Someone puts the file of a header back as it was a few zones ago. Continuing from there
// would encrypt the zones in between twice.
func TestAnOldRecordOfProgressIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for what, run := range map[string]func(context.Context, *volume.Manager, volume.RotateOptions) error{
		"rotate": func(ctx context.Context, m *volume.Manager, o volume.RotateOptions) error {
			_, err := m.Rotate(ctx, encryptSpec(), o)
			return err
		},
		"encrypt": func(ctx context.Context, m *volume.Manager, o volume.RotateOptions) error {
			_, err := m.Encrypt(ctx, encryptSpec(), o)
			return err
		},
	} {
		for _, zones := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, after %d zones", what, zones), func(t *testing.T) {
				t.Parallel()
				s := encryptSpec()
				r := toBeMoved(t, s, what == "rotate")
				b := boardOver(r.chip, r.disk, r.files)
				move := func(zones int) {
					if zones == 0 {
						if err := run(ctx, b.Manager(), volume.RotateOptions{InitOnly: true}); err != nil {
							t.Fatal(err)
						}
						return
					}
					inPlaceUntil(t, zones, func(ctx context.Context, o volume.RotateOptions) error { return run(ctx, b.Manager(), o) })
				}
				move(zones)
				old := headerArea(t, b, s)
				move(2)
				newest := headerArea(t, b, s)
				b = powerCycle(b)
				putHeader(t, b, s, old)
				before := snapshot(t, b, r.disk)
				// From before the first zone, other evidence is found first.
				for name, err := range map[string]error{
					"unlock": second(b.Manager().Unlock(ctx, s, volume.UnlockOptions{})),
					what:     run(ctx, b.Manager(), volume.RotateOptions{}),
				} {
					if err == nil || zones > 0 && !fault.Is(err, fault.HeaderRolledBack) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if names := differs(before, snapshot(t, b, r.disk)); len(names) > 0 {
					t.Errorf("changed: %q", names)
				}
				putHeader(t, b, s, newest)
				if err := run(ctx, b.Manager(), volume.RotateOptions{}); err != nil {
					t.Fatal(err)
				}
				u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				must(t, u, err)
				same(t, "the data", content(t, b), r.plain)
			})
		}
	}
}

// Someone puts back the header from before a decryption, half-way through it, where the key
// may still show the filesystem. The record in state_dir knows that header.
func TestTheHeaderOfBeforeADecryptionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, s := range allPlainCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := toBeMoved(t, s, true)
			b := boardOver(r.chip, r.disk, r.files)
			old := headerArea(t, b, s)
			decryptPart(t, b, s)
			newest := headerArea(t, b, s)
			b = powerCycle(b)
			putHeader(t, b, s, old)
			before := snapshot(t, b, r.disk)
			for name, err := range map[string]error{
				"unlock":     second(b.Manager().Unlock(ctx, s, volume.UnlockOptions{})),
				"for repair": second(b.Manager().Unlock(ctx, s, volume.UnlockOptions{ForRepair: true})),
				"rotate":     second(b.Manager().Rotate(ctx, s, volume.RotateOptions{})),
				"decrypt":    second(b.Manager().Decrypt(ctx, s, volume.RotateOptions{})),
			} {
				if !fault.Is(err, fault.HeaderRolledBack) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if names := differs(before, snapshot(t, b, r.disk)); len(names) > 0 {
				t.Errorf("changed: %q", names)
			}
			putHeader(t, b, s, newest)
			rr, err := b.Manager().Decrypt(ctx, s, volume.RotateOptions{})
			must(t, rr.Result, err)
			same(t, "decrypted", r.disk.Bytes()[:len(r.plain)], r.plain)
		})
	}
}

// headerArea returns the header area as it is stored.
func headerArea(t *testing.T, b *volumetest.Board, s spec.Volume) []byte {
	t.Helper()
	st := openedStorage(t, b, s)
	area := make([]byte, min(s.HeaderSize, st.Header.Size()))
	if _, err := st.Header.ReadAt(area, 0); err != nil {
		t.Fatal(err)
	}
	return area
}

// putHeader puts a header area back.
func putHeader(t *testing.T, b *volumetest.Board, s spec.Volume, area []byte) {
	t.Helper()
	if !s.Detached() {
		write(b.Disks[0].Store, area, 0)
	} else if err := b.Files.Replace(s.Header, area, 0o600); err != nil {
		t.Fatal(err)
	}
}

// zeroing is a store with a program that writes zeros to a block just after it is read.
type zeroing struct {
	volumetest.Store
	at   int64
	once sync.Once
}

func (z *zeroing) ReadAt(p []byte, off int64) (int, error) {
	n, err := z.Store.ReadAt(p, off)
	if off <= z.at && z.at+header.BlockAlign <= off+int64(n) {
		z.once.Do(func() { _, err = z.Store.WriteAt(make([]byte, header.BlockAlign), z.at) })
	}
	return n, err
}

// A program writes zeros, which CBC makes a pattern of, over what looked like noise while
// it is looked at through the new key: that does not make the record an old one.
func TestAWriteWhileTheDataAheadIsLookedAt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s := encryptSpec()
	r := toBeMoved(t, s, false)
	z := &zeroing{at: mib/2 + 5*header.BlockAlign}                                   // where no header is looked for
	_, _ = rand.NewChaCha8([32]byte{6}).Read(r.plain[z.at : z.at+header.BlockAlign]) // never fails
	write(r.disk, r.plain[z.at:z.at+header.BlockAlign], z.at)
	b := boardOver(r.chip, r.disk, r.files)
	rr, err := b.Manager().Encrypt(ctx, s, volume.RotateOptions{InitOnly: true})
	must(t, rr.Result, err)
	z.Store = b.Disks[0].Store
	b.Disks[0].Store = z
	rr, err = b.Manager().Encrypt(ctx, s, volume.RotateOptions{})
	must(t, rr.Result, err)
	clear(r.plain[z.at : z.at+header.BlockAlign])
	u, err := b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	must(t, u, err)
	same(t, "the data", content(t, b), r.plain)
}
