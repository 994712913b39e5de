// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// simcaamModule returns the simulated CAAM's module, built for the kernel that
// the machines boot. Its build does nothing where nothing has changed.
func simcaamModule(ctx context.Context, top string, arch Arch) (string, error) {
	return makeOnce("simcaam "+string(arch), func() (string, error) {
		out, err := exec.CommandContext(ctx, filepath.Join(top, "test/simcaam/build"), string(arch)).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build the simulated CAAM for %s: %w:\n%s", arch, err, tail(string(out), 30))
		}
		return filepath.Join(top, "build/simcaam", string(arch), "imxcrypt_simcaam.ko"), nil
	})
}
