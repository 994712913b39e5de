// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"imxcrypt/test/vm"
)

const rotatedVolume = `volumes:
  - name: data
    device: /dev/vda
    wrap: WRAP
    mount: {path: /data}
`

// rotated is a board with one volume that is rotated while it is in use.
type rotated struct {
	board
	*vm.Machine
	t    *testing.T
	wrap string
	load string // the host's path of the load
}

// prepare puts what the guest needs after each boot.
func (r *rotated) prepare() {
	r.t.Helper()
	r.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(strings.ReplaceAll(rotatedVolume, "WRAP", r.wrap)))
	r.PutFile("/opt/load", r.load)
	r.MustSh("mkdir -p /data")
}

func (r *rotated) expect(code int, text string, args ...string) {
	r.t.Helper()
	r.board.expect(r.t, r.Run(append([]string{"imxcrypt"}, args...)...), code, text)
}

// busy starts the load; the function it returns ends it and tells what it saw.
func (r *rotated) busy() (end func()) {
	p := r.Start("/opt/load", "/data")
	return func() {
		r.t.Helper()
		p.Signal(syscall.SIGTERM)
		result := p.Wait()
		r.t.Logf("load: %s", strings.TrimSpace(result.Stdout))
		if result.Code != 0 {
			r.t.Fatalf("the load failed: %v", result)
		}
	}
}

// rotation is what status says.
func (r *rotated) rotation() (generation int, done, total int64) {
	r.t.Helper()
	var status struct {
		Volumes []struct {
			Generation int
			Rotation   *struct{ Done, Total int64 }
		}
	}
	result := r.Run("imxcrypt", "status", "--json", "data")
	if err := json.Unmarshal([]byte(result.Stdout), &status); err != nil || result.Code != 0 || len(status.Volumes) != 1 {
		r.t.Fatalf("status: %v %v", err, result)
	}
	v := status.Volumes[0]
	if v.Rotation == nil {
		return v.Generation, 0, 0
	}
	return v.Generation, v.Rotation.Done, v.Rotation.Total
}

// onlyTheVolume: nothing of a rotation is left in the kernel.
func (r *rotated) onlyTheVolume(generation int) {
	r.t.Helper()
	if list := r.MustRun("dmsetup", "ls"); strings.Count(list, "\n") != 1 || !strings.HasPrefix(list, "data\t") {
		r.t.Fatalf("mappings: %s", list)
	}
	if table := r.MustRun("dmsetup", "table", "data"); !strings.Contains(table, " crypt ") {
		r.t.Fatalf("table: %s", table)
	}
	if g, _, total := r.rotation(); g != generation || total != 0 {
		r.t.Fatalf("generation %d, of a rotation of %d bytes", g, total)
	}
}

// A volume is rotated while it is mounted and written to.
func TestRotation(t *testing.T) {
	for _, c := range []struct {
		board
		wrap string
	}{{board{vm.AMD64, "amd64"}, "ecb"}, {board{vm.ARM64, "arm64"}, "ccm"}} {
		t.Run(c.goarch+" "+c.wrap, func(t *testing.T) {
			r := &rotated{board: c.board, t: t, wrap: c.wrap, load: vm.BuildProgram(t, "./test/load", c.goarch)}
			r.Machine = c.start(t, vm.NewDisk(t, 10<<20))
			r.prepare()
			r.expect(0, "mounted on /data", "provision", "data")
			r.wholly()
		})
	}
}

func (r *rotated) wholly() {
	before := r.MustSh("dd if=/dev/vda bs=1M skip=3 count=1 2>/dev/null | sha256sum")
	end := r.busy()
	r.expect(0, `"ok":true`, "rotate", "--json", "data")
	end()
	r.onlyTheVolume(2)
	if after := r.MustSh("dd if=/dev/vda bs=1M skip=3 count=1 iflag=direct 2>/dev/null | sha256sum"); after == before {
		r.t.Fatal("the device was not encrypted anew")
	}
	r.expect(0, "this chip opens it", "verify", "data")
	r.expect(0, "locked", "lock", "data")
	r.MustSh("imxcrypt unlock data && e2fsck -fn /dev/mapper/data")
}
