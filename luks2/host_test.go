// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program returns one of the programs that `make setup` installs. A missing one is a
// failure: these tests prove nothing without it.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if path := filepath.Join(dir, name); isExecutable(path) {
			return path
		}
	}
	t.Fatalf("%s is not installed (packages cryptsetup-bin, util-linux; make setup installs them)", name)
	return ""
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// run runs a program and returns both of its outputs.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// imageFile returns a sparse file of the memory's size with its first 8 MiB, which is
// where headers are.
func imageFile(t *testing.T, m *memory) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, bytes.TrimRight(m.data[:min(len(m.data), 8<<20)], "\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, m.Size()); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRun(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func wantIn(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Errorf("%q is not in\n%s", p, out)
		}
	}
}

func TestOtherProgramsReadOurHeaders(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		size  int
		apply func(o *Options)
		edit  func(h *Header)
	}{
		{name: "default"},
		{name: "header area of 4 MiB, copies of 64 KiB", apply: func(o *Options) { o.HeaderArea, o.CopySize = 4<<20, 64<<10 }, edit: moveTo(8 << 20)},
		{name: "no keyslots area", apply: func(o *Options) { o.HeaderArea = 32 << 10 }},
		{name: "detached, dynamic size", apply: func(o *Options) { o.Detached = true }, edit: dynamic},
		{name: "two segments with a gap, a rotation under way", edit: rotating},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var apply []func(*Options)
			if tc.apply != nil {
				apply = append(apply, tc.apply)
			}
			h := newHeader(t, apply...)
			if tc.edit != nil {
				tc.edit(h)
			}
			m := newMemory(64 << 20)
			if err := h.Format(m); err != nil {
				t.Fatal(err)
			}
			if err := h.Write(m); err != nil {
				t.Fatal(err)
			}
			path := imageFile(t, m)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dump := mustRun(t, "cryptsetup", "luksDump", path)
			wantIn(t, dump, "Version:       \t2", "Epoch:         \t2", "Label:         \tdata", "Subsystem:     \timxcrypt",
				"imxcrypt-v1", "capi:tk(cbc(aes))-plain64", "0: imxcrypt\n", "0: imxcrypt-check\n", testUUID)
			wantIn(t, mustRun(t, "cryptsetup", "luksUUID", path), testUUID)
			wantIn(t, mustRun(t, "blkid", "-p", path), `VERSION="2"`, `UUID="`+testUUID+`"`, `LABEL="data"`, `SUBSYSTEM="imxcrypt"`, `TYPE="crypto_LUKS"`)
			backup := filepath.Join(t.TempDir(), "backup")
			mustRun(t, "cryptsetup", "luksHeaderBackup", path, "--header-backup-file", backup)
			after, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(before, after) {
				t.Errorf("reading changed the device (%v)", err)
			}
			f, err := os.Open(backup)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			report, err := Check(f, h.Area(), -1)
			if err != nil || len(report.Problems) > 0 || report.Header.UUID != testUUID {
				t.Errorf("the backup: %v, %+v", err, report)
			}
			// The requirement keeps the only blob from being removed.
			if out, err := run(t, "cryptsetup", "token", "remove", "--token-id", "0", path); err == nil {
				t.Errorf("token remove succeeded: %s", out)
			}
		})
	}
}

func moveTo(offset int64) func(h *Header) {
	return func(h *Header) {
		s := h.Metadata.Segments["0"]
		s.Offset = offset
		h.Metadata.Segments["0"] = s
	}
}

func dynamic(h *Header) {
	s := h.Metadata.Segments["0"]
	s.Size = SizeDynamic
	h.Metadata.Segments["0"] = s
}

// rotating gives h the state in which a zone at the start of the volume has been moved
// down under a new key.
func rotating(h *Header) {
	a, b := h.Metadata.Segments["0"], h.Metadata.Segments["0"]
	a.Offset, a.Size = 1<<20, 2<<20
	b.Offset, b.Size = 4<<20, 6<<20
	b.IVTweak = 2 << 20 / 512
	h.Metadata.Segments["0"], h.Metadata.Segments["1"] = a, b
	h.Metadata.Digests["1"] = Digest{Type: "imxcrypt-check", Segments: []string{"1"}}
	h.Metadata.Tokens["1"] = Token{Type: "imxcrypt"}
	h.Require("imxcrypt-rotate-v1")
}

// TestCryptsetupTakesTheCopyWeTake checks that cryptsetup and this package choose the
// same one of two copies that differ, or of which one is damaged.
func TestCryptsetupTakesTheCopyWeTake(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, m *memory, old *Header)
		phase string
	}{
		{"first copy damaged", func(_ *testing.T, m *memory, _ *Header) { m.data[0x1010] ^= 1 }, "ready"},
		{"second copy damaged", func(_ *testing.T, m *memory, _ *Header) { m.data[0x5010] ^= 1 }, "ready"},
		{"first copy blank", func(_ *testing.T, m *memory, _ *Header) { clear(m.data[:0x4000]) }, "ready"},
		{"second copy newer", func(t *testing.T, m *memory, old *Header) { putCopy(t, m, old, 7, true) }, "provisioning"},
		{"first copy newer", func(t *testing.T, m *memory, old *Header) { putCopy(t, m, old, 7, false) }, "provisioning"},
		{"same number, other content", func(t *testing.T, m *memory, old *Header) { putCopy(t, m, old, 1, true) }, "ready"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			old := newHeader(t)
			h := changed(t, old)
			m := newSparse(testSize)
			if err := h.Format(m); err != nil {
				t.Fatal(err)
			}
			tc.spoil(t, m, old)
			got, copies, err := Read(m, m.Size())
			if err != nil {
				t.Fatal(err)
			}
			if p := phase(t, got); p != tc.phase {
				t.Errorf("we take the %s one", p)
			}
			if copies.Conflict != (tc.name == "same number, other content") {
				t.Errorf("conflict: %v", copies.Conflict)
			}
			wantIn(t, mustRun(t, "cryptsetup", "luksDump", "--dump-json-metadata", imageFile(t, m)), `"phase":"`+tc.phase+`"`)
			repaired, err := Repair(m)
			if err != nil || !repaired {
				t.Fatalf("repaired %v, %v", repaired, err)
			}
			after, copies, err := Read(m, m.Size())
			if err != nil || !copies.Intact() || phase(t, after) != tc.phase {
				t.Errorf("after the repair: %v, %+v", err, copies)
			}
			wantIn(t, mustRun(t, "cryptsetup", "luksDump", "--dump-json-metadata", imageFile(t, m)), `"phase":"`+tc.phase+`"`)
		})
	}
}

// putCopy writes one copy with the given header and number.
func putCopy(t *testing.T, m *memory, h *Header, seq uint64, secondary bool) {
	t.Helper()
	c := h.Clone()
	c.SeqID = seq
	text, err := c.encode(c.place(m.Size()))
	if err != nil {
		t.Fatal(err)
	}
	off := int64(0)
	if secondary {
		off = c.copySize
	}
	if _, err := m.WriteAt(encodeCopy(c.binary(secondary), text, secondary), off); err != nil {
		t.Fatal(err)
	}
}

// TestCryptsetupOnInvalidHeaders checks that cryptsetup accepts what we accept, and that
// the table records where it is laxer than we are.
func TestCryptsetupOnInvalidHeaders(t *testing.T) {
	t.Parallel()
	versionIs261 := strings.HasPrefix(mustRun(t, "cryptsetup", "--version"), "cryptsetup 2.6.1")
	refusedByBoth, refusedByUs := 0, 0
	path := imageFile(t, newSparse(fuzzDevice))
	for i, tc := range invalidTexts {
		if testing.Short() && i%4 != 0 {
			continue
		}
		overwrite(t, path, sealed([]byte(tc.text(t)), nil, nil))
		_, err := run(t, "cryptsetup", "luksUUID", path)
		switch {
		case err != nil && tc.laxity == both:
			refusedByBoth++
		case err == nil && tc.laxity == lax:
			refusedByUs++
		case versionIs261:
			t.Errorf("%s: cryptsetup takes it: %v, the table says %v", tc.name, err == nil, tc.laxity == lax)
		}
	}
	t.Logf("%d headers refused by cryptsetup and by us, %d by us alone", refusedByBoth, refusedByUs)
	if testing.Short() {
		t.Skipf("NOT TESTED: %d headers, without -short only", len(invalidTexts)-(len(invalidTexts)+3)/4)
	}
}

// overwrite puts data at the start of a file.
func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
