// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/test/vm"
)

// keySizes are the exact sizes in bytes of caam-keygen's files: of the black key, which
// depends on its wrap, and of the blob.
var keySizes = []struct {
	wrap                  string
	key, blackKey, sealed int
}{
	{"ecb", 16, 36, 96}, {"ecb", 24, 52, 104}, {"ecb", 32, 52, 112},
	{"ccm", 16, 48, 96}, {"ccm", 24, 56, 104}, {"ccm", 32, 64, 112},
}

// client puts the simulated CAAM's own client, in C, into the guest. A hand-made recipe
// uses it in place of caam-keygen.
func (x *bench) client() string {
	x.t.Helper()
	const path = "/opt/selftest"
	if x.Sh("test -x "+path).Code != 0 {
		host, err := filepath.Abs("../../build/simcaam/" + string(x.kernel) + "/selftest")
		if err != nil {
			x.t.Fatal(err)
		}
		x.PutFile(path, host)
	}
	return path
}

// The files are byte for byte those of caam-keygen: either side makes them, and the
// other opens them.
func TestKeyFiles(t *testing.T) {
	benches(t, boards(), func(t *testing.T, b board) {
		x := b.bench(t)
		client := x.client()
		// The JDKEK wraps by ECB without a nonce, so the same key always gives the same
		// black key.
		sameKey := func(t *testing.T, wrap, a, b string) {
			if wrap == "ecb" && !bytes.Equal(x.Get(a), x.Get(b)) {
				t.Errorf("%s and %s are not the same black key", a, b)
			}
		}
		size := func(t *testing.T, path string, want int) {
			if got := x.MustRun("stat", "-c", "%s %a", path); got != fmt.Sprintf("%d 600\n", want) {
				t.Errorf("%s: size and mode %q, expected %d and 600", path, got, want)
			}
		}
		for _, k := range keySizes {
			t.Run(fmt.Sprintf("%s %d", k.wrap, k.key), func(t *testing.T) {
				x := b.bench(t)
				ours, theirs := x.dir+"/ours", x.dir+"/theirs"
				x.expect(0, ours+".bb\n", "key", "create", "ours", "--dir", x.dir, "--wrap", k.wrap, "--size", fmt.Sprint(k.key))
				if files := x.MustRun("ls", x.dir); files != "mnt\nours.bb\n" {
					t.Errorf("there are the files %q", files)
				}
				size(t, ours+".bb", k.sealed)
				x.MustRun(client, "import", ours+".bb", ours+".client")
				x.expect(0, fmt.Sprintf("%d bytes, a key of %d", k.sealed, k.key), "key", "import", ours+".bb", "--out", ours)
				size(t, ours, k.blackKey)
				size(t, ours+".client", k.blackKey)
				sameKey(t, k.wrap, ours, ours+".client")

				x.MustRun(client, "create", k.wrap, fmt.Sprint(k.key), theirs, theirs+".bb")
				x.expect(0, "opens on this chip", "key", "import", theirs+".bb", "--out", theirs+".ours")
				size(t, theirs+".ours", k.blackKey)
				sameKey(t, k.wrap, theirs, theirs+".ours")
				x.expect(0, "wrapped "+k.wrap, "key", "inspect", theirs)
			})
		}
	})
}

func TestKeyFilesAreNeverOverwritten(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.expect(0, x.dir+"/k\n", "key", "create", "k", "--dir", x.dir, "--black-key")
		before := x.MustSh("cd " + x.dir + " && sha256sum k k.bb")
		x.expect(6, "exists already", "key", "create", "k", "--dir", x.dir)
		x.expect(6, "exist", "key", "import", x.dir+"/k.bb", "--out", x.dir+"/k")
		x.MustSh("ln -s /nowhere " + x.dir + "/link.bb; mv " + x.dir + "/k.bb " + x.dir + "/kept.bb")
		x.expect(6, "exists already", "key", "create", "k", "--dir", x.dir, "--black-key")
		x.expect(6, "exists already", "key", "create", "link", "--dir", x.dir)
		x.MustSh("cd " + x.dir + "; [ ! -e k.bb ]; mv kept.bb k.bb")
		if after := x.MustSh("cd " + x.dir + " && sha256sum k k.bb"); after != before {
			t.Errorf("before\n%safter\n%s", before, after)
		}
	})
}

// An imported key is the one that the cipher uses: plain AES with the same key decrypts
// what it encrypts.
func TestImportedKeyIsThePlainKey(t *testing.T) {
	const red = "10112233445566778899aabbccddeeff01010203040506070809aa0b0c0d0e0f"
	benches(t, boards(), func(t *testing.T, b board) {
		x := b.bench(t)
		r := x.RunCommand(vm.Command{
			Argv:  []string{x.program, "key", "create", "red", "--dir", x.dir, "--hex-file", "-"},
			Stdin: []byte(red + "\n"),
		})
		if r.Code != 0 {
			t.Fatal(r)
		}
		x.client()
		device := x.loop("disk")
		x.recipe("open", x.dir+"/red.bb", "hand", device)
		x.MustSh("echo 'the quick brown fox' | dd of=/dev/mapper/hand bs=4096 seek=3 conv=sync,fsync 2>&1; dmsetup remove hand")
		x.MustSh("dmsetup create plain --table '0 8192 crypt aes-cbc-plain64 " + red + " 0 " + device + " 0 1 sector_size:4096'")
		if got := x.MustSh("dd if=/dev/mapper/plain bs=4096 skip=3 count=1 2>/dev/null | head -n 1"); got != "the quick brown fox\n" {
			t.Errorf("plain AES reads %q", got)
		}
	})
}

// The recipe that products use without imxcrypt, in a shell: import the blob, put the
// black key into the session's keyring, make the mapping with dmsetup. IMPORT names the
// program that imports; SIZE, if set, is the key's size as a user typed it.
const recipe = `#!/bin/sh
set -eu
[ "$1" = open ]
blob=$2 name=$3 device=$4
key=$blob.key
trap 'rm -f "$key"' EXIT
sh -c "$IMPORT"
keyctl padd logon "hand:$name" @s <"$key" >&2
dmsetup create "$name" --table "0 $(blockdev --getsz "$device") crypt capi:tk(cbc(aes))-plain64 :${SIZE:-$(stat -c %s "$key")}:logon:hand:$name 0 $device 0 1 sector_size:4096"
`

const (
	importByClient = `/opt/selftest import "$blob" "$key"`
	importByUs     = `"$IMXCRYPT" key import "$blob" --out "$key"`
)

func (x *bench) tryRecipe(environment []string, args ...string) vm.Result {
	x.t.Helper()
	x.Put("/opt/recipe", []byte(strings.NewReplacer(`sh -c "$IMPORT"`, `eval "$IMPORT"`).Replace(recipe)))
	// A process started by PID 1 has no session keyring yet.
	return x.RunCommand(vm.Command{
		Argv: append([]string{"keyctl", "session", "-", "sh", "/opt/recipe"}, args...),
		Env:  append([]string{"IMXCRYPT=" + x.program, "IMPORT=" + importByClient}, environment...),
	})
}

func (x *bench) recipe(args ...string) {
	x.t.Helper()
	if r := x.tryRecipe(nil, args...); r.Code != 0 {
		x.t.Fatal(r)
	}
}

func TestHandMadeRecipe(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		for _, c := range []struct{ name, create, importBy string }{
			{"our blob, their import", `"$I" key create k --dir . --wrap ccm --size 24`, importByClient},
			{"their blob, our import", "/opt/selftest create ccm 32 k k.bb; rm k", importByUs},
			{"our blob, our import, ecb", `"$I" key create k --dir . --wrap ecb --size 16`, importByUs},
		} {
			t.Run(c.name, func(t *testing.T) {
				x := b.bench(t)
				x.client()
				device := x.loop("disk")
				x.MustSh("cd " + x.dir + "; I=" + x.program + "; " + c.create)
				open := func() {
					if r := x.tryRecipe([]string{"IMPORT=" + c.importBy}, "open", x.dir+"/k.bb", "hand", device); r.Code != 0 {
						t.Fatal(r)
					}
				}
				open()
				x.MustSh("cd " + x.dir + "; mkfs.ext4 -q /dev/mapper/hand; mount /dev/mapper/hand mnt; echo 'the quick brown fox' > mnt/fox; umount mnt; dmsetup remove hand")
				x.powerCycle()
				open()
				x.MustSh("cd " + x.dir + "; mount /dev/mapper/hand mnt")
				x.fox()
			})
		}
		t.Run("a key size typed by hand", func(t *testing.T) {
			x := b.bench(t)
			x.client()
			x.expect(0, "k.bb", "key", "create", "k", "--dir", x.dir, "--wrap", "ccm")
			r := x.tryRecipe([]string{"SIZE=36"}, "open", x.dir+"/k.bb", "hand", x.loop("disk"))
			if r.Code == 0 {
				t.Errorf("a CCM key with :36: was taken: %v", r)
			}
			t.Log(r)
			if left := x.MustRun("dmsetup", "ls"); !strings.Contains(left, "No devices") {
				t.Errorf("left behind: %s", left)
			}
		})
	})
}

// Blobs that no chip can open, or not this one.
func TestBadBlobs(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		x.expect(0, "good.bb", "key", "create", "good", "--dir", x.dir)
		good := x.Get(x.dir + "/good.bb")
		change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
		flip := func(at int) []byte {
			return change(func(b []byte) []byte { b[at] ^= 1; return b })
		}
		for _, c := range []struct {
			name string
			blob []byte
		}{
			{"one byte short", good[:len(good)-1]},
			{"one byte long", append(bytes.Clone(good), 0)},
			{"145 bytes", append(bytes.Clone(good), make([]byte, 145-len(good))...)},
			{"64 KiB", append(bytes.Clone(good), make([]byte, 64<<10)...)},
			{"empty", nil},
			{"header only", good[:20]},
			{"bit of the magic", flip(0)},
			{"bit of the key's length", flip(12)},
			{"bit of the object's length", flip(16)},
			{"bit of the sealed blob key", flip(20)},
			{"bit of the sealed key", flip(20 + 32 + 5)},
			{"bit of the authentication code", flip(20 + 32 + 32 + 15)},
			{"a text", []byte("device: /dev/mmcblk2p3\n")},
			{"noise of the right size", bytes.Repeat([]byte{0xa5, 0x17}, 56)},
		} {
			t.Run(c.name, func(t *testing.T) {
				x := b.bench(t)
				x.Put(x.dir+"/bad.bb", c.blob)
				x.expect(3, "bad.bb", "key", "import", x.dir+"/bad.bb", "--out", x.dir+"/out")
				if x.Sh("test -e "+x.dir+"/out").Code == 0 {
					t.Error("there is a black key")
				}
			})
		}
		t.Run("a black key", func(t *testing.T) {
			x := b.bench(t)
			x.expect(0, "k\n", "key", "create", "k", "--dir", x.dir, "--black-key")
			x.expect(3, "black key", "key", "import", x.dir+"/k")
		})
		t.Run("another chip", func(t *testing.T) {
			x := b.bench(t)
			x.Put(x.dir+"/good.bb", good)
			own := strings.TrimSpace(x.MustSh("cat /sys/module/imxcrypt_simcaam/parameters/otpmk"))
			x.chip("otpmk", strings.Repeat("5a", 32), own)
			x.expect(3, "the hardware rejected the blob", "key", "import", x.dir+"/good.bb")
		})
		t.Run("a chip that was opened", func(t *testing.T) {
			x := b.bench(t)
			x.Put(x.dir+"/good.bb", good)
			x.chip("closed", "0", "1")
			x.expect(3, "the hardware rejected the blob", "key", "import", x.dir+"/good.bb")
		})
		t.Run("the bytes that nothing authenticates", func(t *testing.T) {
			x := b.bench(t)
			x.Put(x.dir+"/good.bb", flip(len(good)-1))
			x.expect(0, "opens on this chip", "key", "import", x.dir+"/good.bb")
		})
	})
}
