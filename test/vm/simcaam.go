// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// simcaamModule builds the simulated CAAM's module for the kernel that a machine boots,
// named by its Debian flavour. The build does nothing if nothing has changed.
func simcaamModule(ctx context.Context, top string, flavour string) (string, error) {
	return makeOnce("simcaam "+flavour, func() (string, error) {
		out, err := exec.CommandContext(ctx, filepath.Join(top, "test/simcaam/build"), flavour).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build the simulated CAAM for %s: %w:\n%s", flavour, err, tail(string(out), 30))
		}
		return filepath.Join(top, "build/simcaam", flavour, "imxcrypt_simcaam.ko"), nil
	})
}
