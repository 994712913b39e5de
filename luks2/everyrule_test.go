// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestMoreValuesThanAnyHeaderHas(t *testing.T) {
	t.Parallel()
	list := func(values int) []byte {
		return []byte("[" + strings.Repeat("1,", values-2) + "1]") // the list is a value too
	}
	if _, _, err := parseJSON(list(maxJSONValues)); err != nil {
		t.Errorf("%d values: %v", maxJSONValues, err)
	}
	_, _, err := parseJSON(list(maxJSONValues + 1))
	wantRule(t, err, RuleJSONCount)
}

func TestADeviceSmallerThanItsHeaderArea(t *testing.T) {
	t.Parallel()
	m := build(t, ourText(t), nil)
	const area = 2*DefaultCopySize + 1015808 // keyslots_size of ourText
	for _, size := range []int64{area - 4096, 2*DefaultCopySize + 4096} {
		_, _, err := Read(m, size)
		wantRule(t, err, RuleDeviceSize)
	}
}

func TestADamagedCopyNamesItsRule(t *testing.T) {
	t.Parallel()
	m := build(t, ourText(t), nil)
	m.data[1] ^= 0xff
	_, copies, err := Read(m, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	wantRule(t, copies.Primary.Err, RuleMagic)
	// A device that ends within the only copy.
	m = build(t, ourText(t), nil)
	_, copies, err = Read(m, DefaultCopySize-4096)
	var damaged *DamagedError
	if !errors.As(err, &damaged) {
		t.Fatal(err)
	}
	wantRule(t, copies.Primary.Err, RuleTruncated)
}

// Every rule has a header that breaks it.
func TestEveryRuleIsBrokenByATest(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("rules.go")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	rules := regexp.MustCompile(`(?m)^\t(Rule\w+)\s+Rule = `).FindAllStringSubmatch(string(source), -1)
	if len(rules) < 40 {
		t.Fatalf("%d rules found", len(rules))
	}
	for _, rule := range rules {
		if !regexp.MustCompile(`\b` + rule[1] + `\b`).MatchString(tests.String()) {
			t.Errorf("no test breaks %s", rule[1])
		}
	}
	t.Logf("%d rules", len(rules))
}
