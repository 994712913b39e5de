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

	"github.com/spf13/cobra"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

type sleepFlags struct{ dryRun bool }

func (a *app) sleepCommand() *cobra.Command {
	var f sleepFlags
	c := &cobra.Command{
		Use:   "sleep suspend",
		Short: "suspend to RAM, and give the volumes their keys again afterwards",
		Long: `Sleep takes the unlocked volumes through suspend-to-RAM, in which most chips lose
the key that their black keys are encrypted by. It takes the place of what
systemd-suspend.service runs (docs/suspend.md).

Each key is opened and proved; every other process is frozen, the filesystems
are written back, the volumes suspended; the system sleeps; each key is opened
and proved again, its volume resumed, and the processes go on. A volume whose key
is not proved stays suspended: nothing is read or written, whoever uses it waits.
A rotation that is under way is paused, and goes on afterwards.

Hibernation is refused: it writes the memory to a disk, and what was read from
the volumes with it.

` + exitCodesHelp,
		Example:   "  imxcrypt sleep suspend\n  imxcrypt sleep --dry-run suspend",
		Args:      exactly(1, "what to do: suspend"),
		ValidArgs: []string{"suspend"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.sleep(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	return c
}

// night is the system that sleeps.
type night interface {
	// Bed opens what puts the machine to sleep; this process is made one that can
	// go on when all others are frozen.
	Bed() (bed, error)
	// Pause stops a volume's rotation at its next zone; false if there is none.
	Pause(ctx context.Context, volume string) (bool, error)
	// GoOn starts it again, in the background.
	GoOn(ctx context.Context, volume string) error
}

type bed interface {
	volume.SleepMachine
	Close() error
}

func (a *app) sleep(ctx context.Context, kind string, f sleepFlags) error {
	if err := mayBe(kind); err != nil {
		return err
	}
	c, err := a.loadConfig()
	if err != nil {
		return err
	}
	if c.CAAM.Engine == configs.EngineProgram && slices.ContainsFunc(c.Volumes, func(v configs.Volume) bool { return string(v.Source) == volume.SourceCAAM }) {
		return fault.New(fault.SleepRefused, "engine caam-keygen is a program, which cannot be run while the filesystems are suspended: only the engine ioctl can open the keys after a sleep", nil)
	}
	list, err := specs(c, nil, true)
	if err != nil {
		return err
	}
	// Whoever reads what this process says may be frozen: nothing is said before
	// they go on.
	held := &heldOutput{to: a.stderr}
	a.log = a.logTo(held)
	defer held.release()
	m := volume.New(a.system(c, a.log))
	if f.dryRun {
		r, err := m.Sleep(ctx, list, nil, volume.SleepOptions{DryRun: true})
		return a.printSleep(r, err, true)
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	b, err := a.night.Bed()
	if err != nil {
		return err
	}
	paused, err := a.pauseAll(ctx, list)
	var r volume.SleepResult
	if err == nil {
		r, err = m.Sleep(ctx, list, b, volume.SleepOptions{})
	}
	held.release()
	a.goOnAll(context.WithoutCancel(ctx), paused, r)
	return a.printSleep(r, errors.Join(err, b.Close()), false)
}

// mayBe tells which sleeps there are.
func mayBe(kind string) error {
	switch kind {
	case "suspend":
		return nil
	case "hibernate", "hybrid-sleep", "suspend-then-hibernate":
		return fault.New(fault.SleepRefused, kind+" writes the memory to a disk, and what was read from encrypted volumes with it; the black keys in it would be stale when it is read back", nil)
	}
	return fault.New(fault.Usage, fmt.Sprintf("there is no sleep %q: suspend is the only one", kind), nil)
}

// pauseAll stops all rotations, and names those that it stopped.
func (a *app) pauseAll(ctx context.Context, list []volume.Spec) (paused []string, err error) {
	for _, s := range list {
		stopped, err := a.night.Pause(ctx, s.Name)
		if err != nil {
			return paused, err
		}
		if stopped {
			paused = append(paused, s.Name)
		}
	}
	return paused, nil
}

// goOnAll starts the rotations again, but not over a volume that stays suspended.
func (a *app) goOnAll(ctx context.Context, paused []string, r volume.SleepResult) {
	for _, name := range paused {
		if slices.ContainsFunc(r.Volumes, func(v volume.SleepVolume) bool { return v.Volume == name && v.Suspended }) {
			continue
		}
		if err := a.night.GoOn(ctx, name); err != nil {
			a.log.Warn("the rotation was paused for the sleep and is not started again: imxcrypt rotate --resume-only", "volume", name, "error", err)
		}
	}
}

// printSleep tells what became of the volumes.
func (a *app) printSleep(r volume.SleepResult, err error, dry bool) error {
	if a.json {
		a.printed = err != nil
		return errors.Join(a.printJSON(struct {
			volume.SleepResult
			OK    bool     `json:"ok"`
			Error *problem `json:"error"`
		}{r, err == nil, a.problemOf(err)}), err)
	}
	for _, w := range r.Warnings {
		a.log.Warn(w)
	}
	if a.verbose && !dry {
		for _, s := range r.Steps {
			fmt.Fprintf(a.stderr, "%s%s\n", s.What, took(s.Took))
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

// awake names the volumes that go on.
func awake(list []volume.SleepVolume) string {
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

// heldOutput keeps what is written until it is released.
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
		_, _ = h.b.WriteTo(h.to) // as any message to stderr
	}
}

// logTo is the log, written to another place.
func (a *app) logTo(out io.Writer) *slog.Logger {
	h, ok := a.log.Handler().(*logHandler)
	if !ok {
		return a.log
	}
	c := *h
	c.out = out
	return slog.New(&c)
}
