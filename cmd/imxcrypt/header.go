// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/spec"
)

func (a *app) headerCommand() *cobra.Command {
	return group("header", "check, back up, restore and repair LUKS2 headers",
		`Header checks LUKS2 headers, backs up a volume's header to a file, restores it, and
repairs a damaged header. Without its header nothing opens a volume.`,
		"  imxcrypt header check /dev/mmcblk2p3\n  imxcrypt header backup data /media/data.header",
		a.headerCheckCommand(), a.headerBackupCommand(), a.headerRestoreCommand(), a.headerRepairCommand())
}

func (a *app) headerCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|DEVICE",
		Short: "check any LUKS2 header against the specification",
		Long: `Check tests the LUKS2 header at the start of a device, an image or a file, whichever
program wrote it, against the LUKS2 specification, and says whether it belongs to an
imxcrypt volume. It needs no configuration and changes nothing. The exit code is 0 for
a valid header and 8 for an invalid one; check names the first rule that is broken. The
header of another program is valid if cryptsetup accepts it; an imxcrypt header must
keep every rule.

` + exitCodes(fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitHeaderDamaged),
		Example: "  imxcrypt header check /dev/mmcblk2p3\n  imxcrypt header check --json data.header",
		Args:    exactly(1, "a file or a device"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.headerCheck(args[0])
		},
	}
}

type headerCheckJSON struct {
	header.Report
	Error *problem `json:"error"`
}

func (a *app) headerCheck(path string) error {
	m, err := a.bareManager()
	if err != nil {
		return err
	}
	r, err := m.CheckHeader(path)
	if fault.Is(err, fault.DeviceMissing) {
		err = named("header check", err)
	}
	if a.json {
		a.printed = a.printed || err != nil
		return joinPrint(a.printJSON(headerCheckJSON{r, a.problemOf(a.volume, err)}), err)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(a.stderr, "%simxcrypt: %s: %s\n", a.priority(priorityWarning), path, p)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: valid LUKS2 header, uuid %s, label %q, sequence number %d\n", path, r.UUID, r.Label, r.Sequence)
	for i, c := range r.Copies {
		fmt.Fprintf(a.stdout, "  copy %d at byte %d: %s\n", i+1, c.Offset, c.State)
	}
	if len(r.Requirements) > 0 {
		fmt.Fprintf(a.stdout, "  requires: %q\n", r.Requirements)
	}
	v := r.Volume
	switch {
	case v != nil:
		fmt.Fprintf(a.stdout, "  imxcrypt volume: %s, generation %d, source %s, %s, sectors of %d, made while the chip was %s\n",
			v.Phase, v.Generation, v.Source, v.Cipher, v.SectorSize, v.SecurityState)
		fmt.Fprintf(a.stdout, "  data: %d bytes from byte %d\n", v.DataSize, v.DataOffset)
		for _, recipient := range v.Recipients {
			fmt.Fprintf(a.stdout, "  RECOVERY COPY of the key for %s\n", recipient)
		}
		if v.Passphrase {
			fmt.Fprintln(a.stdout, "  RECOVERY COPY of the key for a passphrase")
		}
		if v.Fingerprint != "" {
			fmt.Fprintf(a.stdout, "  fingerprint of the copy: %s\n", v.Fingerprint)
		}
	case r.Imxcrypt:
		fmt.Fprintln(a.stdout, "  imxcrypt volume that another program must finish with first")
	default:
		fmt.Fprintln(a.stdout, "  not an imxcrypt volume")
	}
	return nil
}

// named returns the error for a file or device that the command line names, not the
// configuration.
func named(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.FileMissing, what, err)
	}
	return fault.New(fault.Usage, what, err)
}

func joinPrint(printed, err error) error {
	if err != nil {
		return err
	}
	return printed
}

func (a *app) headerBackupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "backup NAME FILE",
		Short: "write a copy of a volume's header to a file",
		Long: `Backup writes a volume's whole header area, sealed key and check included, to a
new file that only root can read. It never overwrites a file.

Protect the file as you would protect the key: on this chip it opens the volume for
ever, even after the volume was erased. If it has a recovery copy, the recovery
identity opens the volume anywhere.

` + exitCodes(fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example:           "  imxcrypt header backup data /media/usb/data.header",
		Args:              exactly(2, "a volume and a file"),
		ValidArgsFunction: a.completeOneVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.headerBackup(cmd.Context(), args[0], args[1])
		},
	}
}

func (a *app) headerBackup(ctx context.Context, name, file string) error {
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	return a.each(ctx, []spec.Volume{s}, func(ctx context.Context, s spec.Volume) (volume.Result, error) {
		r, err := m.BackupHeader(ctx, s, file)
		if err == nil {
			r.Warnings = append(r.Warnings, "the backup opens the volume on this chip for ever, also after it was erased: destroy it when you erase the volume")
		}
		return r, err
	}, func(r volume.Result) string {
		return fmt.Sprintf("%s: header of generation %d written to %s", r.Volume, r.Generation, file)
	})
}

// bareManager is for commands that need no configuration, and so must not fail because
// of an invalid one.
func (a *app) bareManager() (*volume.Manager, error) {
	c, err := configs.Parse("defaults", []byte("volumes: []\n"))
	if err != nil {
		return nil, err
	}
	return volume.New(a.system(c, a.log)), nil
}

// oneVolume returns the manager and the named volume.
func (a *app) oneVolume(name string) (*volume.Manager, spec.Volume, error) {
	c, m, err := a.manager()
	if err != nil {
		return nil, spec.Volume{}, err
	}
	v, err := c.Volume(name)
	if err != nil {
		return nil, spec.Volume{}, err
	}
	a.volume = name
	return m, boot.Spec(c, v), nil
}

// completeOneVolume completes the first argument with volume names, the others with
// files.
func (a *app) completeOneVolume(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeVolumes(cmd, given, typed)
}

// completeOnlyVolume completes a single argument with volume names.
func (a *app) completeOnlyVolume(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeVolumes(cmd, given, typed)
}

// bullets formats a list with a dash before each item.
func bullets(list []string) string { return "  - " + strings.Join(list, "\n  - ") }
