// SPDX-License-Identifier: Apache-2.0

// Package toml stands in for the module go-toml, as internal/afero does for its:
// viper links it for a format that the configuration is never in, and it is 130 kB
// of the program. It has what viper 1.21 compiles against, and refuses.
package toml

import (
	"errors"
	"fmt"
)

// Marshal refuses.
func Marshal(any) ([]byte, error) { return nil, refused() }

// Unmarshal refuses.
func Unmarshal([]byte, any) error { return refused() }

func refused() error { return fmt.Errorf("TOML is not built in: %w", errors.ErrUnsupported) }
