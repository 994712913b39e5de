// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/audit"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// app is what all commands share: input, output and the global flags.
//
// Results go to stdout, everything else to stderr: lower case, no full stop.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// system makes the system that holds the volumes.
	system func(*configs.Config, *slog.Logger) volume.System

	// sleeping suspends the machine and controls rotations.
	sleeping sleepSystem

	// cmdline is the file of the kernel command line, bootDirs the folders in which it
	// may name a configuration; nil means the system's.
	cmdline  string
	bootDirs []string
	// sysRoot is the folder above sys; empty for the running system.
	sysRoot string
	// journal records operations on keys.
	journal audit.Journal

	configPath    string
	json          bool
	verbose       bool
	logLevel      string
	wide          bool // status: the table is not shortened
	allowInsecure bool

	log *slog.Logger
	// operation is the command's name, "key create".
	operation string
	// command is the command that was called, as typed: "imxcrypt key create".
	command string
	// config is the configuration once it is loaded; volume is the name of the only
	// volume that the command is about, and empty for several.
	config *configs.Config
	volume string
	// printed is set when the error was already printed.
	printed bool
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	a := &app{stdin: stdin, stdout: visible{stdout}, stderr: visible{stderr}, getenv: getenv, system: realSystem, sleeping: realSleepSystem{}, cmdline: "/proc/cmdline", journal: audit.Journal{Path: audit.Socket}}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root(args...)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	called, err := root.ExecuteContextC(ctx)
	a.command = called.CommandPath()
	switch {
	case err == nil || a.printed:
	case a.json || slices.Contains(args, "--json"):
		// a.json alone is not enough: parsing may have failed before that flag.
		_ = a.printJSON(failureJSON{Error: a.problemOf("", err)}) // like messages to stderr
	default:
		a.printError(err)
	}
	return int(fault.ExitOf(err))
}

// printError writes what failed and why, and what to do next.
func (a *app) printError(err error) {
	for _, e := range parts(err) {
		fmt.Fprintf(a.stderr, "%simxcrypt: %s\n", a.priority(priorityError), oneLine(e.Error()))
		if h := a.hint(e); h != "" {
			fmt.Fprintf(a.stderr, "%s  hint: %s\n", a.priority(priorityError), h)
		}
	}
}

// parts splits the joined errors of several volumes, so that each gets its own line
// and hint.
func parts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range joined.Unwrap() {
			all = append(all, parts(e)...)
		}
		return all
	}
	return []error{err}
}

// oneLine puts a message on one line, as the journal needs it.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

// root builds the command tree: all of it, or only one command if the arguments begin
// with its name. At boot the others would take a tenth of the time until the first
// device is opened.
func (a *app) root(args ...string) *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "imxcrypt",
		Short: "keys and encrypted volumes on NXP i.MX",
		Long: `imxcrypt creates keys that only this chip can open, and unlocks, mounts,
inspects and renews the volumes that are encrypted with them.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt doctor
  imxcrypt provision data
  imxcrypt boot`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				return a.printVersion()
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			// Cobra would find these too, but later and without a fault code.
			if err := cmd.ValidateFlagGroups(); err != nil {
				return fault.New(fault.Usage, exclusion(err), nil)
			}
			a.command = cmd.CommandPath()
			a.operation = strings.TrimPrefix(cmd.CommandPath(), "imxcrypt ")
			return a.prepare()
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(helpCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		text := err.Error()
		if flag, _, ok := strings.Cut(text, ": time: "); ok {
			text = flag + ": a duration is a number with ms, s, m or h, as in 100ms"
		}
		return fault.New(fault.Usage, text, nil)
	})
	root.Flags().BoolVar(&showVersion, "version", false, "print the version, like the command version")
	f := root.PersistentFlags()
	f.StringVarP(&a.configPath, "config", "c", "", "configuration file (default $IMXCRYPT_CONFIG or "+configs.DefaultPath+")")
	f.BoolVar(&a.json, "json", false, "print results and failures as JSON")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print each step with its duration")
	f.StringVar(&a.logLevel, "log-level", "warn", "what to log to stderr: debug, info, warn or error")
	f.BoolVar(&a.allowInsecure, "allow-insecure", false, "allow volumes with source dev, which are not protected")
	_ = root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
	a.addCommands(root, args)
	return root
}

// addCommands adds the command that args begin with, or all commands.
func (a *app) addCommands(root *cobra.Command, args []string) {
	all := []struct {
		name string
		make func() *cobra.Command
	}{
		{"provision", a.provisionCommand}, {"unlock", a.unlockCommand}, {"lock", a.lockCommand}, {"boot", a.bootCommand},
		{"rotate", a.rotateCommand}, {"encrypt", a.encryptCommand}, {"decrypt", a.decryptCommand}, {"sleep", a.sleepCommand}, {"status", a.statusCommand}, {"verify", a.verifyCommand}, {"doctor", a.doctorCommand},
		{"resize", a.resizeCommand}, {"rename", a.renameCommand}, {"bench", a.benchCommand}, {"key", a.keyCommand}, {"header", a.headerCommand}, {"adopt", a.adoptCommand},
		{"erase", a.eraseCommand}, {"recover", a.recoverCommand}, {"config", a.configCommand}, {"generator", a.generatorCommand},
		{"completion", a.completionCommand}, {"version", a.versionCommand},
	}
	for _, c := range all {
		if len(args) > 0 && args[0] == c.name {
			root.AddCommand(c.make())
			return
		}
	}
	for _, c := range all {
		root.AddCommand(c.make())
	}
}

// exclusion rewords cobra's error about flags that exclude each other:
// "…; [all given, separated by spaces] were all set".
func exclusion(err error) string {
	given, ok := strings.CutSuffix(err.Error(), "] were all set")
	at := strings.LastIndex(given, "[")
	if !ok || at < 0 {
		return err.Error()
	}
	return "--" + strings.Join(strings.Fields(given[at+1:]), " and --") + " exclude each other"
}

// prepare runs after the flags are parsed and before any command.
func (a *app) prepare() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return fault.New(fault.Usage, fmt.Sprintf("--log-level %q is not one of debug, info, warn, error", a.logLevel), nil)
	}
	a.log = slog.New(&logHandler{out: a.stderr, level: level, priorities: a.toJournal()})
	return nil
}

// configFile returns the path of the configuration.
func (a *app) configFile() string {
	for _, path := range []string{a.configPath, a.getenv("IMXCRYPT_CONFIG")} {
		if path != "" {
			return path
		}
	}
	return configs.DefaultPath
}

// loadConfig reads the configuration.
func (a *app) loadConfig() (*configs.Config, error) {
	// A user other than root can do no harm with it, and may want to check their own
	// file.
	c, err := configs.Options{AllowAnyOwner: os.Geteuid() != 0}.Load(a.configFile())
	if err != nil {
		return nil, err
	}
	if a.allowInsecure {
		c.AllowInsecure = true
	}
	a.config = c
	return c, nil
}

// manager loads the configuration and returns a manager for its volumes.
func (a *app) manager() (*configs.Config, *volume.Manager, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	return c, volume.New(a.system(c, a.log)), nil
}

// volumes returns the manager, and the volumes named on the command line, or all.
func (a *app) volumes(names []string, all bool) (*volume.Manager, []spec.Volume, error) {
	c, m, err := a.manager()
	if err != nil {
		return nil, nil, err
	}
	list, err := a.specs(c, names, all)
	return m, list, err
}

// specs returns the volumes named on the command line, each once and in the order
// given, or all.
func (a *app) specs(c *configs.Config, names []string, all bool) ([]spec.Volume, error) {
	switch {
	case all && len(names) > 0:
		return nil, fault.New(fault.Usage, "names of volumes and --all exclude each other", nil)
	case !all && len(names) == 0:
		return nil, fault.New(fault.Usage, "name the volumes, or give --all", nil)
	}
	var list []spec.Volume
	if all {
		// A volume that contains others comes before them.
		plan, err := boot.NewPlan(c)
		for _, step := range plan.Steps {
			list = append(list, step.Spec)
		}
		return list, err
	}
	chosen, err := a.namedVolumes(c, names)
	for _, v := range chosen {
		list = append(list, boot.Spec(c, v))
	}
	return list, err
}

// namedVolumes returns the volumes with these names, each once.
func (a *app) namedVolumes(c *configs.Config, names []string) ([]configs.Volume, error) {
	var chosen []configs.Volume
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		v, err := c.Volume(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, v)
	}
	if len(chosen) == 1 {
		a.volume = chosen[0].Name
	}
	return chosen, nil
}

// completeVolumes offers the configuration's volume names to the shell.
func (a *app) completeVolumes(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, v := range c.Volumes {
		if !slices.Contains(given, v.Name) {
			names = append(names, v.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// exactly is cobra.ExactArgs with an error of the code usage.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fault.New(fault.Usage, fmt.Sprintf("%s takes %s (arguments given: %d)", cmd.CommandPath(), what, len(args)), nil)
		}
		return nil
	}
}

// printJSON writes v on one line, for programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// problem is an error in JSON output.
type problem struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint"`
}

// problemOf returns the problem for an error of a volume, whose name may be empty.
func (a *app) problemOf(name string, err error) *problem {
	if err == nil {
		return nil
	}
	return &problem{Code: fault.CodeOf(err), Message: oneLine(err.Error()), Hint: a.hintFor(name, err)}
}

// operation is an operation on one volume.
type operation func(context.Context, spec.Volume) (volume.Result, error)

// each runs an operation on several volumes, one after the other, and prints each result
// with say. It tries the others even if one fails.
func (a *app) each(ctx context.Context, list []spec.Volume, do operation, say func(volume.Result) string) error {
	var errs []error
	for _, s := range list {
		r, err := do(ctx, s)
		if err := a.printResult(r, err, say); err != nil {
			errs = append(errs, err)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
