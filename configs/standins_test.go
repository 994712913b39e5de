// SPDX-License-Identifier: Apache-2.0

package configs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/afero"
	"github.com/spf13/viper"
)

// What stands in for afero (internal/afero) does for viper what afero does.
func TestViperReadsAndWritesFilesThroughTheStandIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "board.yaml")
	if err := os.WriteFile(path, []byte("name: data\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range [][]viper.Option{nil, {viper.ExperimentalFinder()}} {
		v := viper.NewWithOptions(options...)
		v.SetConfigName("board")
		v.AddConfigPath(dir)
		if err := v.ReadInConfig(); err != nil || v.GetString("name") != "data" || v.ConfigFileUsed() != path {
			t.Errorf("read %q from %q: %v", v.GetString("name"), v.ConfigFileUsed(), err)
		}
	}
	v := viper.New()
	v.SetConfigFile(path)
	v.Set("name", "logs")
	if err := v.SafeWriteConfigAs(path); !errors.As(err, new(viper.ConfigFileAlreadyExistsError)) {
		t.Errorf("written over what is there: %v", err)
	}
	if err := v.WriteConfigAs(path); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(text)) != "name: logs" {
		t.Errorf("written: %q, %v", text, err)
	}
	v.SetConfigFile(filepath.Join(dir, "missing.yaml"))
	if err := v.ReadInConfig(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestTheStandInForAferoWalks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	err := afero.Walk(afero.NewOsFs(), dir, func(path string, _ fs.FileInfo, err error) error {
		names = append(names, filepath.Base(path))
		return err
	})
	if err != nil || len(names) != 2 || names[1] != "a" {
		t.Errorf("%q, %v", names, err)
	}
	if err := afero.Walk(elsewhere{}, dir, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("another kind of filesystem: %v", err)
	}
}

type elsewhere struct{ afero.Fs }

// The formats whose modules are left out are refused, not misread.
func TestViperRefusesTheFormatsThatAreLeftOut(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"toml", "env"} {
		v := viper.New()
		v.SetConfigType(format)
		if err := v.ReadConfig(strings.NewReader("name=\"data\"\n")); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", format, err)
		}
	}
}

// What stands in for cast (internal/cast) turns values into each other for viper.
func TestViperConvertsThroughTheStandIn(t *testing.T) {
	t.Parallel()
	v := viper.New()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(strings.NewReader("n: 7\ntext: \"12\"\nyes: \"true\"\nwait: 1m30s\nlist: [a, b]\nnumbers: [1, 2]\ngroup: {inner: {name: data}, c: 3}\n")); err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"int":      v.GetInt("n") == 7 && v.GetUint16("text") == 12 && v.GetFloat64("n") == 7,
		"bool":     v.GetBool("yes") && v.GetBool("n") && !v.GetBool("text2"),
		"string":   v.GetString("n") == "7" && v.GetString("text") == "12" && v.GetString("group") == "",
		"duration": v.GetDuration("wait") == 90*time.Second && v.GetDuration("n") == 7,
		"list":     slices.Equal(v.GetStringSlice("list"), []string{"a", "b"}) && slices.Equal(v.GetIntSlice("numbers"), []int{1, 2}),
		"map":      v.GetString("group.inner.name") == "data" && v.GetStringMapString("group.inner")["name"] == "data" && len(v.GetStringMap("group")) == 2,
	} {
		if !ok {
			t.Errorf("%s is converted otherwise", what)
		}
	}
}
