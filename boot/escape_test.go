// SPDX-License-Identifier: Apache-2.0

package boot

import "testing"

// The results of systemd-escape 252 and udev 252.
func TestUnitNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/":                              "-",
		"/data":                          "data",
		"//data///logs/":                 "data-logs",
		"/data/my-logs":                  `data-my\x2dlogs`,
		"/.hidden":                       `\x2ehidden`,
		"/srv/a b":                       `srv-a\x20b`,
		"/dev/mapper/crypt-data":         `dev-mapper-crypt\x2ddata`,
		`/dev/disk/by-partlabel/a\x20b`:  `dev-disk-by\x2dpartlabel-a\x5cx20b`,
		"/srv/ä":                         `srv-\xc3\xa4`,
		"/dev/disk/by-partuuid/0-1_2:3.": `dev-disk-by\x2dpartuuid-0\x2d1_2:3.`,
	} {
		if got := EscapePath(in); got != want {
			t.Errorf("%s: %s, expected %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"data": "imxcrypt@data.service", "my-data.1_": `imxcrypt@my\x2ddata.1_.service`,
	} {
		if got := ServiceName(in); got != want {
			t.Errorf("%s: %s, expected %s", in, got, want)
		}
	}
}

func TestDeviceLinksOfUdev(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"PARTLABEL=data":      "/dev/disk/by-partlabel/data",
		"PARTLABEL=my data/1": `/dev/disk/by-partlabel/my\x20data\x2f1`,
		`LABEL=a\b`:           `/dev/disk/by-label/a\x5cb`,
		"LABEL=ä+#=@:-":       "/dev/disk/by-label/ä+#=@:-",
		"PARTUUID=5F2C-01":    "/dev/disk/by-partuuid/5f2c-01",
		"UUID=ABCD":           "/dev/disk/by-uuid/abcd",
		"/dev//mmcblk2p3":     "/dev/mmcblk2p3",
		"/srv/image":          "",
	} {
		if got := backingPath(in); got != want {
			t.Errorf("%s: %s, expected %s", in, got, want)
		}
	}
}

func TestQuoting(t *testing.T) {
	t.Parallel()
	const nasty = `/etc/a b"c\d$e%f`
	if got, want := quoteArgument(nasty), `"/etc/a b\"c\\d$$e%%f"`; got != want {
		t.Errorf("argument %s, expected %s", got, want)
	}
	if got, want := quoteWord(nasty), `"/etc/a b\"c\\d$e%%f"`; got != want {
		t.Errorf("word %s, expected %s", got, want)
	}
}
