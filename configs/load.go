// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"strconv"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// Options changes how a file is loaded. The zero value is for a program that
// acts as root on what it reads.
type Options struct {
	// AllowAnyOwner leaves out the checks of owner and mode: for dry runs and
	// checks by somebody who is not root.
	AllowAnyOwner bool
}

// Load reads the configuration from a file that only root can write.
//
// The error is an [*Error] if the file cannot be read or trusted, and [*Errors]
// with everything that is wrong with its contents.
func Load(path string) (*Config, error) { return Options{}.Load(path) }

// Load is [Load] with these options.
func (o Options) Load(path string) (*Config, error) {
	data, err := read(path, o.AllowAnyOwner)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse reads a configuration from bytes. file is their name in messages. The
// error is [*Errors].
func Parse(file string, data []byte) (*Config, error) {
	r := &report{file: file}
	d := &decoder{reader: reader{report: r, given: map[string]position{}, known: map[reflect.Type][]field{}}, file: file}
	c := defaults()
	c.file = file
	if err := d.into(c, data); err != nil {
		return nil, err
	}
	completeVolumes(c, d.given)
	v := &validator{report: r, given: d.given, config: c}
	v.run()
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// maxVolumes bounds the work: volumes are compared with each other.
const maxVolumes = 256

// decoder is what viper reads the bytes with, in place of its own: one pass
// over the file, with the places of all fields kept.
type decoder struct {
	reader
	file    string
	volumes int
}

var (
	_ viper.Decoder         = (*decoder)(nil)
	_ viper.DecoderRegistry = (*decoder)(nil)
)

// Decoder gives viper this decoder for every format.
func (d *decoder) Decoder(string) (viper.Decoder, error) { return d, nil }

// Decode fills values from the bytes. Its error is what was reported if there is
// nothing to go on with; fields that were refused are left out of values.
func (d *decoder) Decode(data []byte, values map[string]any) error {
	root := parseYAML(d.file, data, d.report)
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
	list, _ := values["volumes"].([]any)
	if d.volumes = len(list); d.volumes > maxVolumes {
		d.add(d.given["volumes"], "volumes", strconv.Itoa(d.volumes)+" volumes are more than "+strconv.Itoa(maxVolumes), "leave some out")
		return d.err()
	}
	return nil
}

// into decodes the bytes over the defaults in c.
//
// The viper is an own one that knows nothing but these bytes: no search paths,
// no environment, no watching. It lower-cases keys and turns values into each
// other where it can; the first is why other spellings are refused before it
// sees them, the second is off.
func (d *decoder) into(c *Config, data []byte) error {
	v := viper.NewWithOptions(viper.WithDecoderRegistry(d))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		var problems *Errors
		if errors.As(err, &problems) {
			return problems
		}
		return &Errors{Problems: []*Error{{File: d.file, Reason: "cannot be read", Err: err}}}
	}
	// Elements that are there already are filled, which is how the fields that a
	// volume does not give keep their defaults.
	c.Volumes = make([]Volume, d.volumes)
	for i := range c.Volumes {
		c.Volumes[i] = volumeDefaults()
	}
	err := v.UnmarshalExact(c, func(m *mapstructure.DecoderConfig) {
		m.WeaklyTypedInput = false
		m.DecodeHook = d.fill
	})
	if err != nil {
		return &Errors{Problems: []*Error{{File: d.file, Reason: "cannot be read", Err: err}}}
	}
	return nil
}
