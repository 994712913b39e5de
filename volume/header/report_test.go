// SPDX-License-Identifier: Apache-2.0

package header

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"os"
	"strings"
	"testing"

	"imxcrypt/internal/devnum"
)

// headerFile is a file or device that begins with the given bytes.
type headerFile struct {
	*bytes.Reader
	size int64
}

func (f headerFile) Size() int64                      { return f.size }
func (headerFile) WriteAt([]byte, int64) (int, error) { return 0, os.ErrPermission }
func (headerFile) Flush() error                       { return nil }
func (headerFile) Discard(_, _ int64, _ bool) error   { return os.ErrPermission }
func (headerFile) ReadOnly() bool                     { return true }
func (headerFile) LogicalBlockSize() int              { return 512 }
func (headerFile) PreferredEraseSize() int64          { return 0 }
func (headerFile) Number() devnum.Number              { return devnum.Number{} }
func (headerFile) On() devnum.Number                  { return devnum.Number{} }
func (headerFile) Path() string                       { return "/file" }
func (headerFile) Close() error                       { return nil }

// A header of another program is valid if that program opens it. A header that says it is
// ours must follow all rules.
func TestForeignHeadersAreNotHeldToOurRules(t *testing.T) {
	t.Parallel()
	f, err := os.Open("../../luks2/testdata/cryptsetup-2.6.1/argon2id.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	const copySize, ours = 16 << 10, `,"requirements":{"mandatory":["imxcrypt-v1"]}}`
	for name, c := range map[string]struct {
		old, new  string
		subsystem string
		size      int64
		valid     bool
		problem   string
	}{
		"as it is":                               {size: 64 << 20, valid: true},
		"a key derivation that is not known":     {old: `"argon2id"`, new: `"argon3id"`, size: 64 << 20, valid: true},
		"the same, of ours":                      {old: `"argon2id"`, new: `"argon3id"`, subsystem: "imxcrypt", size: 64 << 20},
		"a backup, which ends before the data":   {old: `"offset":"16777216","size"`, new: `"offset":"33554432","size"`, size: 20 << 20, valid: true},
		"a segment larger than the device is":    {old: `"size":"dynamic"`, new: `"size":"18446744073709547520"`, size: 64 << 20, valid: true, problem: "segment-bounds"},
		"a keyslot's area outside of the header": {old: `"offset":"32768"`, new: `"offset":"99999999744"`, size: 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := bytes.Clone(whole)
			for at := 0; at < 2*copySize; at += copySize {
				copyOf := image[at : at+copySize]
				text, _, _ := strings.Cut(string(copyOf[4096:]), "\x00")
				text = strings.Replace(text, c.old, c.new, 1)
				if c.subsystem != "" {
					text = strings.TrimSuffix(text, "}}") + ours + "}"
					copy(copyOf[0xd0:], c.subsystem)
				}
				clear(copyOf[4096:])
				copy(copyOf[4096:], text)
				clear(copyOf[0x1c0:0x200])
				sum := sha256.Sum256(copyOf)
				copy(copyOf[0x1c0:], sum[:])
			}
			var r Report
			err := r.Check(headerFile{bytes.NewReader(image), c.size})
			if (err == nil) != c.valid {
				t.Errorf("%+v, %v", r, err)
			}
			if problems := strings.Join(r.Problems, "; "); c.valid && (c.problem == "") != (problems == "") || !strings.Contains(problems, c.problem) {
				t.Errorf("problems %q", problems)
			}
		})
	}
}
