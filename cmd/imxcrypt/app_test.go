// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

// If a command is named first, only that command is built.
func TestEachCommandIsMadeAlone(t *testing.T) {
	t.Parallel()
	all := shown((&app{}).root())
	if len(all) < 10 {
		t.Fatalf("%d commands", len(all))
	}
	for _, c := range all {
		if c.Name() == "imxcrypt" || c.Parent().Name() != "imxcrypt" || c.Name() == "completion" || c.Name() == "help" {
			continue
		}
		built := (&app{}).root(c.Name(), "--help").Commands()
		if len(built) != 1 || built[0].Name() != c.Name() {
			t.Errorf("%s: %d commands are made", c.Name(), len(built))
		}
	}
}
