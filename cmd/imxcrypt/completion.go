// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) completionCommand() *cobra.Command {
	shell := func(name, long, example string, write func(*cobra.Command, io.Writer) error) *cobra.Command {
		return &cobra.Command{
			Use:               name,
			Short:             "print the completion script for " + name,
			Long:              long + "\n\n" + exitCodes(),
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
		shell("bash", "Bash prints the script for bash. It also works without the package bash-completion.",
			"  . <(imxcrypt completion bash)\n  imxcrypt completion bash > /usr/share/bash-completion/completions/imxcrypt",
			bashCompletion),
		shell("zsh", "Zsh prints the script for zsh; it needs \"autoload -U compinit; compinit\" in .zshrc.",
			"  imxcrypt completion zsh > /usr/share/zsh/vendor-completions/_imxcrypt",
			func(c *cobra.Command, w io.Writer) error { return c.GenZshCompletion(w) }),
		shell("fish", "Fish prints the script for fish.",
			"  imxcrypt completion fish | source\n  imxcrypt completion fish > /usr/share/fish/vendor_completions.d/imxcrypt.fish",
			func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) }),
	)
}

// bashCompletion writes cobra's script for bash. That script calls functions of the
// package bash-completion; replacements are added in case the package is missing: for the
// words of the line, split only at blanks, and for file names.
func bashCompletion(c *cobra.Command, w io.Writer) error {
	var script bytes.Buffer
	if err := c.GenBashCompletionV2(&script, true); err != nil {
		return err
	}
	calls := []byte("    _get_comp_words_by_ref \"$@\" cur prev words cword\n")
	if !bytes.Contains(script.Bytes(), calls) {
		return errors.New("the script for bash is another one than the one that is known here")
	}
	text := bytes.Replace(script.Bytes(), calls, []byte(`    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    # Without the package: bash cuts words at = and : too, the program wants them whole.
    local line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"${line}"
    [[ -z ${line} || ${line: -1} == [[:space:]] ]] && words+=("")
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword > 0 ? cword - 1 : 0]}
`), 1)
	text = bytes.ReplaceAll(text, []byte("_filedir"), []byte("__imxcrypt_filedir"))
	text = bytes.Replace(text, []byte("# This function calls the imxcrypt program"), []byte(`__imxcrypt_filedir()
{
    if declare -F _filedir >/dev/null 2>&1; then
        _filedir "$@"
    elif [[ ${1-} == -d ]]; then
        IFS=$'\n' read -ra COMPREPLY -d '' < <(compgen -d -- "${cur}")
    else
        IFS=$'\n' read -ra COMPREPLY -d '' < <(compgen -f -- "${cur}")
    fi
}

# This function calls the imxcrypt program`), 1)
	_, err := w.Write(text)
	return err
}
