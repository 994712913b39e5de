// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFstab(t *testing.T) {
	t.Parallel()
	const text = "# comment\n\n/dev/mapper/data /data ext4 defaults 0 2\n" +
		"\t#/dev/x /x\nUUID=1 /srv/a\\040b auto nofail\nshort\n/dev/vda\\134x none swap\n"
	got := ParseFstab(text)
	want := []FstabEntry{{"/dev/mapper/data", "/data"}, {"UUID=1", "/srv/a b"}, {`/dev/vda\x`, "none"}}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q, expected %q", got[i], want[i])
		}
	}
}

func FuzzFstab(f *testing.F) {
	f.Add("/dev/mapper/data /da\\040ta ext4\n")
	f.Add("a\\777 \\04")
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range ParseFstab(text) {
			if e.Source == "" || e.Target == "" {
				t.Errorf("%q: %q", text, e)
			}
		}
	})
}

func TestInFstab(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"srv/images/deep", "plain"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("srv/images", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	fstab := filepath.Join(root, "fstab")
	text := "/dev/root / auto\n#x " + root + "/plain\n/dev/swap none swap\n/dev/a " + root + "/srv ext4 defaults\n" +
		"/dev/b " + root + "/link/deep ext4 noauto\n/dev/c " + root + "/nowhere auto\n/dev/d " + root + "/sr auto\n"
	if err := os.WriteFile(fstab, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"plain/a.img":             "",
		"nowhere/a.img":           "",
		"srv/a.img":               "srv",
		"srv/images/a.img":        "srv",
		"link/a.img":              "srv",
		"link/deep/a.img":         "srv/images/deep",
		"srv/images/deep/a.img":   "srv/images/deep",
		"srv/images/deeper/a.img": "",
	} {
		if want != "" {
			want = filepath.Join(root, want)
		}
		if got, err := inFstab(fstab, filepath.Join(root, file)); err != nil || got != want {
			t.Errorf("%s: %q, %v; expected %q", file, got, err, want)
		}
	}
	if got, err := inFstab(filepath.Join(root, "missing"), filepath.Join(root, "srv/a.img")); err != nil || got != "" {
		t.Errorf("without fstab: %q, %v", got, err)
	}
	if _, err := inFstab(root, filepath.Join(root, "srv/a.img")); err == nil {
		t.Error("an fstab that cannot be read has nothing to say")
	}
}
