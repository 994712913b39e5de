// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/secret"
)

// changing is a chip that seals another key than the one that it is given.
type changing struct{ *caamtest.Chip }

func (c changing) CreateFrom(ctx context.Context, w caam.Wrap, red *secret.Buffer) (*caam.BlackKey, caam.Blob, error) {
	return c.Create(ctx, w, red.Len())
}
