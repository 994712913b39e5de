// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
)

func (a *app) configCommand() *cobra.Command {
	return group("config", "check and show the configuration",
		`Config judges the configuration, prints it with every default, and prints
examples to begin with.`,
		"  imxcrypt config example minimal\n  imxcrypt config check",
		&cobra.Command{
			Use:     "check",
			Short:   "read the configuration and say what is wrong with it",
			Long:    "Check reads the configuration and names everything that is wrong with it,\neach with its place and what to do.\n\n" + exitCodesHelp,
			Example: "  imxcrypt config check\n  imxcrypt --config ./imxcrypt.yaml config check",
			Args:    exactly(0, "no arguments"),
			RunE: func(*cobra.Command, []string) error {
				c, err := a.loadConfig()
				if err != nil {
					return err
				}
				if _, err := boot.NewPlan(c); err != nil {
					return err
				}
				for _, v := range c.Volumes {
					if v.Source == configs.SourceDev && !c.AllowInsecure {
						a.log.Warn("source dev protects nothing and is refused without --allow-insecure or allow_insecure: true", "volume", v.Name)
					}
				}
				if a.json {
					return a.printJSON(map[string]any{"file": c.File(), "volumes": len(c.Volumes)})
				}
				fmt.Fprintf(a.stdout, "%s: nothing wrong (volumes: %d)\n", c.File(), len(c.Volumes))
				return nil
			},
		}, &cobra.Command{
			Use:     "show",
			Short:   "print the configuration with every default",
			Long:    "Show prints the configuration with every default filled in, as a file that can\nbe used as it is.\n\n" + exitCodesHelp,
			Example: "  imxcrypt config show\n  imxcrypt config show --json",
			Args:    exactly(0, "no arguments"),
			RunE: func(*cobra.Command, []string) error {
				c, err := a.loadConfig()
				if err != nil {
					return err
				}
				if a.json {
					return a.printJSON(c)
				}
				_, err = a.stdout.Write(c.YAML())
				return err
			},
		}, &cobra.Command{
			Use:     "example [NAME]",
			Short:   "print an example configuration, or the names of all",
			Long:    "Example prints an example configuration to begin with. Without a name it lists\nthem.\n\n" + exitCodesHelp,
			Example: "  imxcrypt config example minimal > /etc/imxcrypt/imxcrypt.yaml",
			Args: func(_ *cobra.Command, args []string) error {
				if len(args) > 1 {
					return fault.New(fault.Usage, "imxcrypt config example takes one name at most", nil)
				}
				return nil
			},
			ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
				names, err := exampleNames()
				if err != nil || len(given) > 0 {
					names = nil
				}
				return names, cobra.ShellCompDirectiveNoFileComp
			},
			RunE: func(_ *cobra.Command, args []string) error {
				return a.configExample(args)
			},
		})
}

func exampleNames() ([]string, error) {
	files, err := fs.Glob(configs.Examples, "examples/*.yaml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	return files, err
}

func (a *app) configExample(args []string) error {
	if len(args) == 0 {
		names, err := exampleNames()
		for _, n := range names {
			fmt.Fprintln(a.stdout, n)
		}
		if err == nil {
			fmt.Fprintln(a.stderr, "`imxcrypt config example NAME` prints one of them")
		}
		return err
	}
	text, err := configs.Examples.ReadFile("examples/" + args[0] + ".yaml")
	if err != nil {
		names, err := exampleNames()
		return errors.Join(err, fault.New(fault.Usage,
			fmt.Sprintf("there is no example %q; `imxcrypt config example NAME` prints one of %s", args[0], strings.Join(names, ", ")), nil))
	}
	_, err = a.stdout.Write(text)
	return err
}
