// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/json"
	"io/fs"
	"reflect"
	"testing"
)

// examples calls test for each example file.
func examples(t *testing.T, test func(t *testing.T, name string, data []byte)) {
	t.Helper()
	names, err := fs.Glob(Examples, "examples/*.yaml")
	if err != nil || len(names) < 6 {
		t.Fatalf("examples: %v, %v", names, err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := Examples.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			test(t, name, data)
		})
	}
}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryExampleLoadsAndHasVolumes(t *testing.T) {
	t.Parallel()
	examples(t, func(t *testing.T, name string, data []byte) {
		c, err := Parse(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Volumes) == 0 {
			t.Error("no volumes")
		}
	})
}

func TestWhatIsShownLoadsToTheSame(t *testing.T) {
	t.Parallel()
	examples(t, func(t *testing.T, name string, data []byte) { roundTrip(t, name, data) })
	t.Run("awkward texts", func(t *testing.T) {
		t.Parallel()
		roundTrip(t, "test.yaml", []byte(`
state_dir: "/var/lib/with blank: and # more/\u00e4\u2028"
volumes:
  - name: "123"
    device: "PARTLABEL=true"
    timeout: 1h
    gap: 4KiB
    filesystem: {type: vfat, label: "0x10"}
  - name: "yes"
    device: "LABEL=a b\\c'd"
    timeout: 0s
    header_size: 68KiB
    crypt_flags: [same_cpu_crypt, high_priority]
    filesystem: {label: "null", options: ["-E", "discard,root_owner=1:2"]}
    mount: {path: "/m/ä", options: ["context=\"system_u:object_r:x\""]}
`))
	})
}

func roundTrip(t *testing.T, name string, data []byte) {
	t.Helper()
	first, err := Parse(name, data)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	for form, shown := range map[string][]byte{"YAML": first.YAML(), "JSON": asJSON} {
		again, err := Parse(name, shown)
		if err != nil {
			t.Fatalf("%s as shown does not load: %v\n%s", form, err, shown)
		}
		// An empty list is the same as none.
		if string(again.YAML()) != string(first.YAML()) || !reflect.DeepEqual(emptied(again), emptied(first)) {
			t.Errorf("%s as shown:\n%s\nloads to another configuration:\n%s", form, shown, again.YAML())
		}
	}
}

// emptied makes empty lists nil, so that they compare equal to absent ones.
func emptied(c *Config) Config {
	e := *c
	e.given = nil // positions depend on how the file is written
	e.Volumes = append([]Volume(nil), c.Volumes...)
	for i := range e.Volumes {
		v := &e.Volumes[i]
		for _, list := range []*[]string{&v.CryptFlags, &v.Filesystem.Options, &v.Mount.Options} {
			if len(*list) == 0 {
				*list = nil
			}
		}
	}
	return e
}

func TestShowOfTheMinimalExample(t *testing.T) {
	t.Parallel()
	data, err := Examples.ReadFile("examples/minimal.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const want = `state_dir: /var/lib/imxcrypt
mapping_prefix: ""
allow_insecure: false
caam:
  engine: ioctl
  device: /dev/caam-keygen
  program: /usr/bin/caam-keygen
  location: /data/caam
volumes:
  - name: data
    device: /dev/mmcblk2p3
    size: 0MiB
    source: auto
    key: stored
    trusted: null
    protected: false
    wrap: ""
    key_size: 0
    cipher: ""
    sector_size: 4096
    header: device
    header_size: 1MiB
    gap: 1MiB
    allow_discards: false
    grow: false
    crypt_flags: []
    allow_open_state: false
    allow_unbound_header: false
    on_plaintext: refuse
    uuid: ""
    filesystem:
      type: ext4
      label: data
      uuid: ""
      options: []
    mount: null
    at_boot: true
    required: true
    timeout: 10s
`
	if got := string(parse(t, string(data)).YAML()); got != want {
		t.Errorf("shown:\n%s\nwant:\n%s", got, want)
	}
}
