// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imxcrypt/boot"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/program"
	"imxcrypt/volume"
)

type bootFlags struct{ dryRun, noMount bool }

func (a *app) bootCommand() *cobra.Command {
	var f bootFlags
	c := &cobra.Command{
		Use:   "boot [NAME…]",
		Short: "unlock and mount the volumes of the configuration, in order",
		Long: `Boot unlocks and mounts all volumes of the configuration (except those with
at_boot: false), or those named, each as soon as what it needs is there. It is for
an initramfs and for systems without systemd. A volume that is not required may
fail without failing the command.

A volume whose device holds a filesystem in plain text is refused; with
on_plaintext: encrypt in the configuration it is encrypted in place, see
imxcrypt-encrypt(1).

Boot obeys the kernel command line: imxcrypt.volumes=NAME,NAME leaves out all
others, imxcrypt.config=FILE names the configuration, a file below /etc/imxcrypt or
/usr/lib/imxcrypt, unless --config does, and imxcrypt.debug prints every step. A required
volume that is left out this way is named on the console, in the kernel log and by status.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt boot\n  imxcrypt boot --dry-run",
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.boot(cmd.Context(), args, f)
		},
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan, change nothing")
	c.Flags().BoolVar(&f.noMount, "no-mount", false, "unlock only")
	return c
}

func (a *app) boot(ctx context.Context, names []string, f bootFlags) error {
	began := time.Now()
	kernel, err := a.obeyKernel()
	if err != nil {
		return err
	}
	if a.verbose {
		a.printStart()
	}
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	if a.verbose {
		fmt.Fprintf(a.stderr, "boot: configuration read%s\n", durationText(time.Since(began)))
	}
	leftOut := kernel.LeftOut(c)
	c, unknown := kernel.Narrow(c)
	for _, name := range unknown {
		a.log.Warn("the kernel command line names a volume that is not in the configuration", "volume", name)
	}
	a.warnLeftOut(leftOut, f.dryRun)
	if kernel.Narrowed && len(names) > 0 {
		if names = narrowed(names, kernel.Volumes); len(names) == 0 {
			return nil
		}
	}
	plan, err := boot.NewPlan(c, names...)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		plan = plan.AtBoot()
	}
	if f.dryRun {
		return a.printBootPlan(plan, !f.noMount)
	}
	a.loadModules(ctx, plan, systemNodes(), program.Runner{})
	outcomes := plan.Run(ctx, m, !f.noMount)
	for _, o := range outcomes {
		if o.Err == nil && o.Result.Rotating {
			a.resumeInBackground(ctx, o.Step.Spec.Name)
		}
	}
	if boot.InInitramfs() {
		a.leaveMarks(outcomes)
	}
	var errs []error
	for _, o := range outcomes {
		o.Result.Volume = o.Step.Spec.Name
		if err := a.printResult(o.Result, o.Err, sentence); err != nil {
			errs = append(errs, err)
		}
		if o.Err != nil && !o.Step.Required && !a.json {
			a.log.Warn("boot continues without an optional volume", "volume", o.Step.Spec.Name, "error", o.Err, "hint", a.hintFor(o.Step.Spec.Name, o.Err))
		}
	}
	if err := boot.Failed(outcomes); err != nil {
		return errors.Join(append(errs, err)...)
	}
	// Only optional volumes failed; with --json their errors were already printed.
	a.printed = false
	return errors.Join(errs...)
}

// warnLeftOut reports required volumes that the boot leaves out, on the console and,
// unless quietKernel is set, in the kernel log. Later status reports them.
func (a *app) warnLeftOut(names []string, quietKernel bool) {
	for _, name := range names {
		a.log.Warn("the kernel command line (imxcrypt.volumes=) leaves out a volume that is required", "volume", name)
		if !quietKernel {
			logToKernel(filepath.Join("/", a.sysRoot, "dev/kmsg"), priorityWarning, "imxcrypt", leftOutText(name))
		}
	}
}

func leftOutText(name string) string {
	return "volume " + name + " is required, and imxcrypt.volumes= on the kernel command line leaves it out"
}

// leaveMarks records for the real system which volumes the initramfs opened.
func (a *app) leaveMarks(outcomes []boot.Outcome) {
	for _, o := range outcomes {
		if o.Err != nil {
			continue
		}
		if err := (boot.Marks{Dir: volume.RunDir}).Leave(o.Step.Spec.Mapping); err != nil {
			a.log.Warn("the real system will not know that the volume was opened in the initramfs", "volume", o.Step.Spec.Name, "error", err)
		}
	}
}

// printStart prints the CPU time of the program's own start. The elapsed time is not
// known, because a process does not know when it was requested.
func (a *app) printStart() {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) == nil {
		fmt.Fprintf(a.stderr, "boot: program started%s\n", durationText(time.Duration(t.Nano())))
	}
}

// narrowed returns those of the names that are allowed.
func narrowed(names, allowed []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(allowed, n) })
}

type bootStepJSON struct {
	Volume   string   `json:"volume"`
	Device   string   `json:"device"`
	Mapping  string   `json:"mapping"`
	Mount    string   `json:"mount,omitempty"`
	Required bool     `json:"required"`
	After    []string `json:"after"`
	Why      []string `json:"why"`
}

func (a *app) printBootPlan(plan boot.Plan, mount bool) error {
	for i, s := range plan.Steps {
		j := bootStepJSON{
			Volume: s.Spec.Name, Device: s.Spec.Device, Mapping: "/dev/mapper/" + s.Spec.Mapping,
			Required: s.Required, After: append([]string{}, s.After...), Why: append([]string{}, s.Why...),
		}
		if mount {
			j.Mount = s.Spec.Mount.Path
		}
		if a.json {
			if err := a.printJSON(j); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(a.stdout, "%d. unlock %s on %s as %s", i+1, j.Volume, j.Device, j.Mapping)
		if j.Mount != "" {
			fmt.Fprintf(a.stdout, ", mount it on %s", j.Mount)
		}
		if !j.Required {
			fmt.Fprint(a.stdout, ", not required")
		}
		if len(j.After) > 0 {
			fmt.Fprintf(a.stdout, ", after %s (%s)", strings.Join(j.After, ", "), strings.Join(j.Why, ", "))
		}
		fmt.Fprintln(a.stdout)
	}
	return nil
}
