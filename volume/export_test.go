// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"time"
)

// WakeWithin is Wake with another patience.
func (v *InUse) WakeWithin(ctx context.Context, patience time.Duration) error {
	return v.wake(ctx, true, patience)
}
