// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"strings"

	"imxcrypt/configs"
)

// missingServiceName is the unit that says why a volume was not even tried.
func missingServiceName(name string) string { return "imxcrypt-missing@" + escape(name) + ".service" }

// missingService says in our words what is missing. Where a device does not come, systemd
// gives up the service that waits for it before that has run: it says "Dependency
// failed", and imxcrypt nothing. The unit is started by the failure of that job; where
// the device is there the service has spoken for itself. backing is what udev calls the
// device.
func missingService(c *configs.Config, step Step, o UnitOptions, backing string) Unit {
	var b strings.Builder
	line := helperUnit(&b, c, step, "What encrypted volume %s lacks", "imxcrypt-boot")
	line("ConditionPathExists=!%s", quoteSpecifiers(backing))
	line("")
	line("[Service]")
	line("Type=oneshot")
	// It fails as it should; the failed unit is the volume's.
	line("ExecStart=-%s unlock --no-wait --dry-run %s", commandLine(c, o), quoteArgument(step.Spec.Name))
	line("StandardOutput=null")
	line("StandardError=journal+console")
	line("TimeoutStartSec=%s", seconds(unlockTime))
	for _, l := range sandbox() {
		line("%s", l)
	}
	return Unit{Path: missingServiceName(step.Spec.Name), Text: b.String()}
}
