// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"strings"

	"imxcrypt/configs"
)

// keyServiceName returns the name of the unit that restores a volume's key before the
// volume is unmounted.
func keyServiceName(name string) string { return "imxcrypt-key@" + escape(name) + ".service" }

// keyService makes a unit that does nothing until a mount is about to be stopped, at
// shutdown or earlier. Then it restores the volume's key if a suspend has killed it:
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

// helperUnit begins a unit that accompanies a volume's service, and returns a function
// that adds a line to it. %s in description is the volume's name; page is the manual
// page.
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
