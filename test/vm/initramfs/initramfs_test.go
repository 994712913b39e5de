// SPDX-License-Identifier: Apache-2.0

package initramfs

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// readArchive lists the entries of an archive as "name mode data", following the
// format's documentation.
func readArchive(t *testing.T, archive []byte) []string {
	t.Helper()
	var entries []string
	field := func(n int) int {
		v, err := strconv.ParseUint(string(archive[6+8*n:14+8*n]), 16, 32)
		if err != nil {
			t.Fatalf("field %d: %v", n, err)
		}
		return int(v)
	}
	for {
		if string(archive[:6]) != "070701" {
			t.Fatalf("no magic: %q", archive[:6])
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := string(archive[110 : 110+nameSize-1])
		start := (110 + nameSize + 3) &^ 3
		data := string(archive[start : start+size])
		archive = archive[(start+size+3)&^3:]
		if name == "TRAILER!!!" {
			if len(archive) != 0 {
				t.Errorf("%d bytes after the trailer", len(archive))
			}
			return entries
		}
		entries = append(entries, strings.TrimSpace(name+" "+strconv.FormatInt(int64(mode), 8)+" "+data))
	}
}

func TestArchiveHoldsTheTreeAndItsFolders(t *testing.T) {
	var out bytes.Buffer
	tree := Tree{
		"/init":        {Data: []byte("run"), Perm: 0o755},
		"/usr/bin/sh":  {Link: "busybox"},
		"/usr/bin/one": {Data: []byte("12345"), Perm: 0o600},
		"/bin":         {Link: "usr/bin"},
	}
	n, err := tree.WriteTo(&out)
	if err != nil || n != int64(out.Len()) || n%4 != 0 {
		t.Fatalf("wrote %d of %d bytes: %v", n, out.Len(), err)
	}
	want := []string{
		"bin 120777 usr/bin", "init 100755 run", "usr 40755", "usr/bin 40755",
		"usr/bin/one 100600 12345", "usr/bin/sh 120777 busybox",
	}
	if got := readArchive(t, out.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func modulesForTest(t *testing.T) *Modules {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": `kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-crypt.ko: kernel/drivers/md/dm-mod.ko
kernel/fs/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/fs/a.ko: kernel/fs/b.ko kernel/fs/c.ko
kernel/fs/b.ko: kernel/fs/c.ko
kernel/fs/c.ko:
`,
		"modules.builtin":               "kernel/crypto/cbc.ko\n",
		"modules.alias":                 "# comment\nalias dm-target-crypt dm_crypt\nalias fs-a a\n",
		"modules.softdep":               "softdep dm_crypt pre: xts\nsoftdep other pre: xts\n",
		"kernel/drivers/md/dm-mod.ko":   "mod",
		"kernel/drivers/md/dm-crypt.ko": "crypt",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := OpenModules(dir, "6.1.0-test")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	m := modulesForTest(t)
	for _, test := range []struct{ names, want string }{
		{"dm-crypt", "kernel/drivers/md/dm-mod.ko kernel/drivers/md/dm-crypt.ko"},
		{"dm_crypt dm-mod", "kernel/drivers/md/dm-mod.ko kernel/drivers/md/dm-crypt.ko"},
		{"a", "kernel/fs/c.ko kernel/fs/b.ko kernel/fs/a.ko"},
		{"cbc", ""},
	} {
		got, err := m.Order(strings.Fields(test.names)...)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %v, %v; want %s", test.names, got, err, test.want)
		}
	}
	if _, err := m.Order("nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("an unknown module: %v", err)
	}
}

func TestModprobesIndexesAreCutDown(t *testing.T) {
	tree := Tree{}
	if err := modulesForTest(t).AddTo(tree, "dm-crypt"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"kernel/drivers/md/dm-crypt.ko": "crypt",
		"modules.dep":                   "kernel/drivers/md/dm-mod.ko: \nkernel/drivers/md/dm-crypt.ko: kernel/drivers/md/dm-mod.ko\n",
		"modules.alias":                 "alias dm-target-crypt dm_crypt\n",
		"modules.softdep":               "softdep dm_crypt pre: xts\n",
		"modules.builtin":               "kernel/crypto/cbc.ko\n",
	} {
		if got := string(tree["/usr/lib/modules/6.1.0-test/"+name].Data); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestBusyboxApplets(t *testing.T) {
	got, err := BusyboxApplets([]byte("code\x00[\x00[[\x00ash\x00zcat\x00\x00more\x00\x00"))
	if err != nil || strings.Join(got, " ") != "[ [[ ash zcat" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := BusyboxApplets([]byte("something else")); err == nil {
		t.Error("applets found in something else")
	}
}
