// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"strings"

	"imxcrypt/configs"
)

// missingServiceName returns the name of the unit that says why a volume was not tried.
func missingServiceName(name string) string { return "imxcrypt-missing@" + escape(name) + ".service" }

// missingService makes a unit that reports what is missing. If a device does not appear,
// systemd fails the service that waits for it before it has run: systemd says "Dependency
// failed", and imxcrypt says nothing. The failure of that job starts this unit. If the
// device is there, the unit does nothing, because the service has reported its failure
// itself. backing is udev's path of the device.
func missingService(c *configs.Config, step Step, o UnitOptions, backing string) Unit {
	var b strings.Builder
	line := helperUnit(&b, c, step, "What encrypted volume %s lacks", "imxcrypt-boot")
	line("ConditionPathExists=!%s", quoteSpecifiers(backing))
	line("")
	line("[Service]")
	line("Type=oneshot")
	// The command is expected to fail; the unit that counts as failed is the volume's.
	line("ExecStart=-%s unlock --no-wait --dry-run %s", commandLine(c, o), quoteArgument(step.Spec.Name))
	line("StandardOutput=null")
	line("StandardError=journal+console")
	line("TimeoutStartSec=%s", seconds(unlockTime))
	for _, l := range sandbox() {
		line("%s", l)
	}
	return Unit{Path: missingServiceName(step.Spec.Name), Text: b.String()}
}
