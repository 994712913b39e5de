// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The kernels that our recipes configure are those that doctor does not complain
// of: each option that it looks for is set, under its whole name.
func TestRecipesSetTheOptionsThatAreLookedFor(t *testing.T) {
	t.Parallel()
	const packaging = "../../packaging/"
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(packaging + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const kernel = "yocto/meta-imxcrypt/files/kernel/"
	set := func(texts ...string) map[string]string {
		options := map[string]string{}
		for _, text := range texts {
			for name, value := range parseOptions([]byte(text)) {
				options[name] = value
			}
			for _, m := range regexp.MustCompile(`KCONFIG_ENABLE_OPT,(CONFIG_[A-Z0-9_]+)\)`).FindAllStringSubmatch(text, -1) {
				options[m[1]] = "y"
			}
		}
		return options
	}
	for what, options := range map[string]map[string]string{
		"Yocto's fragments":   set(read(kernel+"imxcrypt.cfg"), read(kernel+"imxcrypt-caam.cfg")),
		"Buildroot's package": set(read("buildroot/package/imxcrypt/imxcrypt.mk")),
	} {
		for _, o := range wantedOptions() {
			if options[o.name] != "y" {
				t.Errorf("%s: %s is %q", what, o.name, options[o.name])
			}
		}
	}
	// Kconfig passes over a line that does not begin with CONFIG_ without a word.
	fragments, err := filepath.Glob(packaging + kernel + "*.cfg")
	if err != nil || len(fragments) < 3 {
		t.Fatalf("fragments %q: %v", fragments, err)
	}
	line := regexp.MustCompile(`^(#.*|CONFIG_[A-Z0-9_]+=[ym])?$`)
	for _, file := range fragments {
		for i, l := range regexp.MustCompile(`\n`).Split(read(file[len(packaging):]), -1) {
			if !line.MatchString(l) {
				t.Errorf("%s:%d sets nothing: %s", file, i+1, l)
			}
		}
	}
}
