// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/sleep"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type sleepFlags struct{ dryRun bool }

func (a *app) sleepCommand() *cobra.Command {
	var f sleepFlags
	c := &cobra.Command{
		Use:   "sleep suspend|resume [NAME…]",
		Short: "suspend to RAM with volumes in use, or restore keys that a suspend lost",
		Long: `Sleep suspends to RAM with unlocked volumes. Most chips lose the key that encrypts
their black keys in such a suspend. The command replaces what
systemd-suspend.service runs (docs/suspend.md).

Each key is opened and proved; every other process is frozen, the filesystems
are written back, the volumes suspended; the system sleeps; each key is opened
and proved again, its volume resumed, and the processes continue. A volume whose key
is not proved stays suspended: nothing is read or written, and its users wait.
A rotation that is under way is paused, and continues afterwards.

Sleep resume is for hooks that run after any other suspend. It restores lost keys
to unlocked volumes, all or those named. Locked volumes stay locked, and without a
lost key it does nothing. With systemd it restarts a rotation that the lost key ended.

Hibernation is refused: it writes the memory to a disk, and with it what was read
from the volumes.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted),
		Example: "  imxcrypt sleep suspend\n  imxcrypt sleep --dry-run suspend\n  imxcrypt sleep resume",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && args[0] == "resume" {
				return nil
			}
			return exactly(1, "what to do: suspend or resume")(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return []string{"suspend", "resume"}, cobra.ShellCompDirectiveNoFileComp
			case args[0] == "resume":
				return a.completeVolumes(cmd, args[1:], typed)
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "resume" {
				return a.revive(cmd.Context(), args[1:], f)
			}
			return a.sleep(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	return c
}

// sleepSystem is the system to suspend.
type sleepSystem interface {
	// OpenMachine opens what suspends the machine, and prepares this process to run
	// while all others are frozen.
	OpenMachine() (sleepMachine, error)
	// PauseRotation stops a volume's rotation at its next zone; it returns false if none
	// runs.
	PauseRotation(ctx context.Context, volume string) (bool, error)
	// ResumeRotation starts the rotation again, in the background.
	ResumeRotation(ctx context.Context, volume string) error
}

type sleepMachine interface {
	sleep.Machine
	Close() error
}

func (a *app) sleep(ctx context.Context, kind string, f sleepFlags) error {
	if err := checkSleepKind(kind); err != nil {
		return err
	}
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if c.CAAM.Engine == configs.EngineProgram && slices.ContainsFunc(c.Volumes, func(v configs.Volume) bool {
		return string(v.Source) == spec.SourceCAAM || string(v.Source) == spec.SourceAuto
	}) {
		return fault.New(fault.SleepRefused, "engine caam-keygen is a program, which cannot be run while the filesystems are suspended: only the engine ioctl can open the keys after a sleep", nil)
	}
	list, err := a.specs(c, nil, true)
	if err != nil {
		return err
	}
	// The reader of this process's output may be frozen: hold the output back until
	// all processes run again.
	held := &heldOutput{to: a.stderr}
	a.log = a.logTo(held)
	defer held.release()
	sys := a.system(c, a.log)
	if f.dryRun {
		r, err := sleep.Run(ctx, sys, list, nil, sleep.Options{DryRun: true})
		return a.printSleep(r, err, true)
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	b, err := a.sleeping.OpenMachine()
	if err != nil {
		return err
	}
	paused, err := a.pauseRotations(ctx, list)
	var r sleep.Result
	if err == nil {
		r, err = sleep.Run(ctx, sys, list, b, sleep.Options{})
	}
	held.release()
	for _, v := range r.Volumes {
		if v.Rotating && v.Revived && !slices.Contains(paused, v.Volume) {
			paused = append(paused, v.Volume)
		}
	}
	a.resumeRotations(context.WithoutCancel(ctx), paused, r)
	return a.printSleep(r, errors.Join(err, b.Close()), false)
}

// revive restores lost keys. It first stops a running rotation, which no longer trusts
// the keys that it moves data with. It starts that rotation again, and one that the lost
// keys ended.
func (a *app) revive(ctx context.Context, names []string, f sleepFlags) error {
	m, list, err := a.volumes(names, len(names) == 0)
	if err != nil {
		return err
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		r, err := m.Revive(ctx, s, volume.ReviveOptions{})
		paused := false
		if fault.Is(err, fault.LockHeld) {
			if paused, err = a.sleeping.PauseRotation(ctx, s.Name); err == nil {
				r, err = m.Revive(ctx, s, volume.ReviveOptions{})
			}
		}
		if err == nil && (paused || r.Rotating) {
			a.resumeInBackground(ctx, s.Name)
		}
		return r, err
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, func(ctx context.Context, s spec.Volume) (volume.Result, error) {
			return m.Revive(ctx, s, volume.ReviveOptions{DryRun: true})
		})
	}
	return a.each(ctx, list, do, func(r volume.Result) string {
		if r.Already {
			return r.Volume + ": no key is lost"
		}
		return r.Volume + ": lost key restored"
	})
}

// checkSleepKind refuses every kind of sleep but suspend.
func checkSleepKind(kind string) error {
	switch kind {
	case "suspend":
		return nil
	case "hibernate", "hybrid-sleep", "suspend-then-hibernate":
		return fault.New(fault.SleepRefused, kind+" writes the memory to a disk, and what was read from encrypted volumes with it; the black keys in it would be stale when it is read back", nil)
	}
	return fault.New(fault.Usage, fmt.Sprintf("there is no sleep %q: there are only suspend and resume", kind), nil)
}

// pauseRotations stops all rotations and returns the names of those it stopped.
func (a *app) pauseRotations(ctx context.Context, list []spec.Volume) (paused []string, err error) {
	for _, s := range list {
		stopped, err := a.sleeping.PauseRotation(ctx, s.Name)
		if err != nil {
			return paused, err
		}
		if stopped {
			paused = append(paused, s.Name)
		}
	}
	return paused, nil
}

// resumeRotations starts the rotations again, except on a volume that stays suspended.
func (a *app) resumeRotations(ctx context.Context, paused []string, r sleep.Result) {
	for _, name := range paused {
		if slices.ContainsFunc(r.Volumes, func(v sleep.Volume) bool { return v.Volume == name && v.Suspended }) {
			continue
		}
		if err := a.sleeping.ResumeRotation(ctx, name); err != nil {
			a.log.Warn("the rotation was paused for the sleep and is not started again: imxcrypt rotate --resume-only", "volume", name, "error", err)
		}
	}
}

type sleepJSON struct {
	sleep.Result
	OK    bool     `json:"ok"`
	Error *problem `json:"error"`
}

// printSleep prints the result for each volume.
func (a *app) printSleep(r sleep.Result, err error, dry bool) error {
	if a.json {
		a.printed = err != nil
		return errors.Join(a.printJSON(sleepJSON{r, err == nil, a.problemOf(a.volume, err)}), err)
	}
	for _, w := range r.Warnings {
		a.log.Warn(w)
	}
	if a.verbose && !dry {
		for _, s := range r.Steps {
			fmt.Fprintf(a.stderr, "%s%s\n", s.What, durationText(time.Duration(s.Took)))
		}
	}
	switch {
	case err == nil && dry:
		for _, s := range r.Steps {
			fmt.Fprintf(a.stdout, "would %s\n", s.What)
		}
	case r.Slept:
		fmt.Fprintln(a.stdout, awake(r.Volumes))
	}
	return err
}

// awake returns a line that names the volumes that are in use again.
func awake(list []sleep.Volume) string {
	var names []string
	for _, v := range list {
		if !v.Suspended {
			names = append(names, v.Volume)
		}
	}
	if len(names) == 0 {
		return "awake again"
	}
	slices.Sort(names)
	return "awake again; in use as before: " + strings.Join(names, ", ")
}

// heldOutput buffers what is written until it is released.
type heldOutput struct {
	to io.Writer
	b  bytes.Buffer
	on bool
}

func (h *heldOutput) Write(p []byte) (int, error) {
	if h.on {
		return h.to.Write(p)
	}
	return h.b.Write(p)
}

func (h *heldOutput) release() {
	if !h.on {
		h.on = true
		_, _ = h.b.WriteTo(h.to) // like any message to stderr
	}
}

// logTo returns the log with another output.
func (a *app) logTo(out io.Writer) *slog.Logger {
	h, ok := a.log.Handler().(*logHandler)
	if !ok {
		return a.log
	}
	c := *h
	c.out = out
	return slog.New(&c)
}
