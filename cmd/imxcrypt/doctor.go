// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/doctor"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "what chip, kernel and configuration lack, and what to do about each",
		Long: `Doctor checks what volumes need: the chip and its key hardware, the kernel, the
programs, where headers and keys are stored, the configuration, and each volume.
One line for each check: ok, warning or problem, with the remedy. It opens no key
and changes nothing. It works without root as far as it can.

The exit code is 0 if there is no problem (warnings do not count), otherwise that
of the first problem.

` + exitCodesHelp,
		Example:           "  imxcrypt doctor\n  imxcrypt doctor --json",
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context())
		},
	}
}

func (a *app) doctor(ctx context.Context) error {
	r := doctor.Examine(a.machine(ctx))
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

// machine is the running system as the checks want it.
func (a *app) machine(ctx context.Context) doctor.Machine {
	chip := volume.ReadChip(a.sysRoot)
	m := doctor.Machine{
		Root:         a.sysRoot,
		Superuser:    os.Geteuid() == 0,
		Chip:         doctor.Chip{SoC: chip.SoC, Key: chip.Key, State: string(chip.State), KeepsKeys: chip.KeepsKeys, Evidence: chip.Evidence},
		CryptVersion: volume.CryptVersion,
		Now:          time.Now(),
		Config:       doctor.Config{Path: a.configFile()},
	}
	c, err := a.loadConfig()
	if err == nil {
		_, err = boot.NewPlan(c)
	}
	if err != nil {
		m.Config = configProblem(m.Config.Path, err)
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
		m.Volumes = append(m.Volumes, patient(v, manager.Status(ctx, boot.Spec(c, v))))
	}
	return m
}

// configProblem is what keeps a configuration from loading. A single mistake
// brings its own remedy along.
func configProblem(path string, err error) doctor.Config {
	c := doctor.Config{Path: path, Code: fault.CodeOf(err), Remedy: hints()[fault.CodeOf(err)]}
	if one := (*configs.Error)(nil); errors.As(err, &one) && one.Remedy != "" && one.Error() == err.Error() {
		bare := *one
		bare.Remedy = ""
		err, c.Remedy = &bare, one.Remedy
	}
	c.Problem = oneLine(err.Error())
	return c
}

// patient is a volume as the checks want it.
func patient(v configs.Volume, st volume.Status) doctor.Volume {
	d := doctor.Volume{
		Name: v.Name, Source: string(v.Source), Node: st.Path, Filesystem: v.Filesystem.Type,
		State: string(st.State), Generation: st.Generation, Level: doctor.OK,
	}
	if v.Detached() {
		d.Header = v.Header
	}
	if st.Err == nil {
		return d
	}
	d.Code, d.Text, d.Remedy = fault.CodeOf(st.Err), oneLine(st.Err.Error()), hint(st.Err)
	d.Level = doctor.Problem
	if d.Code == fault.NotProvisioned || d.Code == fault.PermissionMissing || st.State == volume.Absent && !v.Needed() {
		d.Level = doctor.Warning
	}
	return d
}
