// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"strings"
	"testing"
)

// nxp is a program that behaves like NXP's caam-keygen: messages on standard output (an
// empty one if the hardware failed), exit code 0 whatever happens, and files of mode
// 0644 in one fixed place, overwriting existing ones.
const nxp = `#!/bin/sh
umask 022
cd LOCATION || { echo "no folder"; exit 0; }
case $1 in
create) [ "$4" = -s ] || { echo "only random keys"; exit 0; }
	CLIENT create "$3" "$5" "$2" "$2.bb" >/dev/null 2>&1 || { echo; exit 0; } ;;
import) CLIENT import "$2" "$3" >/dev/null 2>&1 || { echo; exit 0; } ;;
*) echo "CAAM keygen usage" ;;
esac
chmod 644 ./* 2>/dev/null
exit 0
`

// NXP's program may make and open keys instead. Each engine opens the other's volumes.
func TestNXPsProgram(t *testing.T) {
	benches(t, mainBoard(), func(t *testing.T, b board) {
		x := b.bench(t)
		location := x.dir + "/nxp"
		x.Put(x.dir+"/caam-keygen", []byte(strings.NewReplacer("LOCATION", location, "CLIENT", x.client()).Replace(nxp)))
		x.MustSh("chmod 755 " + x.dir + "/caam-keygen; mkdir " + location)
		volume := x.volume("data", x.loop("disk"), "mount: "+x.dir+"/mnt")
		engine := "caam: {engine: caam-keygen, program: " + x.dir + "/caam-keygen, location: " + location + "}"
		x.configureText(volume, engine)

		x.expect(0, "mounted on", "provision", "data")
		x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
		x.expect(0, "locked", "lock", "data")
		x.powerCycle()
		x.expect(0, "mounted on", "boot")
		x.fox()
		x.expect(0, "k.bb", "key", "create", "k", "--dir", x.dir)
		if left := x.MustRun("ls", "-A", location); left != "" {
			t.Errorf("the program has left %s", left)
		}
		x.expect(0, "locked", "lock", "data")

		t.Log("the other engine opens it too")
		x.configureText(volume)
		x.expect(0, "mounted on", "boot")
		x.fox()
		x.expect(0, "locked", "lock", "data")
		x.configureText(volume, engine)

		t.Log("exit code 0 is not believed")
		own := strings.TrimSpace(x.MustSh("cat /sys/module/imxcrypt_simcaam/parameters/otpmk"))
		x.chip("otpmk", strings.Repeat("5a", 32), own)
		x.expect(3, "did not say why", "boot")
		x.MustSh("rm " + x.dir + "/caam-keygen")
		x.expect(4, x.dir+"/caam-keygen", "boot")
	})
}
