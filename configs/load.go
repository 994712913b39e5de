// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"maps"
	"reflect"
	"strconv"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// Options changes how a file is loaded. The zero value is for a program that acts as root
// on what it reads.
type Options struct {
	// AllowAnyOwner skips the checks of owner and mode, for dry runs and checks
	// by users other than root.
	AllowAnyOwner bool
}

// Load reads the configuration that a path names: the file and the drop-ins in the folder
// FILE.d; for a file in /etc/imxcrypt also the files of the same names in
// /usr/lib/imxcrypt. It refuses files that users other than root can write to.
//
// The error is an [*Error] if a file cannot be read or trusted, and [*Errors]
// with all problems in the contents.
func Load(path string) (*Config, error) { return Options{}.Load(path) }

// Load is [Load] with these options.
func (o Options) Load(path string) (*Config, error) {
	files, err := layersOf(path).read(o.AllowAnyOwner)
	if err != nil {
		return nil, err
	}
	return merge(path, files)
}

// Parse reads a configuration from bytes. file is its name in messages. The
// error is [*Errors].
func Parse(file string, data []byte) (*Config, error) {
	return merge(file, []source{{file, data}})
}

// merge reads a configuration from its files, of which there is at least one. name is the
// name of the whole configuration.
func merge(name string, files []source) (*Config, error) {
	r := &report{}
	d := &decoder{reader: reader{report: r, given: map[string]position{}, known: map[reflect.Type][]field{}, single: map[string]any{}}}
	c := defaults()
	c.file, c.given = name, d.given
	if err := d.into(c, files); err != nil {
		return nil, err
	}
	completeVolumes(c, d.given)
	v := &validator{report: r, given: d.given, config: c}
	v.run()
	if err := r.err(); err != nil {
		return nil, err
	}
	if len(files) > 1 {
		c.definedIn = make(map[string]string, len(c.Volumes))
		for i := range c.Volumes {
			c.definedIn[c.Volumes[i].Name] = d.given[item("volumes", i)].file
		}
	}
	return c, nil
}

// maxVolumes limits the work, because volumes are compared with each other.
const maxVolumes = 256

// decoder replaces viper's own decoders: one pass over each file, which keeps the
// position of every field.
type decoder struct {
	reader
	list []any // the volumes of all files so far
}

var (
	_ viper.Decoder         = (*decoder)(nil)
	_ viper.DecoderRegistry = (*decoder)(nil)
)

// Decoder gives viper this decoder for every format.
func (d *decoder) Decoder(string) (viper.Decoder, error) { return d, nil }

// Decode fills values from the bytes of the report's file, without the fields that
// were refused. It returns the reported errors if nothing can be read. viper does
// not merge lists, so volumes also holds those of earlier files.
func (d *decoder) Decode(data []byte, values map[string]any) error {
	root := parseYAML(d.file(), data, d.report)
	if root == nil {
		return d.err()
	}
	if !d.plain(root, "") {
		return d.err()
	}
	fields := d.section(root, reflect.TypeFor[Config](), "")
	if root.Kind != yaml.MappingNode {
		return d.err()
	}
	if d.full() {
		return d.err()
	}
	maps.Copy(values, fields)
	if list, ok := values["volumes"].([]any); ok {
		d.list = append(d.list, list...)
		values["volumes"] = d.list
	}
	if n := len(d.list); n > maxVolumes {
		d.add(d.given["volumes"], "volumes", strconv.Itoa(n)+" volumes are more than "+strconv.Itoa(maxVolumes), "leave some out")
		return d.err()
	}
	return nil
}

// into decodes the files over the defaults in c, one after the other. It reads all files
// even if one has a problem.
//
// The viper instance sees only these bytes: no search paths, no environment, no
// watching. viper lower-cases keys, which is why other spellings are refused
// before it sees them; its conversion of values is off.
func (d *decoder) into(c *Config, files []source) error {
	v := viper.NewWithOptions(viper.WithDecoderRegistry(d))
	v.SetConfigType("yaml")
	var failed error
	merge := v.ReadConfig
	for _, s := range files {
		d.files = append(d.files, s.file)
		c.files = d.files
		if err := merge(bytes.NewReader(s.data)); err != nil && failed == nil {
			failed = &Errors{Problems: []*Error{{File: s.file, Reason: "cannot be read", Err: err}}}
		}
		merge = v.MergeConfig
	}
	if failed != nil {
		if problems := d.err(); problems != nil {
			return problems
		}
		return failed
	}
	// Decoding fills existing elements, so that fields that a volume does not set keep
	// their defaults.
	c.Volumes = make([]Volume, len(d.list))
	for i := range c.Volumes {
		c.Volumes[i] = volumeDefaults()
	}
	err := v.UnmarshalExact(c, func(m *mapstructure.DecoderConfig) {
		m.WeaklyTypedInput = false
		m.DecodeHook = d.fill
	})
	if err != nil {
		return &Errors{Problems: []*Error{{File: c.file, Reason: "cannot be read", Err: err}}}
	}
	return nil
}
