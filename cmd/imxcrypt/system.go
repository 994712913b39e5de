// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"

	"imxcrypt/configs"
	"imxcrypt/volume"
)

// realSystem is the running system, with the CAAM as the configuration names it.
func realSystem(c *configs.Config, log *slog.Logger) volume.System {
	return volume.Real(volume.RealOptions{
		Engine: string(c.CAAM.Engine), CAAMDevice: c.CAAM.Device,
		Program: c.CAAM.Program, Location: c.CAAM.Location, Log: log,
	})
}
