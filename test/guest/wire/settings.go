// SPDX-License-Identifier: Apache-2.0

package wire

// SettingsPath is where the host puts Settings in the initramfs.
const SettingsPath = "/etc/guest.json"

// Settings are what the agent does before it says Hello.
type Settings struct {
	// Modules are loaded in this order.
	Modules []Module `json:"modules"`
	// Withheld are files removed before anything else, to simulate a kernel without
	// some module.
	Withheld []string `json:"withheld,omitempty"`
	// Root is a device with a filesystem. Once the modules are loaded, its /sbin/init
	// replaces the agent.
	Root string `json:"root,omitempty"`
}

// Module is one kernel module: its path in the guest and its parameters,
// "name=value" separated by spaces.
type Module struct {
	Path   string `json:"path"`
	Params string `json:"params,omitempty"`
}
