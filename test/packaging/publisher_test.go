// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The recipes have the address from packaging/publisher, and nothing else in the
// repository's packaging is a placeholder.
func TestPublisher(t *testing.T) {
	t.Parallel()
	const publisher = "packaging/publisher"
	releases := strings.TrimSpace(command(t, top, []string{"sh", "-c", "unset IMXCRYPT_RELEASES; . " + publisher + `; echo "$IMXCRYPT_RELEASES"`}))
	places := map[string]*regexp.Regexp{
		"packaging/yocto/meta-imxcrypt/conf/layer.conf":  regexp.MustCompile(`(?m)^(IMXCRYPT_RELEASES \?\?= ")(.*)(/v\$\{PV\}")$`),
		"packaging/buildroot/package/imxcrypt/Config.in": regexp.MustCompile(`(?m)^(\tstring "where the releases lie"\n\tdefault ")(.*)(")$`),
	}
	for name, line := range places {
		text := read(t, name)
		m := line.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s has no address of the releases", name)
			continue
		}
		if m[2] == releases {
			continue
		}
		if os.Getenv("IMXCRYPT_UPDATE") == "" {
			t.Errorf("%s says %s, %s says %s: IMXCRYPT_UPDATE=1 writes it", name, m[2], publisher, releases)
			continue
		}
		text = line.ReplaceAllLiteralString(text, m[1]+releases+m[3])
		if err := os.WriteFile(filepath.Join(top, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found := command(t, top, []string{"grep", "-rlF", ".example", "packaging"})
	for name := range strings.Lines(found) {
		if name = strings.TrimSpace(name); name != publisher && name != "packaging/release" && places[name] == nil {
			t.Errorf("%s has a placeholder, too", name)
		}
	}
}
