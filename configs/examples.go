// SPDX-License-Identifier: Apache-2.0

package configs

import "embed"

// Examples are configurations to start from, each a .yaml file in the folder
// examples. All of them load.
//
//go:embed examples/*.yaml
var Examples embed.FS
