// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"imxcrypt/caam"
	"imxcrypt/internal/crashtest"
	"imxcrypt/volume"
	"imxcrypt/volume/source"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// watchedChip remembers the black keys that it gave out.
type watchedChip struct {
	source.Chip
	mu     sync.Mutex
	keys   []*caam.BlackKey
	copies [][]byte
}

func (w *watchedChip) watch(k *caam.BlackKey, err error) {
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.keys = append(w.keys, k)
		w.copies = append(w.copies, bytes.Clone(k.Bytes()))
	}
}

func (w *watchedChip) Create(ctx context.Context, wrap caam.Wrap, size int) (*caam.BlackKey, caam.Blob, error) {
	k, b, err := w.Chip.Create(ctx, wrap, size)
	w.watch(k, err)
	return k, b, err
}

func (w *watchedChip) Import(ctx context.Context, blob caam.Blob) (*caam.BlackKey, error) {
	k, err := w.Chip.Import(ctx, blob)
	w.watch(k, err)
	return k, err
}

// shapes are the forms that a secret may leak in.
func shapes(secret []byte) [][]byte {
	body := secret[20:] // behind the tag, which is not secret
	return [][]byte{
		body, []byte(hex.EncodeToString(body)), []byte(base64.StdEncoding.EncodeToString(secret)),
		[]byte(base64.StdEncoding.EncodeToString(body)), []byte(fmt.Sprint(body)),
	}
}

// No black key is in anything that a run writes or says, whether it succeeds or fails at
// any change. Its memory is wiped, and no keyring has it.
func TestNoBlackKeyIsLeftAnywhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, wrap := range []string{"ccm", "ecb"} {
		s := changed(func(s *spec.Volume) { s.Wrap = wrap })
		for n := 1; ; n += 5 * stride("secrets") {
			var said bytes.Buffer
			im, files := crashtest.NewImage(lifeDisk), crashtest.NewImage(volumetest.FilesSize)
			board := newBoard(im)
			b := boardOver(board.Chip, im, files)
			b.Log = slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
			steps := 0
			b.Step = func(string) error {
				if steps++; steps == n {
					return errors.New("this change fails")
				}
				return nil
			}
			sys := b.System()
			chip := &watchedChip{Chip: b.Chip}
			sys.Chip = func() (source.Chip, error) { return chip, nil }
			m := volume.New(sys)
			note := func(r any, err error) {
				if text, jsonErr := json.Marshal(r); jsonErr == nil {
					said.Write(text)
				}
				fmt.Fprintf(&said, "%v %+v %#v\n", err, err, err)
			}
			r, err := m.Provision(ctx, s, volume.ProvisionOptions{Progress: func(st volume.Step) { fmt.Fprintf(&said, "%+v\n", st) }})
			note(r, err)
			done := err == nil
			r, err = m.Lock(ctx, s, volume.LockOptions{})
			note(r, err)
			r, err = m.Verify(ctx, s)
			note(r, err)
			r, err = m.Unlock(ctx, s, volume.UnlockOptions{Mount: true})
			note(r, err)
			note(m.Status(ctx, s), nil)
			said.WriteString(b.DM.State())

			// A change that fails may leave the temporary file, whose name is used again.
			const record, temporary = "/var/lib/imxcrypt/volumes/data.json", "/.var/lib/imxcrypt/volumes/data.json.new"
			for _, name := range b.Files.Names() {
				if name != record && name != temporary {
					t.Fatalf("change %d: written: %s", n, name)
				}
				text, err := b.Files.Read(name, readAll())
				if err != nil {
					t.Fatal(err)
				}
				said.Write(text)
			}
			disk := im.Bytes()
			for i, k := range chip.keys {
				if k.Bytes() != nil && len(bytes.Trim(k.Bytes(), "\x00")) > 0 {
					t.Fatalf("change %d: black key %d was not wiped", n, i)
				}
				for form, shape := range shapes(chip.copies[i]) {
					for where, text := range map[string][]byte{"on the device": disk, "in what was said": said.Bytes()} {
						if bytes.Contains(text, shape) {
							t.Fatalf("change %d: black key %d is %s, form %d", n, i, where, form)
						}
					}
				}
			}
			if b.Ring.Left() != 0 {
				t.Fatalf("change %d: keys are left in a keyring", n)
			}
			if done && steps < n {
				if len(chip.keys) == 0 {
					t.Fatal("nothing was watched")
				}
				break
			}
		}
	}
}
