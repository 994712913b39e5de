// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

type rotateFlags struct {
	initOnly, resumeOnly, pause, dryRun bool
	rateLimit                           string
	maxHold                             time.Duration
}

func (a *app) rotateCommand() *cobra.Command {
	var f rotateFlags
	c := &cobra.Command{
		Use:   "rotate NAME",
		Short: "new key: the data is encrypted anew in place, also while in use",
		Long: `Rotate makes a new key and encrypts the volume anew, in place, locked, unlocked
or mounted and in use. It may be cut off at any moment; the volume opens as ever,
and the same command goes on. SIGTERM and SIGINT stop it at the next zone.

Where the configuration's cipher, sector_size, wrap or key_size is not the volume's
any more, the volume becomes as it is configured, if its filesystem allows that.

The old key's blob and the old ciphertext may survive in worn-out or spare blocks
of the storage: rotation does not protect from someone who has this chip and an
old image of the device.

` + exitCodesHelp,
		Example: `  imxcrypt rotate data
  imxcrypt rotate --rate-limit 8MiB data
  imxcrypt rotate --pause data
  imxcrypt rotate --resume-only --json data`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.rotate(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.initOnly, "init-only", false, "make and prove the new key, move no data yet")
	c.Flags().BoolVar(&f.resumeOnly, "resume-only", false, "go on with a rotation that is under way, begin none")
	c.Flags().BoolVar(&f.pause, "pause", false, "stop the rotation that another process does, at its next zone")
	c.Flags().StringVar(&f.rateLimit, "rate-limit", "", "bytes to move in a second at most, as 512KiB or 8MiB")
	c.Flags().DurationVar(&f.maxHold, "max-hold", 0, "how long a zone in use should be held (default 100ms); writes and fsync wait for it")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	c.MarkFlagsMutuallyExclusive("init-only", "resume-only", "pause")
	c.MarkFlagsMutuallyExclusive("pause", "dry-run")
	return c
}

func (a *app) rotate(ctx context.Context, name string, f rotateFlags) error {
	rate, err := parseRate(f.rateLimit)
	if err != nil {
		return err
	}
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	list, err := specs(c, []string{name}, false)
	if err != nil {
		return err
	}
	if f.pause {
		return a.pause(ctx, name)
	}
	o := volume.RotateOptions{
		InitOnly: f.initOnly, ResumeOnly: f.resumeOnly, RateLimit: rate, MaxHold: f.maxHold, DryRun: f.dryRun,
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, func(ctx context.Context, s volume.Spec) (volume.Result, error) {
			r, err := m.Rotate(ctx, s, o)
			return r.Result, err
		})
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	if err := holdInMemory(); err != nil {
		return err
	}
	show := a.newRotationProgress(name)
	o.Moved = show.moved
	r, err := m.Rotate(ctx, list[0], o)
	show.end()
	if err == nil && list[0].AllowDiscards && r.Mapping != "" && list[0].Mount.Path != "" && r.Rotation != nil && !a.json {
		fmt.Fprintf(a.stderr, "%s: free blocks were encrypted anew too; `fstrim %s` gives them back to the storage\n", name, list[0].Mount.Path)
	}
	return a.printRotation(r, err)
}

// printRotation tells what a rotation came to.
func (a *app) printRotation(r volume.RotateResult, err error) error {
	if a.json {
		a.audit(r.Result, err)
		a.printed = err != nil
		if perr := a.printJSON(struct {
			Event string `json:"event"`
			resultJSON
			Rotation *volume.Rotation `json:"rotation"`
		}{"result", resultJSON{Result: r.Result, OK: err == nil, Error: a.problemOf(err)}, r.Rotation}); perr != nil {
			return perr
		}
		return err
	}
	if perr := a.printResult(r.Result, err, func(res volume.Result) string {
		switch {
		case r.Rotation == nil:
			return res.Volume + ": no rotation is under way"
		case r.Rotation.Done < r.Rotation.Total:
			return fmt.Sprintf("%s: new key ready, generation %d; no data moved yet", res.Volume, r.Rotation.Generation)
		}
		return fmt.Sprintf("%s: rotated, generation %d", res.Volume, res.Generation)
	}); perr != nil {
		return perr
	}
	return err
}

// pause stops another process's rotation.
func (a *app) pause(ctx context.Context, name string) error {
	stopped, err := pauseRotation(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"volume": name, "stopped": stopped, "ok": true})
	}
	if stopped {
		fmt.Fprintf(a.stdout, "%s: rotation paused\n", name)
	} else {
		fmt.Fprintf(a.stdout, "%s: nobody is rotating it\n", name)
	}
	return nil
}

// parseRate reads a number of bytes a second; an empty text is no limit.
func parseRate(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit := text, int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if cut, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = cut, n
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > (1<<50)/unit {
		return 0, fault.New(fault.Usage, fmt.Sprintf("--rate-limit %q is not a number of bytes, as 512KiB or 8MiB", text), nil)
	}
	return n * unit, nil
}

// rotationProgress shows how far a rotation is: lines of JSON for programs, a
// bar on a terminal, a line every half minute in a log.
type rotationProgress struct {
	a        *app
	name     string
	terminal bool
	now      func() time.Time
	begun    time.Time
	first    int64 // bytes that were moved before
	shown    time.Time
	drawn    bool
}

func (a *app) newRotationProgress(name string) *rotationProgress {
	p := &rotationProgress{a: a, name: name, now: time.Now, begun: time.Now(), first: -1}
	if f, ok := a.stderr.(*os.File); ok && !a.json {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	return p
}

const (
	drawEvery = 200 * time.Millisecond
	logEvery  = 30 * time.Second
	barWidth  = 30
)

func (p *rotationProgress) moved(r volume.Rotation) {
	now := p.now()
	if p.first < 0 {
		p.first, p.shown = r.Done, now
	}
	every := logEvery
	if p.terminal || p.a.json {
		every = drawEvery
	}
	if now.Sub(p.shown) < every && (r.Done < r.Total || !p.terminal && !p.a.json) {
		return
	}
	p.shown = now
	rate, left := p.rate(r, now)
	switch {
	case p.a.json:
		_ = p.a.printJSON(map[string]any{
			"event": "progress", "volume": p.name, "done": r.Done, "total": r.Total,
			"bytes_per_second": int64(rate), "seconds_left": int64(left.Seconds()), "held_ms": r.Held.Milliseconds(),
		})
	case p.terminal:
		n := int(barWidth * r.Done / max(r.Total, 1))
		fmt.Fprintf(p.a.stderr, "\r%s [%s%s] %3d %%  %s/s  %s left \x1b[K", p.name, strings.Repeat("#", n), strings.Repeat("-", barWidth-n),
			100*r.Done/max(r.Total, 1), size(int64(rate)), left.Round(time.Second))
		p.drawn = true
	default:
		fmt.Fprintf(p.a.stderr, "%s%s: %d of %d MiB under the new key, %s/s, %s left\n", p.a.priority(priorityInfo), p.name,
			r.Done>>20, r.Total>>20, size(int64(rate)), left.Round(time.Second))
	}
}

// rate is bytes a second since the first zone, and the time that is left at it.
func (p *rotationProgress) rate(r volume.Rotation, now time.Time) (perSecond float64, left time.Duration) {
	took := now.Sub(p.begun).Seconds()
	if took <= 0 || r.Done <= p.first {
		return 0, 0
	}
	perSecond = float64(r.Done-p.first) / took
	return perSecond, time.Duration(float64(r.Total-r.Done) / perSecond * float64(time.Second))
}

func (p *rotationProgress) end() {
	if p.drawn {
		fmt.Fprintln(p.a.stderr)
	}
}
