// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package caam_test

import (
	"testing"

	"imxcrypt/caam/caamtest"
)

// In the VM the same is done with the driver.
func TestProgramIsAnEngine(t *testing.T) {
	t.Parallel()
	chip := caamtest.RandomChip()
	caamtest.TestEngine(t, caamtest.Suite{
		Open:      func(t testing.TB) caamtest.Engine { return install(t, fake{Chip: chip.Save()}) },
		Foreign:   func(testing.TB) caamtest.Engine { return caamtest.RandomChip() },
		NoRedKeys: true,
		NoErrno:   true,
		Costly:    true,
	})
}
