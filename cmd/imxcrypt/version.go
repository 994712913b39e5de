// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Long:    "Version prints the program's version, the Go version it was built with, and the\nplatform.\n\n" + exitCodes(),
		Example: "  imxcrypt version --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			return a.printVersion()
		},
	}
}

type versionJSON struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) printVersion() error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if a.json {
		return a.printJSON(versionJSON{Version: version, Go: runtime.Version(), Platform: platform})
	}
	_, err := fmt.Fprintf(a.stdout, "imxcrypt %s (%s, %s)\n", version, runtime.Version(), platform)
	return err
}
