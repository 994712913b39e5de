// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/doctor"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/source"
)

func (a *app) doctorCommand() *cobra.Command {
	var deep bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "find what the chip, kernel and configuration lack, with a remedy for each",
		Long: `Doctor checks what volumes need: the chip and its key hardware, the kernel, the
programs, where headers and keys are stored, the configuration, and each volume.
It prints a line for each check: ok, warning or problem, with the remedy. It changes
nothing, and works without root as far as it can. With --deep, which is the default
for root, it opens the keys of locked volumes, as verify does, and looks at their
filesystems to find out why a volume does not open. For a volume that is not provisioned
yet it makes the kernel load, and then remove, a table like the volume's.

The exit code is 0 if there is no problem (warnings do not count), otherwise that
of the first problem.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt doctor\n  imxcrypt doctor --json",
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), deep)
		},
	}
	c.Flags().BoolVar(&deep, "deep", os.Geteuid() == 0, "try the keys of locked volumes")
	c.Flags().Lookup("deep").DefValue = "false" // help shows the default for users other than root
	return c
}

func (a *app) doctor(ctx context.Context, deep bool) error {
	r := doctor.Examine(a.machine(ctx, deep))
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	} else if err := r.Write(a.stdout, a.colour()); err != nil {
		return err
	}
	if code := r.Failed(); code != "" {
		a.printed = true
		return fault.New(code, "there are problems", nil)
	}
	return nil
}

// machine describes the running system for the checks.
func (a *app) machine(ctx context.Context, deep bool) doctor.Machine {
	chip := volume.ReadChip(a.sysRoot)
	m := doctor.Machine{
		Root:         a.sysRoot,
		Superuser:    os.Geteuid() == 0,
		Chip:         doctor.Chip{SoC: chip.SoC, Key: chip.Key, State: string(chip.State), KeepsKeys: chip.KeepsKeys, Evidence: chip.Evidence},
		CryptVersion: volume.CryptVersion,
		TrustSource:  source.TrustSource,
		Now:          time.Now(),
		Config:       doctor.Config{Path: a.configFile()},
	}
	c, err := a.loadConfig()
	if err == nil {
		m.Config.Path = strings.Join(c.Files(), ", ")
		_, err = boot.NewPlan(c)
	}
	if err != nil {
		m.Config = a.configProblem(m.Config.Path, err)
	}
	if c == nil {
		if c, err = configs.Parse("defaults", []byte("volumes: []\n")); err != nil {
			return m
		}
	}
	m.CAAMNode, m.StateDir = c.CAAM.Device, c.StateDir
	if c.CAAM.Engine == configs.EngineProgram {
		m.Program = c.CAAM.Program
	}
	manager := volume.New(a.system(c, a.log))
	for _, v := range c.Volumes {
		m.Volumes = append(m.Volumes, a.doctorVolume(ctx, manager, c, v, deep))
	}
	return m
}

// configProblem describes why a configuration cannot be used. A single mistake has its
// own remedy.
func (a *app) configProblem(path string, err error) doctor.Config {
	f, _ := fault.Lookup(fault.CodeOf(err))
	c := doctor.Config{Path: path, Code: fault.CodeOf(err), Remedy: a.fill(f.Hint, "")}
	if one := (*configs.Error)(nil); errors.As(err, &one) && one.Remedy != "" && one.Error() == err.Error() {
		bare := *one
		bare.Remedy = ""
		err, c.Remedy = &bare, one.Remedy
	}
	c.Problem = oneLine(err.Error())
	return c
}

// doctorVolume describes a volume for the checks. With deep it tries the key of a locked
// volume.
func (a *app) doctorVolume(ctx context.Context, m *volume.Manager, c *configs.Config, v configs.Volume, deep bool) doctor.Volume {
	s := boot.Spec(c, v)
	st := m.Status(ctx, s)
	d := doctor.Volume{
		Name: v.Name, Source: st.Source, Trust: st.Trust, Cipher: st.Cipher, Node: st.Path, Filesystem: v.Filesystem.Type,
		State: string(st.State), Generation: st.Generation, Level: doctor.OK, IntactHeader: st.IntactHeader,
		EncryptsPlain: s.EncryptPlain, Shrinks: s.EncryptPlain && !s.Detached() && s.Filesystem.Type == "ext4", Image: v.InFile(),
	}
	if v.Detached() {
		d.Header = v.Header
	}
	for _, p := range boot.MountProblems(c, a.sysRoot) {
		if p.Volume == v.Name {
			d.Warnings = append(d.Warnings, doctor.Check{ID: string(fault.ConfigInvalid), Text: p.Text, Remedy: p.Remedy})
		}
	}
	for _, w := range st.Warnings {
		d.Warnings = append(d.Warnings, a.doctorWarning(v.Name, w))
	}
	if st.Rotation != nil {
		d.Warnings = append(d.Warnings, a.doctorWarning(v.Name, fault.Newf(fault.RotationUnderWay,
			"a rotation to generation %d is at %d%%: under way, or interrupted", st.Rotation.Generation, percent(st.Rotation))))
	}
	problem, found := st.Problem(), ""
	plain := s.EncryptPlain && (fault.Is(problem, fault.PlaintextFound) || fault.Is(problem, fault.NotProvisioned))
	if f := st.LastFailure; (problem == nil || plain) && f != nil {
		problem, found = fault.New(f.Code, f.Message, nil), " (found when it was unlocked at "+f.At.Format(time.RFC3339)+")"
	}
	if deep && st.State == volume.Locked && (st.Err == nil) {
		now := m.Diagnose(ctx, s)
		if now == nil && problem != nil {
			d.Warnings = append(d.Warnings, a.doctorWarning(v.Name, fault.New(st.LastFailure.Code, "it opens now; the last unlocking failed: "+st.LastFailure.Message, nil)))
		}
		if !fault.Is(now, fault.LockHeld) {
			problem, found = now, ""
		}
	}
	if deep && !plain && fault.Is(problem, fault.NotProvisioned) {
		if err := m.Try(ctx, s); err != nil && !fault.Is(err, fault.LockHeld) {
			problem, found = err, ""
		}
	}
	if problem == nil {
		if st.State == volume.Locked && v.Mount.Path != "" && !belowAnother(c, v) {
			if err := m.MountPoint(s); err != nil {
				d.Warnings = append(d.Warnings, a.doctorWarning(v.Name, err))
			}
		}
		return d
	}
	d.Code, d.Text, d.Remedy = fault.CodeOf(problem), oneLine(problem.Error())+found, a.hintFor(v.Name, problem)
	d.Level = doctor.Problem
	if d.Code == fault.NotProvisioned || d.Code == fault.PermissionMissing || !v.Needed() && (st.State == volume.Absent || st.State == volume.Locked) {
		d.Level = doctor.Warning
	}
	return d
}

// belowAnother reports whether a volume's mount point is on another volume, so that it
// may exist only while that volume is mounted.
func belowAnother(c *configs.Config, v configs.Volume) bool {
	return slices.ContainsFunc(c.Volumes, func(o configs.Volume) bool {
		return o.Mount.Path != "" && strings.HasPrefix(v.Mount.Path, strings.TrimSuffix(o.Mount.Path, "/")+"/")
	})
}

// doctorWarning returns a finding that does not make the data inaccessible.
func (a *app) doctorWarning(name string, err error) doctor.Check {
	return doctor.Check{ID: string(fault.CodeOf(err)), Text: oneLine(err.Error()), Remedy: a.hintFor(name, err)}
}
