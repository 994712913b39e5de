// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"testing"

	"imxcrypt/dmcrypt"
	"imxcrypt/volume/mapping"
)

// numbered knows only the number of a mapping.
type numbered struct{ mapping.Mapper }

func (numbered) Info(string) (dmcrypt.Info, error) {
	return dmcrypt.Info{Number: dmcrypt.Number{Major: 253, Minor: 7}}, nil
}

// Programs use a volume if the kernel's count has changed since the previous zone. A
// count that cannot be read says nothing.
func TestSharedIsACountThatChanged(t *testing.T) {
	t.Parallel()
	count := ""
	x := &rotating{Manager: &Manager{sys: System{Mapper: numbered{}}}}
	if x.shared() != nil {
		t.Error("a system that counts nothing is asked")
	}
	x.sys.Requests = func(n dmcrypt.Number) string {
		if n.Minor != 7 {
			t.Errorf("asked of %v", n)
		}
		return count
	}
	shared := x.shared()
	for i, c := range []struct {
		count string
		want  bool
	}{{"1", false}, {"1", false}, {"2", true}, {"2", false}, {"3", true}, {"", false}, {"4", false}, {"5", true}} {
		if count = c.count; shared() != c.want {
			t.Errorf("look %d: %q is not %t", i, c.count, c.want)
		}
	}
}
