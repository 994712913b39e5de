// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"encoding/json"
	"time"
)

// Rotation is how far `imxcrypt status` says that the rotation of a volume is, in
// bytes; of 0 bytes, if there is none. It ends the test where status fails.
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
		// A table that is just being changed can look as if it stayed suspended,
		// on an emulated processor.
		time.Sleep(time.Second)
		r = m.Run("imxcrypt", "status", "--json", volume)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil || r.Code != 0 || len(status.Volumes) != 1 {
		m.t.Fatalf("status: %v %v", err, r)
	}
	v := status.Volumes[0]
	return v.Generation, v.Rotation.Done, v.Rotation.Total
}
