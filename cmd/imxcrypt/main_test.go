// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"imxcrypt/internal/crashtest"
)

func TestMain(m *testing.M) { crashtest.Main(m) }
