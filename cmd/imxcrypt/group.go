// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
)

// group returns a command that does nothing itself and needs a subcommand.
func group(use, short, long, example string, subcommands ...*cobra.Command) *cobra.Command {
	var names []string
	for _, s := range subcommands {
		names = append(names, s.Name())
	}
	last := len(names) - 1
	c := &cobra.Command{
		Use: use, Short: short, Long: long + "\n\n" + exitCodes(), Example: example,
		Args: noSuchCommand,
		RunE: func(*cobra.Command, []string) error {
			return fault.New(fault.Usage, fmt.Sprintf("name a subcommand: %s or %s", strings.Join(names[:last], ", "), names[last]), nil)
		},
	}
	c.AddCommand(subcommands...)
	return c
}

// noSuchCommand checks the arguments of a command that has subcommands: an argument that
// is left over names none of them.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command %q", strings.TrimPrefix(c.CommandPath()+" "+args[0], "imxcrypt "))
	// A third of the letters may be wrong. With more, little would be left of a short
	// word, and anything would be similar to boot.
	c.SuggestionsMinimumDistance = max(1, len(args[0])/3)
	if similar := c.SuggestionsFor(args[0]); len(similar) > 0 {
		text += fmt.Sprintf("; did you mean %s?", strings.Join(similar, " or "))
	}
	return fault.New(fault.Usage, text, nil)
}

// helpCommand is like cobra's, with an error for a command that does not exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "print the help of a command",
		ValidArgsFunction: func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			of, rest, err := c.Root().Find(given)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, s := range of.Commands() {
				if s.IsAvailableCommand() {
					names = append(names, s.Name()+"\t"+s.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			// For an unknown command, Find returns the error of the argument check of
			// the command where it stopped, or what it did not recognise in rest.
			of, rest, err := c.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = noSuchCommand(of, rest)
			}
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}
