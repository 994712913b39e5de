// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"time"
)

// Rotation returns the generation of a volume and how far its rotation has come, in
// bytes, according to `imxcrypt status`. The total is 0 if there is no rotation. The
// test ends if status fails.
func (m *Machine) Rotation(volume string) (generation int, done, total int64) {
	m.t.Helper()
	var status struct {
		Volumes []struct {
			Generation int
			Rotation   struct{ Done, Total int64 }
		}
	}
	r := m.Run("imxcrypt", "status", "--json", volume)
	if r.Code != 0 {
		// On an emulated processor, a table that is being changed can look as if it
		// stayed suspended.
		time.Sleep(time.Second)
		r = m.Run("imxcrypt", "status", "--json", volume)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil || r.Code != 0 || len(status.Volumes) != 1 {
		m.t.Fatalf("status: %v %v", err, r)
	}
	v := status.Volumes[0]
	return v.Generation, v.Rotation.Done, v.Rotation.Total
}
