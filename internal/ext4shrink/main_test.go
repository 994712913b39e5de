// SPDX-License-Identifier: Apache-2.0

package ext4shrink_test

import (
	"testing"

	"imxcrypt/internal/crashtest"
)

func TestMain(m *testing.M) { crashtest.Main(m) }
