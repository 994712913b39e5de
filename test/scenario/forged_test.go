// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"imxcrypt/luks2"
)

// Two volumes of one chip. An attacker with access to the storage writes the blob of
// one volume into the header of the other and copies its ciphertext there. The other
// volume shows none of its files, neither when its provisioning resumes nor with a
// detached header.
func TestForgedHeaders(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		for _, detached := range []bool{false, true} {
			t.Run(map[bool]string{false: "on the device", true: "detached"}[detached], func(t *testing.T) {
				x := b.bench(t)
				one, other := x.loop("one"), x.loop("other")
				x.MustSh("mkdir -p " + x.dir + "/b")
				more := func(name string) []string {
					if detached {
						return []string{"mount: " + x.dir + "/" + name, "header: " + x.dir + "/" + name + ".header"}
					}
					return []string{"mount: " + x.dir + "/" + name}
				}
				x.configureText(x.volume("mnt", one, more("mnt")...) + x.volume("b", other, more("b")...))
				x.expect(0, "b: mounted on", "provision", "--all")
				x.MustSh("echo 'only in b' > " + x.dir + "/b/secret")
				x.expect(0, "b: locked", "lock", "--all")

				read := func(name, device string) *luks2.Header {
					t.Helper()
					if detached {
						raw := x.Get(x.dir + "/" + name + ".header")
						h, _, err := luks2.ReadDetached(bytes.NewReader(raw), int64(len(raw)), 8<<20)
						if err != nil {
							t.Fatal(err)
						}
						return h
					}
					x.MustSh("dd if=" + device + " of=" + x.dir + "/area bs=1M count=1 2>&1")
					h, _, err := luks2.Read(bytes.NewReader(x.Get(x.dir+"/area")), 8<<20)
					if err != nil {
						t.Fatal(err)
					}
					return h
				}
				h, of := read("mnt", one), read("b", other)
				for _, member := range []string{"blob", "filesystem"} {
					h.Metadata.Tokens["0"].Extra[member] = of.Metadata.Tokens["0"].Extra[member]
				}
				if !detached {
					h.Metadata.Tokens["0"].Extra["phase"] = json.RawMessage(`"provisioning"`)
				}
				image, err := h.Image()
				if err != nil {
					t.Fatal(err)
				}
				if detached {
					x.Put(x.dir+"/mnt.header", image)
					x.MustSh("chmod 600 " + x.dir + "/mnt.header; dd if=" + other + " of=" + one + " bs=1M conv=fsync 2>&1")
					x.powerCycle()
					x.expect(3, "this volume's key", "unlock", "--mount", "mnt")
					x.expect(3, "this volume's key", "verify", "mnt")
					x.expect(0, "b: mounted on", "unlock", "--mount", "b")
					x.MustSh("grep -q 'only in b' " + x.dir + "/b/secret")
					x.MustSh("chmod 666 " + x.dir + "/b.header")
					x.expect(6, "users other than root can write to it", "verify", "b")
					return
				}
				x.Put(x.dir+"/forged", image[:2*h.CopySize()])
				x.MustSh("dd if=" + other + " of=" + one + " bs=1M skip=1 seek=1 conv=fsync 2>&1; dd if=" + x.dir + "/forged of=" + one + " conv=fsync 2>&1")
				x.powerCycle()
				x.expect(7, "provisioning was interrupted", "unlock", "--mount", "mnt")
				r := x.expect(0, "mounted on", "provision", "-v", "mnt")
				if !strings.Contains(r.Stdout+r.Stderr, "another key created") {
					t.Errorf("the key that was found is used: %v", r)
				}
				if left := x.MustSh("ls " + x.dir + "/mnt"); strings.Contains(left, "secret") {
					t.Errorf("the volume shows the other's files: %s", left)
				}
				x.expect(0, "b: mounted on", "unlock", "--mount", "b")
				x.MustSh("grep -q 'only in b' " + x.dir + "/b/secret")
			})
		}
	})
}
