// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A copy of a mount in another namespace stays, unless the kernel unmounts it with ours
// because it follows the mount that ours is on.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	const (
		root   = "1 0 8:2 / / rw - ext4 /dev/root rw\n"
		shared = "1 0 8:2 / / rw shared:1 - ext4 /dev/root rw\n"
		data   = "40 1 253:0 / /data rw - ext4 /dev/mapper/data rw\n"
	)
	for name, c := range map[string]struct {
		ours, others, third string
		stays               string
	}{
		"nowhere":                {ours: root + data, others: root},
		"a copy":                 {ours: root + data, others: root + data, stays: "/data"},
		"only there":             {ours: root, others: root + data, stays: "/data"},
		"a copy of a shared one": {ours: shared + data, others: root + data, stays: "/data"},
		"a follower":             {ours: shared + data, others: "11 0 8:2 / / rw master:1 - ext4 /dev/root rw\n41 11 253:0 / /data rw - ext4 /dev/mapper/data rw\n"},
		"a peer":                 {ours: shared + data, others: shared + data},
		"a follower, in a container": {
			ours:   shared + data,
			others: "10 0 0:50 / / rw - overlay overlay rw\n11 10 8:2 / /host rw master:1 - ext4 /dev/root rw\n41 11 253:0 / /host/data rw - ext4 /dev/mapper/data rw\n",
		},
		"a bind mount in a container": {
			ours:   shared + data,
			others: "10 0 0:50 / / rw - overlay overlay rw\n41 10 253:0 /db /var/lib/db rw - ext4 /dev/mapper/data rw\n",
			stays:  "/var/lib/db",
		},
		"a follower elsewhere in its tree": {
			ours:   shared + data,
			others: "11 0 8:2 / / rw master:1 - ext4 /dev/root rw\n41 11 253:0 / /srv rw - ext4 /dev/mapper/data rw\n",
			stays:  "/srv",
		},
		"a follower's follower": {
			ours:   shared + data,
			others: "11 0 8:2 / / rw master:2 - ext4 /dev/root rw\n41 11 253:0 / /data rw - ext4 /dev/mapper/data rw\n",
			third:  "21 0 8:2 / / rw shared:2 master:1 - ext4 /dev/root rw\n",
		},
		"something else's": {ours: root + data, others: root + "41 1 253:1 / /data rw - ext4 /dev/mapper/other rw\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			for dir, p := range map[string]struct{ ns, mounts string }{
				"self": {"1", c.ours}, "1": {"1", c.ours}, "812": {"2", c.others}, "815": {"2", c.others}, "900": {"3", c.third}, "901": {"4", ""},
			} {
				if err := os.MkdirAll(filepath.Join(proc, dir, "ns"), 0o755); err != nil {
					t.Fatal(err)
				}
				for file, text := range map[string]string{"mountinfo": p.mounts, "comm": "program\n"} {
					if err := os.WriteFile(filepath.Join(proc, dir, file), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Symlink("mnt:["+p.ns+"]", filepath.Join(proc, dir, "ns/mnt")); err != nil {
					t.Fatal(err)
				}
			}
			err := elsewhere(proc, func(e *Entry) bool { return e.Major == 253 && e.Minor == 0 })
			var is *ElsewhereError
			switch {
			case c.stays == "" && err != nil:
				t.Error(err)
			case c.stays != "" && (!errors.As(err, &is) || is.Target != c.stays || !strings.Contains(err.Error(), "process 812 (program), 815 (program)")):
				t.Error(err)
			}
		})
	}
}
