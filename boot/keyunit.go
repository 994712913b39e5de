// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"strings"

	"imxcrypt/configs"
)

// keyServiceName is the unit that looks after a volume's key before the volume is
// unmounted.
func keyServiceName(name string) string { return "imxcrypt-key@" + escape(name) + ".service" }

// keyService runs nothing until a mount is about to be stopped, at shutdown or
// before: then it gives the volume its key again if a suspend has killed it.
// systemd unmounts before it locks, and unmounting writes.
func keyService(c *configs.Config, step Step, o UnitOptions, mount string) Unit {
	var b strings.Builder
	line := helperUnit(&b, c, step, "Key of encrypted volume %s before it is unmounted", "imxcrypt-sleep")
	line("BindsTo=%s", mount)
	line("After=%s", mount)
	line("Before=umount.target")
	line("Conflicts=umount.target")
	line("")
	line("[Service]")
	line("Type=oneshot")
	line("RemainAfterExit=yes")
	line("ExecStop=%s sleep resume %s", commandLine(c, o), quoteArgument(step.Spec.Name))
	line("StandardError=journal+console")
	line("TimeoutStopSec=30s")
	line("KeyringMode=private")
	for _, l := range sandbox() {
		line("%s", l)
	}
	return Unit{Path: keyServiceName(step.Spec.Name), Text: b.String()}
}

// helperUnit begins a unit that stands by a volume's service, and returns what adds a
// line to it. description has the volume's name as %s; page is its manual's.
func helperUnit(b *strings.Builder, c *configs.Config, step Step, description, page string) (line func(format string, args ...any)) {
	line = func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	b.WriteString(generated)
	line("[Unit]")
	line("Description="+description, strings.ReplaceAll(step.Spec.Name, "%", "%%"))
	line("Documentation=man:%s(1)", page)
	line("SourcePath=%s", quoteSpecifiers(c.FileOf(step.Spec.Name)))
	line("DefaultDependencies=no")
	line("IgnoreOnIsolate=true")
	return line
}
