// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"slices"

	"imxcrypt/internal/fsprobe"
	"imxcrypt/internal/mkfs"
)

func filesystemTypes() []string {
	return slices.Concat(mkfs.Types(), fsprobe.ReadOnlyTypes(), []string{FilesystemSwap, FilesystemNone})
}
