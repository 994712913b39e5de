// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// rewrite changes a volume's header as someone with access to the storage can: the
// checksums are right afterwards.
func rewrite(t *testing.T, im *crashtest.Image, change func(*luks2.Header)) {
	t.Helper()
	h, _, err := luks2.Read(im, im.Size())
	if err != nil {
		t.Fatal(err)
	}
	change(h)
	if err := h.Write(im); err != nil {
		t.Fatal(err)
	}
}

// member sets one member of the token.
func member(t *testing.T, h *luks2.Header, name string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	h.Metadata.Tokens["0"].Extra[name] = text
}

func segment(h *luks2.Header, change func(*luks2.Segment)) {
	s := h.Metadata.Segments["0"]
	change(&s)
	h.Metadata.Segments["0"] = s
}

// What was put in place of a volume, or made of its header, is refused, each with its own
// reason. Nothing is announced, mounted or written.
func TestSubstitutionIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		s    spec.Volume
		swap func(t *testing.T, b *volumetest.Board, im *crashtest.Image)
		code fault.Code
		text string
	}{
		"a plaintext filesystem":            {swap: onlyImage(plainExt4fresh), code: fault.PlaintextFound, text: "ext4"},
		"a foreign LUKS1":                   {swap: onlyImage(foreignLUKS1), code: fault.ForeignHeader},
		"a foreign LUKS2":                   {swap: onlyImage(func(im *crashtest.Image) { write(im, make([]byte, mib), 0); foreignLUKS2(im) }), code: fault.ForeignHeader, text: `"somebody's"`},
		"a LUKS to come":                    {swap: onlyImage(func(im *crashtest.Image) { write(im, make([]byte, mib), 0); laterLUKS(im) }), code: fault.HeaderVersion},
		"noise":                             {swap: onlyImage(noise), code: fault.HeaderMissing},
		"zeros":                             {swap: onlyImage(func(im *crashtest.Image) { write(im, make([]byte, im.Size()), 0) }), code: fault.VolumeGone},
		"plaintext under a detached header": {s: changed(detached), swap: onlyImage(plainExt4fresh), code: fault.PlaintextFound, text: "ext4"},
		"LUKS under a detached header":      {s: changed(detached), swap: onlyImage(foreignLUKS1), code: fault.ForeignHeader},
		"noise under a detached header":     {s: changed(detached), swap: onlyImage(noise), code: fault.KeyWrong},
		"another volume of this board": {swap: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			write(im, anotherVolume(t, b, "other"), 0)
		}, code: fault.HeaderMismatch, text: `"other"`},
		"another volume of the same name, pinned": {s: pinned, swap: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			write(im, anotherVolume(t, b, "data"), 0)
		}, code: fault.HeaderMismatch, text: "uuid"},
		"the blob of another volume": {swap: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			other := headerOf(t, anotherVolume(t, b, "other"))
			rewrite(t, im, func(h *luks2.Header) { h.Metadata.Tokens["0"].Extra["blob"] = other.Metadata.Tokens["0"].Extra["blob"] })
		}, code: fault.KeyWrong},
		"blob and check of another volume": {swap: func(t *testing.T, b *volumetest.Board, im *crashtest.Image) {
			raw := anotherVolume(t, b, "other")
			other := headerOf(t, raw)
			rewrite(t, im, func(h *luks2.Header) {
				h.Metadata.Tokens["0"].Extra["blob"] = other.Metadata.Tokens["0"].Extra["blob"]
				h.Metadata.Digests = other.Metadata.Digests
			})
			write(im, raw[0x8000:0xa000], 0x8000)
		}, code: fault.KeyWrong, text: "the header was changed"},
		"a blob with a flipped bit": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) {
				var blob []byte
				if err := json.Unmarshal(h.Metadata.Tokens["0"].Extra["blob"], &blob); err != nil {
					t.Fatal(err)
				}
				blob[len(blob)/2] ^= 1
				member(t, h, "blob", base64.StdEncoding.EncodeToString(blob))
			})
		}, code: fault.BlobRejected},
		"a cut blob": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "blob", "T2dhVA==") })
		}, code: fault.HeaderInvalid},
		"cipher": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.Encryption = "capi:tk(cbc(aes))-plain" })
		}), code: fault.HeaderMismatch, text: "cipher"},
		"a cipher in the clear": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.Encryption = "cipher_null-ecb" })
		}), code: fault.HeaderMismatch, text: "cipher"},
		"sector size": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.SectorSize = 512 })
		}), code: fault.HeaderMismatch, text: "sector_size"},
		"sector size, believed by the configuration": {s: changed(func(s *spec.Volume) { s.SectorSize = 512 }), swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.SectorSize = 512 })
		}), code: fault.KeyWrong},
		"iv_tweak": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.IVTweak = 8 })
		}), code: fault.HeaderMismatch, text: "iv_tweak"},
		"segment moved": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.Offset += 4096; s.Size -= 4096 })
		}), code: fault.KeyWrong},
		"wrap": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "wrap", "ecb") })
		}, code: fault.HeaderMismatch, text: "wrap"},
		"key size": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "key_size", 16) })
		}, code: fault.HeaderMismatch, text: "key_size"},
		"key size, believed by the configuration": {s: changed(func(s *spec.Volume) { s.KeySize = 16 }), swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "key_size", 16) })
		}, code: fault.KeyLengthMismatch},
		"source": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) {
				member(t, h, "source", "dev")
				delete(h.Metadata.Tokens["0"].Extra, "blob")
				delete(h.Metadata.Tokens["0"].Extra, "wrap")
			})
		}, code: fault.HeaderMismatch, text: "source"},
		"digest of another kind": {swap: headerChange(func(h *luks2.Header) {
			h.Metadata.Digests["0"].Extra["hash"] = json.RawMessage(`"crc32"`)
		}), code: fault.HeaderInvalid, text: "crc32"},
		"a member of a later version": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "colour", "blue") })
		}, code: fault.HeaderInvalid},
		"a requirement of a later version": {swap: headerChange(func(h *luks2.Header) { h.Require("imxcrypt-v2") }), code: fault.HeaderRequirement, text: "imxcrypt-v2"},
		"our requirement taken away":       {swap: headerChange(func(h *luks2.Header) { h.Unrequire(header.Requirement) }), code: fault.ForeignHeader},
		"two segments": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.Size -= mib })
			s := h.Metadata.Segments["0"]
			s.Offset, s.Size = s.Offset+s.Size, mib
			h.Metadata.Segments["1"] = s
			d := h.Metadata.Digests["0"]
			d.Segments = []string{"0", "1"}
			h.Metadata.Digests["0"] = d
		}), code: fault.HeaderInvalid},
		"a dynamic segment": {swap: headerChange(func(h *luks2.Header) {
			segment(h, func(s *luks2.Segment) { s.Size = luks2.SizeDynamic })
		}), code: fault.HeaderInvalid},
		"phase": {swap: func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
			rewrite(t, im, func(h *luks2.Header) { member(t, h, "phase", "provisioning") })
		}, code: fault.ProvisioningStarted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.s.Name == "" {
				c.s = newSpec()
			}
			honest := c.s
			honest.SectorSize, honest.KeySize = 4096, 32
			b, im := ready(t, honest)
			c.swap(t, b, im)
			before := im.Bytes()
			for what, run := range map[string]func() error{
				"unlock": func() error { _, err := b.Manager().Unlock(ctx, c.s, volume.UnlockOptions{Mount: true}); return err },
				"verify": func() error { _, err := b.Manager().Verify(ctx, c.s); return err },
				"status": func() error { return b.Manager().Status(ctx, c.s).Err },
			} {
				err := run()
				// Without a key, status sees only what the header shows.
				blind := what == "status" && (c.code == fault.KeyWrong || c.code == fault.BlobRejected || c.code == fault.KeyLengthMismatch || c.s.Detached())
				// verify does not touch the data of a detached header if it knows the key
				// otherwise. It is enough that it refuses.
				if err == nil && blind {
					continue
				}
				if what == "verify" && c.s.Detached() && err != nil {
					continue
				}
				if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%s: expected code %s and %q, got %s: %v", what, c.code, c.text, fault.CodeOf(err), err)
				}
			}
			if b.DM.State() != "" || b.Ring.Left() > 0 {
				t.Errorf("left in the kernel:\n%s", b.DM.State())
			}
			if !bytes.Equal(before, im.Bytes()) {
				t.Error("something was written")
			}
		})
	}
}

// Only a check was rewritten. A filesystem that only this key shows, with the UUID that
// only this volume has, still proves the key, so the volume opens and its data is right.
// verify reads the check and refuses it. If no filesystem proves the key, every command
// refuses it.
func TestARewrittenCheck(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	rewritten := func(name, value string) func(*testing.T, *volumetest.Board, *crashtest.Image) {
		return headerChange(func(h *luks2.Header) { h.Metadata.Digests["0"].Extra[name] = json.RawMessage(`"` + value + `"`) })
	}
	for name, swap := range map[string]func(*testing.T, *volumetest.Board, *crashtest.Image){
		"digest": rewritten("digest", base64.StdEncoding.EncodeToString(make([]byte, 32))),
		"place":  rewritten("offset", "36864"),
	} {
		for _, fs := range []string{"ext4", spec.FilesystemNone} {
			t.Run(name+" "+fs, func(t *testing.T) {
				t.Parallel()
				s := changed(func(s *spec.Volume) {
					if s.Filesystem.Type = fs; fs == spec.FilesystemNone {
						s.Mount.Path = ""
					}
				})
				b, im := ready(t, s)
				swap(t, b, im)
				_, err := b.Manager().Verify(ctx, s)
				refused(t, err, fault.KeyWrong)
				_, err = b.Manager().Unlock(ctx, s, volume.UnlockOptions{})
				if fs == spec.FilesystemNone {
					refused(t, err, fault.KeyWrong)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := get(t, b, len(userText)); got != userText {
					t.Errorf("the data is %q", got)
				}
			})
		}
	}
}

// An older copy of the whole header describes the same volume with the same key: it
// opens, and cannot be distinguished from the newest. But a rollback cannot restore a key
// that the data is not encrypted with.
func TestRollbackToAnotherKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	b, im := ready(t, newSpec())
	old := im.Bytes()[:mib]
	// The same device, provisioned again under the same UUID and name.
	fresh := crashtest.NewImage(16 * mib)
	b2 := volumetest.New(b.Chip, volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: fresh})
	b2.Directories = b.Directories
	s := changed(func(s *spec.Volume) { s.UUID = headerOf(t, old).UUID })
	r, err := b2.Manager().Provision(ctx, s, volume.ProvisionOptions{})
	must(t, r, err)
	b2 = powerCycle(b2)
	write(fresh, old, 0)
	_, err = b2.Manager().Unlock(ctx, s, volume.UnlockOptions{})
	// The old header is consistent, including its check: the key is right by its check,
	// and the data is noise.
	refused(t, err, fault.KeyWrong)
	_, err = b2.Manager().Verify(ctx, s)
	refused(t, err, fault.KeyWrong)
	// The volume can be examined, and not written to.
	r, err = b2.Manager().Unlock(ctx, s, volume.UnlockOptions{ForRepair: true})
	if must(t, r, err); !strings.Contains(strings.Join(r.Warnings, " "), "NOT PROVED") {
		t.Fatalf("%+v", r)
	}
	if info, err := b2.DM.Info(s.Mapping); err != nil || !info.ReadOnly {
		t.Fatalf("%+v, %v", info, err)
	}
	r, err = b2.Manager().Lock(ctx, s, volume.LockOptions{})
	must(t, r, err)
	if b2.DM.State() != "" {
		t.Fatalf("left in the kernel:\n%s", b2.DM.State())
	}
}

var pinned = changed(func(s *spec.Volume) { s.UUID = "9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b" })

func onlyImage(f func(*crashtest.Image)) func(*testing.T, *volumetest.Board, *crashtest.Image) {
	return func(_ *testing.T, _ *volumetest.Board, im *crashtest.Image) { f(im) }
}

func headerChange(f func(*luks2.Header)) func(*testing.T, *volumetest.Board, *crashtest.Image) {
	return func(t *testing.T, _ *volumetest.Board, im *crashtest.Image) {
		t.Helper()
		rewrite(t, im, f)
	}
}

// plainExt4fresh replaces everything by a plaintext filesystem.
func plainExt4fresh(im *crashtest.Image) {
	write(im, make([]byte, im.Size()), 0)
	plainExt4(im)
}

// anotherVolume returns the disk of a second volume, made by the same chip.
func anotherVolume(t *testing.T, b *volumetest.Board, name string) []byte {
	t.Helper()
	im := crashtest.NewImage(16 * mib)
	n := volumetest.New(b.Chip, volumetest.NoFiles(), &volumetest.Disk{Path: "/dev/mmcblk2p3", Store: im})
	n.Directories = b.Directories
	r, err := n.Manager().Provision(context.Background(), changed(func(s *spec.Volume) { s.Name = name }), volume.ProvisionOptions{})
	must(t, r, err)
	return im.Bytes()
}

// headerOf reads the header of a disk.
func headerOf(t *testing.T, disk []byte) *luks2.Header {
	t.Helper()
	h, _, err := luks2.Read(bytes.NewReader(disk), 16*mib)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
