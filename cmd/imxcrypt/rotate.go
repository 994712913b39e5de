// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type rotateFlags struct {
	initOnly, resumeOnly, pause, dryRun bool
	noRecovery, passphrase              bool
	recipients                          []string
	rateLimit                           string
	maxHold                             time.Duration
}

func (a *app) rotateCommand() *cobra.Command {
	var f rotateFlags
	c := &cobra.Command{
		Use:   "rotate NAME",
		Short: "re-encrypt the data in place with a new key, also while in use",
		Long: `Rotate makes a new key and re-encrypts the volume in place, whether it is locked,
unlocked, or mounted and in use. Rotate may be interrupted at any moment: the volume
still opens, and the same command continues. SIGTERM and SIGINT stop it at the next zone.

If source, cipher, sector_size, wrap or key_size changed in the configuration, the
same pass converts the volume, as far as its filesystem allows. Both sources must work
in this kernel. A rotation never changes to source dev. A trusted key can have no recovery
copy: a volume that has one is refused, unless --no-recovery gives it up.

The new key gets recovery copies for the recipients of the old key's copies. With
--recipient it gets copies for the given recipients instead, with --recovery-passphrase
a copy that opens with eight words, which are shown once, and with --no-recovery none.
This is how to add a recovery copy to a volume that has none.

The old key's blob and the old ciphertext may survive in worn-out or spare blocks of
the storage. Rotation does not protect against an attacker with this chip and an old
image of the device. Header backups from before a rotation are worthless after it.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt rotate data
  imxcrypt rotate --rate-limit 8MiB data
  imxcrypt rotate --recipient age1… data
  imxcrypt rotate --pause data
  imxcrypt rotate --resume-only --json data`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.rotate(cmd.Context(), args[0], f)
		},
	}
	c.Flags().BoolVar(&f.initOnly, "init-only", false, "make and prove the new key, move no data yet")
	c.Flags().BoolVar(&f.resumeOnly, "resume-only", false, "continue a rotation that is under way, start none")
	c.Flags().BoolVar(&f.pause, "pause", false, "stop the rotation that another process runs, at its next zone")
	c.Flags().StringVar(&f.rateLimit, "rate-limit", "", "maximum bytes to move per second, such as 512KiB or 8MiB")
	c.Flags().DurationVar(&f.maxHold, "max-hold", 0, "target for how long a zone in use is held while its reads and writes wait (default 100ms, 40ms without dm-delay); a busy system exceeds it")
	c.Flags().StringArrayVar(&f.recipients, "recipient", nil, "seal a recovery copy of the new key to this age recipient (age1…); may be repeated")
	c.Flags().BoolVar(&f.passphrase, "recovery-passphrase", false, "make a recovery copy of the new key that opens with a passphrase, and show the passphrase once")
	c.Flags().BoolVar(&f.noRecovery, "no-recovery", false, "make no recovery copy of the new key")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print what would be done, change nothing")
	c.MarkFlagsMutuallyExclusive("init-only", "resume-only", "pause")
	c.MarkFlagsMutuallyExclusive("pause", "dry-run")
	for _, flag := range []string{"recipient", "recovery-passphrase"} {
		c.MarkFlagsMutuallyExclusive("no-recovery", flag)
	}
	for _, flag := range []string{"recipient", "recovery-passphrase", "no-recovery"} {
		c.MarkFlagsMutuallyExclusive("resume-only", flag)
		c.MarkFlagsMutuallyExclusive("pause", flag)
	}
	return c
}

func (a *app) rotate(ctx context.Context, name string, f rotateFlags) error {
	rate, err := f.rate()
	if err != nil {
		return err
	}
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	list, err := a.specs(c, []string{name}, false)
	if err != nil {
		return err
	}
	if f.pause {
		return a.pause(ctx, name)
	}
	show, err := a.passphraseShown(f.passphrase, name)
	if err != nil {
		return err
	}
	o := volume.RotateOptions{
		InitOnly: f.initOnly, ResumeOnly: f.resumeOnly, RateLimit: rate, MaxHold: f.maxHold, DryRun: f.dryRun,
		Recipients: f.recipients, Passphrase: show, NoRecovery: f.noRecovery,
	}
	if f.dryRun {
		return a.eachPlan(ctx, list, func(ctx context.Context, s spec.Volume) (volume.Result, error) {
			r, err := m.Rotate(ctx, s, o)
			return r.Result, err
		})
	}
	r, err := a.showMoving(name, "under the new key", o, func(o volume.RotateOptions) (volume.RotateResult, error) { return m.Rotate(ctx, list[0], o) })
	if err == nil && list[0].AllowDiscards && r.Mapping != "" && list[0].Mount.Path != "" && r.Rotation != nil && !a.json {
		fmt.Fprintf(a.stderr, "%s: free blocks were re-encrypted too; `fstrim %s` gives them back to the storage\n", name, list[0].Mount.Path)
	}
	return a.printRotation(r, err, func(res volume.Result) string {
		switch {
		case r.Rotation == nil:
			return res.Volume + ": no rotation is under way"
		case r.Rotation.Generation == 0:
			return decrypted(res, list[0].Device)
		case r.Rotation.Generation == 1:
			return res.Volume + ": encrypted"
		case r.Rotation.Done < r.Rotation.Total:
			return fmt.Sprintf("%s: new key ready, generation %d; no data moved yet", res.Volume, r.Rotation.Generation)
		}
		return fmt.Sprintf("%s: rotated, generation %d", res.Volume, res.Generation)
	})
}

// showMoving runs an operation that moves a volume's data and shows its progress; what is
// what the data becomes.
func (a *app) showMoving(name, what string, o volume.RotateOptions, move func(volume.RotateOptions) (volume.RotateResult, error)) (volume.RotateResult, error) {
	if err := secret.Harden(); err != nil {
		return volume.RotateResult{Result: volume.Result{Volume: name}}, err
	}
	if err := holdInMemory(); err != nil {
		return volume.RotateResult{Result: volume.Result{Volume: name}}, err
	}
	show := a.newRotationProgress(name, what)
	o.Moved = show.moved
	defer show.end()
	return move(o)
}

// The lines of `rotate --json`: progress, then the result; or the line of --pause.
type (
	progressJSON struct {
		Event  string `json:"event"`
		Volume string `json:"volume"`
		Done   int64  `json:"done"`
		Total  int64  `json:"total"`
		Rate   int64  `json:"bytes_per_second"`
		LeftMS int64  `json:"left_ms"`
		HeldMS int64  `json:"held_ms"`
	}
	rotatedJSON struct {
		Event string `json:"event"`
		resultJSON
		Rotation *volume.Rotation `json:"rotation"`
	}
	pausedJSON struct {
		Volume  string `json:"volume"`
		Stopped bool   `json:"stopped"`
		OK      bool   `json:"ok"`
	}
)

// printRotation prints the result of a rotation.
func (a *app) printRotation(r volume.RotateResult, err error, sentence func(volume.Result) string) error {
	if a.json {
		a.audit(r.Result, err)
		a.printed = err != nil
		if perr := a.printJSON(rotatedJSON{"result", resultJSON{Result: r.Result, OK: err == nil, Error: a.problemOf(r.Volume, err)}, r.Rotation}); perr != nil {
			return perr
		}
		return err
	}
	if perr := a.printResult(r.Result, err, sentence); perr != nil {
		return perr
	}
	return err
}

// pause stops the rotation of another process.
func (a *app) pause(ctx context.Context, name string) error {
	stopped, err := pauseRotation(ctx, name)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(pausedJSON{Volume: name, Stopped: stopped, OK: true})
	}
	if stopped {
		fmt.Fprintf(a.stdout, "%s: rotation paused\n", name)
	} else {
		fmt.Fprintf(a.stdout, "%s: no rotation is running\n", name)
	}
	return nil
}

// rate returns the limit in bytes per second, 0 without one. It checks the options that
// say how fast data is moved.
func (f rotateFlags) rate() (int64, error) {
	if f.maxHold < 0 {
		return 0, fault.Newf(fault.Usage, "--max-hold %v is less than no time", f.maxHold)
	}
	return parseBytes("--rate-limit", f.rateLimit)
}

// parseBytes parses the number of bytes given to an option; 0 for an empty text.
func parseBytes(option, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		n, err = configs.ParseSize(text)
	}
	if err != nil || n <= 0 || n > 1<<50 {
		return 0, fault.New(fault.Usage, fmt.Sprintf("%s %q is not a number of bytes, as 512KiB or 8MiB", option, text), nil)
	}
	return n, nil
}

// rotationProgress shows the progress of a rotation: JSON lines for programs, a bar on a
// terminal, a line every half minute in a log.
type rotationProgress struct {
	a        *app
	name     string
	what     string // what the moved data becomes
	terminal bool
	now      func() time.Time
	begun    time.Time
	first    int64 // bytes moved at the first report; -1 before it
	shown    time.Time
	drawn    bool
}

func (a *app) newRotationProgress(name, what string) *rotationProgress {
	p := &rotationProgress{a: a, name: name, what: what, now: time.Now, begun: time.Now(), first: -1}
	if f, ok := fileOf(a.stderr); ok && !a.json {
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
		_ = p.a.printJSON(progressJSON{
			Event: "progress", Volume: p.name, Done: r.Done, Total: r.Total,
			Rate: int64(rate), LeftMS: left.Milliseconds(), HeldMS: r.Held.Milliseconds(),
		})
	case p.terminal:
		n := int(barWidth * r.Done / max(r.Total, 1))
		fmt.Fprintf(p.a.stderr, "\r%s [%s%s] %3d %%  %s/s  %s left "+clearLine, p.name, strings.Repeat("#", n), strings.Repeat("-", barWidth-n),
			100*r.Done/max(r.Total, 1), size(int64(rate)), left.Round(time.Second))
		p.drawn = true
	default:
		fmt.Fprintf(p.a.stderr, "%s%s: %d of %d MiB %s, %s/s, %s left\n", p.a.priority(priorityInfo), p.name,
			r.Done>>20, r.Total>>20, p.what, size(int64(rate)), left.Round(time.Second))
	}
}

// rate returns the bytes per second since the first zone, and the time left at that rate.
func (p *rotationProgress) rate(r volume.Rotation, now time.Time) (perSecond float64, left time.Duration) {
	seconds := now.Sub(p.begun).Seconds()
	if seconds <= 0 || r.Done <= p.first {
		return 0, 0
	}
	perSecond = float64(r.Done-p.first) / seconds
	return perSecond, time.Duration(float64(r.Total-r.Done) / perSecond * float64(time.Second))
}

func (p *rotationProgress) end() {
	if p.drawn {
		fmt.Fprintln(p.a.stderr)
	}
}
