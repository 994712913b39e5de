// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"path/filepath"
)

// AgentPath is where AgentService expects the agent.
const AgentPath = "/usr/lib/imxcrypt-test/guest"

// AgentService is the unit with which a system of its own runs the agent: from
// early on, in an emergency too, and through a shutdown until the last process
// is ended.
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
