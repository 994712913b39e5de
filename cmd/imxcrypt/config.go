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
		`Config checks the configuration, prints it with every default, and prints
examples to begin with.`,
		"  imxcrypt config example minimal\n  imxcrypt config check",
		&cobra.Command{
			Use:     "check",
			Short:   "read the configuration and report what is wrong with it",
			Long:    "Check reads the configuration and its drop-ins and reports all mistakes, each with its\nplace and its remedy. It also warns of mount points that this system's symbolic links\nmake unusable.\n\n" + exitCodes(fault.ExitMissing, fault.ExitRefused),
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
				warnings := 0
				for _, v := range c.Volumes {
					if v.Source == configs.SourceDev && !c.AllowInsecure {
						a.log.Warn("source dev protects nothing and is refused without --allow-insecure or allow_insecure: true", "volume", v.Name)
						warnings++
					}
				}
				for _, p := range boot.MountProblems(c, a.sysRoot) {
					a.log.Warn("on this system "+p.Text+": "+p.Remedy, "volume", p.Volume)
					warnings++
				}
				if a.json {
					return a.printJSON(configCheckJSON{File: c.File(), Files: c.Files(), Volumes: len(c.Volumes)})
				}
				found := "nothing wrong"
				if warnings > 0 {
					found = fmt.Sprintf("valid, with warnings: %d", warnings)
				}
				fmt.Fprintf(a.stdout, "%s: %s (volumes: %d)\n", strings.Join(c.Files(), ", "), found, len(c.Volumes))
				return nil
			},
		}, &cobra.Command{
			Use:     "show",
			Short:   "print the configuration with every default, and where each value comes from",
			Long:    "Show prints the configuration of all files together, with every default filled in,\nas a file that loads again. After each value is its origin: a file\nand line, or the default.\n\n" + exitCodes(fault.ExitMissing),
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
				elsewhere := map[string]string{}
				if a.allowInsecure {
					elsewhere["allow_insecure"] = "--allow-insecure"
				}
				_, err = a.stdout.Write(c.Origins(elsewhere))
				return err
			},
		}, &cobra.Command{
			Use:     "example [NAME]",
			Short:   "print an example configuration, or the names of all examples",
			Long:    "Example prints an example configuration to begin with. Without a name it lists\nthem.\n\n" + exitCodes(),
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

type configCheckJSON struct {
	File string `json:"file"`
	// Files are all files that were read: the configuration and its drop-ins.
	Files   []string `json:"files"`
	Volumes int      `json:"volumes"`
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
			fmt.Fprintf(a.stderr, "`imxcrypt config example %s` prints one of them\n", names[0])
		}
		return err
	}
	text, err := configs.Examples.ReadFile("examples/" + args[0] + ".yaml")
	if err != nil {
		names, err := exampleNames()
		return errors.Join(err, fault.New(fault.Usage,
			fmt.Sprintf("there is no example %q, but %s", args[0], strings.Join(names, ", ")), nil))
	}
	_, err = a.stdout.Write(text)
	return err
}
