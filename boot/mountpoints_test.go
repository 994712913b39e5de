// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
)

func TestMountPointsThatLinksMakeUnusable(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"var/volatile", "data/log"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"var/log": "volatile/log", "srv": "/data", "a": "b", "b": "a", "shm": "dev/shm", "settings": "etc", "top": "..",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ mounts, want []string }{
		"without links":      {[]string{"/data", "/data/log", "/home"}, nil},
		"as on Yocto":        {[]string{"/var/log", "/data"}, nil},
		"through each link":  {[]string{"/srv/log", "/srv"}, nil},
		"a circle":           {[]string{"/a/x"}, []string{"v0: mount point /a/x cannot be reached: its symbolic links lead in a circle"}},
		"the kernel's":       {[]string{"/shm/x"}, []string{"v0: mount point /shm/x leads to /dev/shm/x: /dev/shm/x is the kernel's"}},
		"a system folder":    {[]string{"/settings"}, []string{"v0: mount point /settings leads to /etc: mounting over /etc would hide what runs from there"}},
		"the root":           {[]string{"/top"}, []string{"v0: mount point /top leads to /: the running system is mounted there"}},
		"one folder":         {[]string{"/var/volatile/log", "/var/log"}, []string{"v1: mount point /var/log and that of volume v0, /var/volatile/log, are the same folder, /var/volatile/log"}},
		"below another":      {[]string{"/data", "/srv/log"}, []string{"v1: mount point /srv/log leads to /data/log, in the mount of volume v0, which may be mounted over it"}},
		"a volume unmounted": {[]string{"", "/srv"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "volumes:\n"
			for i, m := range c.mounts {
				text += fmt.Sprintf("  - {name: v%d, device: /dev/sd%c", i, 'a'+i)
				if m != "" {
					text += ", mount: " + m
				}
				text += "}\n"
			}
			config, err := configs.Parse("test", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range boot.MountProblems(config, root) {
				if p.Remedy == "" {
					t.Errorf("%+v has no remedy", p)
				}
				got = append(got, p.Volume+": "+p.Text)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}
