// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/internal/keysource"
)

// doctor finds nothing missing in the kernels that our recipes configure: they set each
// option that it looks for, under its full name.
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
	// What volumes of a source may need, whatever else the configuration says.
	wanted := func(source string) []string {
		x := &examination{Machine: Machine{Volumes: []Volume{
			{Source: source, Image: true}, {Source: "trusted"}, {Source: "trusted", Cipher: keysource.Adiantum},
		}}}
		var names []string
		for _, o := range wantedOptions() {
			if x.wants(o) {
				names = append(names, o.name)
			}
		}
		if source == "trusted" {
			names = append(names, "CONFIG_TRUSTED_KEYS", "CONFIG_TRUSTED_KEYS_CAAM", "CONFIG_CRYPTO_DEV_FSL_CAAM", "CONFIG_CRYPTO_DEV_FSL_CAAM_JR")
		}
		return names
	}
	check := func(what, source string, options map[string]string) {
		t.Helper()
		for _, name := range wanted(source) {
			if options[name] != "y" {
				t.Errorf("%s: %s is %q", what, name, options[name])
			}
		}
	}
	choices := regexp.MustCompile(`(?m)^IMXCRYPT_KERNEL_FRAGMENTS(:pn-[a-z-]+)? \?\?= "([^"]*)"$`).
		FindAllStringSubmatch(read("yocto/meta-imxcrypt/classes/imxcrypt.bbclass"), -1)
	if len(choices) < 4 {
		t.Errorf("the class has the fragments of %d kernels: %q", len(choices), choices)
	}
	for _, c := range choices {
		var texts []string
		for _, name := range strings.Fields(c[2]) {
			texts = append(texts, read(kernel+name))
		}
		// The one that no recipe names is for mainline's kernels.
		source := map[bool]string{true: "trusted", false: "caam"}[c[1] == ""]
		check("Yocto's fragments "+c[2], source, set(texts...))
	}
	common, rest, _ := strings.Cut(read("buildroot/package/imxcrypt/imxcrypt.mk"), "\nifeq ($(BR2_PACKAGE_IMXCRYPT_NXP_KERNEL),y)\n")
	nxp, mainline, found := strings.Cut(rest, "\nelse\n")
	if !found {
		t.Fatal("imxcrypt.mk does not distinguish NXP's kernels from mainline's")
	}
	check("Buildroot's package, NXP's kernel", "caam", set(common, nxp))
	check("Buildroot's package, mainline's kernel", "trusted", set(common, mainline))
	// Kconfig silently ignores a line that does not begin with CONFIG_.
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
