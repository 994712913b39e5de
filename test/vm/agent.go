// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"path/filepath"
)

// AgentPath is where AgentService expects the agent.
const AgentPath = "/usr/lib/imxcrypt-test/guest"

// AgentService is the unit that runs the agent in a complete system. The unit starts
// early, also runs in emergency mode, and survives a shutdown until the last process
// has ended.
const AgentService = `[Unit]
Description=Agent of the test
DefaultDependencies=no
IgnoreOnIsolate=yes
After=systemd-journald.socket
[Service]
ExecStart=` + AgentPath + `
KillMode=process
SendSIGKILL=no
TasksMax=infinity
[Install]
WantedBy=sysinit.target
`

// Agent builds the agent and returns the file.
func Agent(t TB, arch Arch) string {
	t.Helper()
	top, err := moduleRoot()
	if err == nil {
		var file string
		if file, err = buildAgent(context.Background(), top, arch); err == nil {
			return file
		}
	}
	t.Fatalf("%v", err)
	return ""
}

func buildAgent(ctx context.Context, top string, arch Arch) (string, error) {
	file := filepath.Join(top, "build/vm", string(arch), "guest")
	return makeOnce(file, func() (string, error) {
		return file, goBuild(ctx, top, file, string(arch), "build", "./test/guest")
	})
}
