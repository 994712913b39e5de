// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shell := func(name, long, example string, write func(*cobra.Command, io.Writer) error) *cobra.Command {
		return &cobra.Command{
			Use:               name,
			Short:             "print the completion script for " + name,
			Long:              long + "\n\n" + exitCodesHelp,
			Example:           example,
			Args:              exactly(0, "no arguments"),
			ValidArgsFunction: cobra.NoFileCompletions,
			RunE:              func(c *cobra.Command, _ []string) error { return write(c.Root(), a.stdout) },
		}
	}
	return group("completion", "print the completion script for a shell",
		`Completion prints a script that completes commands, flags, and the names of the
configuration's volumes. "make install" and the packages install it.`,
		"  . <(imxcrypt completion bash)",
		shell("bash", "Bash prints the script for bash; it needs the package bash-completion.",
			"  . <(imxcrypt completion bash)\n  imxcrypt completion bash > /usr/share/bash-completion/completions/imxcrypt",
			func(c *cobra.Command, w io.Writer) error { return c.GenBashCompletionV2(w, true) }),
		shell("zsh", "Zsh prints the script for zsh; it needs \"autoload -U compinit; compinit\" in .zshrc.",
			"  imxcrypt completion zsh > /usr/share/zsh/vendor-completions/_imxcrypt",
			func(c *cobra.Command, w io.Writer) error { return c.GenZshCompletion(w) }),
		shell("fish", "Fish prints the script for fish.",
			"  imxcrypt completion fish | source\n  imxcrypt completion fish > /usr/share/fish/vendor_completions.d/imxcrypt.fish",
			func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) }),
	)
}
