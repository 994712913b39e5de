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
		Long:    "Version prints the program's version, the Go version it was built with, and the\nplatform.\n\n" + exitCodesHelp,
		Example: "  imxcrypt version --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			return a.printVersion()
		},
	}
}

func (a *app) printVersion() error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	if a.json {
		return a.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": platform})
	}
	_, err := fmt.Fprintf(a.stdout, "imxcrypt %s (%s, %s)\n", version, runtime.Version(), platform)
	return err
}
