// SPDX-License-Identifier: Apache-2.0

// Package gotenv stands in for the module of that name, as internal/afero does
// for its: viper links it for a format that the configuration is never in, and it
// compiles regular expressions at each start. It has what viper 1.21 compiles
// against, and refuses.
package gotenv

import (
	"errors"
	"fmt"
	"io"
)

// Env are variables by their names.
type Env map[string]string

// StrictParse refuses.
func StrictParse(io.Reader) (Env, error) {
	return nil, fmt.Errorf("files of environment variables are not built in: %w", errors.ErrUnsupported)
}
