// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"reflect"
	"slices"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
)

func TestKernelCommandLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]boot.KernelOptions{
		"console=ttymxc1 root=/dev/mmcblk2p2 quiet\n":              {},
		"imxcrypt.volumes=data,logs imxcrypt.debug":                {Narrowed: true, Volumes: []string{"data", "logs"}, Debug: true},
		"imxcrypt.volumes=":                                        {Narrowed: true, Volumes: []string{}},
		"imxcrypt.volumes":                                         {Volumes: []string{}},
		"imxcrypt.volumes=a imxcrypt.volumes=b":                    {Narrowed: true, Volumes: []string{"b"}},
		`imxcrypt.config="/etc/my boot.yaml" imxcrypt.debug=0`:     {Config: "/etc/my boot.yaml"},
		`"imxcrypt.config=/etc/my boot.yaml" imxcrypt.debug=yes`:   {Config: "/etc/my boot.yaml", Debug: true},
		"init=/x -- imxcrypt.volumes=none imxcrypt.config=/x.yaml": {},
		"noimxcrypt.debug ximxcrypt.config=/x":                     {},
	} {
		if got := boot.ParseKernelOptions(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, expected %+v", line, got, want)
		}
	}
}

func FuzzKernelCommandLine(f *testing.F) {
	f.Add(`imxcrypt.volumes="a b",c imxcrypt.config=/x "`)
	f.Fuzz(func(t *testing.T, line string) {
		if o := boot.ParseKernelOptions(line); slices.Contains(o.Volumes, "") {
			t.Errorf("%q: a volume without a name", line)
		}
	})
}

func TestTheCommandLineOnlyNarrows(t *testing.T) {
	t.Parallel()
	c := parse(t, nested)
	for line, want := range map[string]struct{ kept, unknown []string }{
		"":                                      {kept: []string{"inner", "logs", "keyed", "data", "outer"}},
		"imxcrypt.volumes=":                     {},
		"imxcrypt.volumes=outer,data,mine,logs": {kept: []string{"logs", "data", "outer"}, unknown: []string{"mine"}},
	} {
		narrowed, unknown := boot.ParseKernelOptions(line).Narrow(c)
		var kept []string
		for _, v := range narrowed.Volumes {
			kept = append(kept, v.Name)
		}
		if !slices.Equal(kept, want.kept) || !slices.Equal(unknown, want.unknown) {
			t.Errorf("%q: kept %v, unknown %v", line, kept, unknown)
		}
		if narrowed.File() != c.File() {
			t.Errorf("%q: the file's name became %q", line, narrowed.File())
		}
	}
	if len(c.Volumes) != 5 || !slices.ContainsFunc(c.Volumes, func(v configs.Volume) bool { return v.Name == "keyed" }) {
		t.Errorf("the configuration itself was changed: %v", c.Volumes)
	}
}
