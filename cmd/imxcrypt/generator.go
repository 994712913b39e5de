// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mount"
	"imxcrypt/internal/plainfile"
	"imxcrypt/volume"
)

// generatorName is the name under which systemd runs the program, from
// /usr/lib/systemd/system-generators.
const generatorName = "imxcrypt-generator"

// asGenerator turns the arguments of a systemd.generator(7) into those of the generator
// command.
func asGenerator(argv []string) []string {
	if len(argv) > 0 && filepath.Base(argv[0]) == generatorName {
		return append([]string{"generator"}, argv[1:]...)
	}
	return argv[min(1, len(argv)):]
}

func (a *app) generatorCommand() *cobra.Command {
	var failed []string
	c := &cobra.Command{
		Use:    "generator NORMAL EARLY LATE",
		Short:  "make systemd units from the configuration",
		Hidden: true,
		Long: `Systemd runs generator early at boot and at each daemon-reload. It reads the
configuration and writes a service for each volume, and a mount unit for each
mount point that is not in /etc/fstab, to the directory NORMAL. In an initramfs
it does nothing: there the initramfs's own scripts call imxcrypt.

If the configuration is invalid, generator writes a unit that says why and fails, and
local-fs.target fails with it: the system goes to emergency.target. Once the configuration
is corrected, systemctl daemon-reload and systemctl default continue the boot.

` + exitCodes(fault.ExitMissing),
		Example: "  imxcrypt generator /tmp/units /tmp/units /tmp/units",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(failed) > 0 {
				return generatorFailed(failed)
			}
			// systemd passes three directories; by hand one is enough.
			if len(args) != 1 && len(args) != 3 {
				return fault.New(fault.Usage, fmt.Sprintf("generator takes the directories NORMAL, EARLY and LATE, not %d arguments", len(args)), nil)
			}
			return a.generate(args[0], "/")
		},
	}
	c.Flags().StringArrayVar(&failed, "failed", nil, "only print this, and fail")
	return c
}

// generatorFailed returns what the unit of a failed generator prints.
func generatorFailed(reasons []string) error {
	var errs []error
	for _, r := range reasons {
		errs = append(errs, fault.New(fault.GeneratorFailed, "no volume is opened: "+r, nil))
	}
	return errors.Join(errs...)
}

// generate makes the units below dir for the system at root. Errors also go to the kernel
// log, because no other log runs yet when generators run.
func (a *app) generate(dir, root string) error {
	if _, err := os.Stat(filepath.Join(root, "etc/initrd-release")); err == nil {
		return nil
	}
	err := a.generateUnits(dir, root)
	if err != nil {
		var reasons []string
		for _, e := range parts(err) {
			logToKernel(filepath.Join(root, "dev/kmsg"), priorityError, generatorName, oneLine(e.Error()))
			reasons = append(reasons, oneLine(e.Error()))
		}
		err = errors.Join(err, a.leaveFailure(dir, reasons))
	}
	return err
}

func (a *app) leaveFailure(dir string, reasons []string) error {
	program, err := os.Executable()
	if err != nil {
		return fault.New(fault.Failed, "find out where imxcrypt is installed", err)
	}
	if err := boot.WriteUnits(dir, boot.FailureUnits(program, reasons)); err != nil {
		return fault.New(fault.Failed, "write units", err)
	}
	return nil
}

func (a *app) generateUnits(dir, root string) error {
	kernel, err := a.obeyKernel()
	if err != nil {
		return err
	}
	c, err := a.loadConfig()
	if err != nil {
		if fault.Is(err, fault.ConfigMissing) && kernel.Config == "" && !leadsNowhere(a.configFile()) {
			return nil // installed but not used
		}
		return err
	}
	for _, name := range kernel.LeftOut(c) {
		a.log.Warn("the kernel command line (imxcrypt.volumes=) leaves out a volume that is required", "volume", name)
		logToKernel(filepath.Join(root, "dev/kmsg"), priorityWarning, generatorName, leftOutText(name))
	}
	c, unknown := kernel.Narrow(c)
	for _, name := range unknown {
		a.log.Warn("the kernel command line names a volume that is not in the configuration", "volume", name)
	}
	fstab, err := os.ReadFile(filepath.Join(root, "etc/fstab"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Failed, "read fstab", err)
	}
	program, err := os.Executable()
	if err != nil {
		return fault.New(fault.Failed, "find out where imxcrypt is installed", err)
	}
	marks := boot.Marks{Dir: filepath.Join(root, volume.RunDir)}
	units, err := boot.Units(c, boot.UnitOptions{
		Program: program, Fstab: mount.ParseFstab(string(fstab)), FromInitramfs: marks.Left, Debug: kernel.Debug,
		Canonical: func(path string) string { return boot.Canonical(root, path) },
	})
	if err != nil {
		return err
	}
	if err := boot.WriteUnits(dir, units); err != nil {
		return fault.New(fault.Failed, "write units", err)
	}
	return nil
}

// leadsNowhere reports whether a path is a dangling link, which means that there should
// be a configuration.
func leadsNowhere(path string) bool {
	_, errLink := os.Lstat(path)
	_, errFile := os.Stat(path)
	return errLink == nil && errors.Is(errFile, fs.ErrNotExist)
}

// obeyKernel reads the kernel command line, for commands that run at boot, where nothing
// passes them flags. Flags and the environment take precedence. The configuration that
// the command line names must be one of the system's own.
func (a *app) obeyKernel() (boot.KernelOptions, error) {
	text, err := plainfile.Read(a.cmdline)
	if err != nil {
		a.log.Warn("the kernel command line cannot be read", "error", err)
	}
	o := boot.ParseKernelOptions(string(text))
	if a.configPath == "" && a.getenv("IMXCRYPT_CONFIG") == "" && o.Config != "" {
		dirs := a.bootDirs
		if dirs == nil {
			dirs = configs.Dirs()
		}
		if err := configs.NamedAtBoot(o.Config, dirs); err != nil {
			return o, err
		}
		a.configPath = o.Config
	}
	if o.Debug {
		a.verbose, a.logLevel = true, "debug"
		// The old level was valid, and so is the new one.
		_ = a.prepare()
	}
	return o, nil
}

// logToKernel writes a line to the kernel log, if there is one.
func logToKernel(kmsg string, priority int, program, text string) {
	f, err := os.OpenFile(kmsg, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_, _ = io.WriteString(f, fmt.Sprintf("<%d>%s: %s\n", priority, program, text))
	_ = f.Close()
}
