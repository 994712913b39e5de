// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

func (a *app) headerCommand() *cobra.Command {
	return group("header", "judge, keep and bring back LUKS2 headers",
		`Header judges LUKS2 headers, writes a volume's to a file, and brings it back.
Without its header nothing opens a volume.`,
		"  imxcrypt header check /dev/mmcblk2p3\n  imxcrypt header backup data /media/data.header",
		a.headerCheckCommand(), a.headerBackupCommand(), a.headerRestoreCommand())
}

func (a *app) headerCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE|DEVICE",
		Short: "judge any LUKS2 header by the specification",
		Long: `Check judges the LUKS2 header at the start of a device, an image or a file, ours
or not, by the LUKS2 specification, and says whether it is a volume of imxcrypt.
It takes no configuration and changes nothing. The exit code is 0 for a valid
header and 8 for one that is not; the first rule that is broken is named.

` + exitCodesHelp,
		Example: "  imxcrypt header check /dev/mmcblk2p3\n  imxcrypt header check --json data.header",
		Args:    exactly(1, "a file or a device"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.headerCheck(args[0])
		},
	}
}

func (a *app) headerCheck(path string) error {
	m, err := a.bareManager()
	if err != nil {
		return err
	}
	r, err := m.CheckHeader(path)
	if a.json {
		a.printed = a.printed || err != nil
		return joinPrint(a.printJSON(struct {
			volume.HeaderReport
			Error *problem `json:"error"`
		}{r, a.problemOf(err)}), err)
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
	case r.Imxcrypt:
		fmt.Fprintln(a.stdout, "  imxcrypt volume that another program must finish with first")
	default:
		fmt.Fprintln(a.stdout, "  not an imxcrypt volume")
	}
	return nil
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
		Short: "keep a copy of a volume's header",
		Long: `Backup writes a volume's whole header area, sealed key and check included, to a
new file that only root can read. It never writes over a file.

Keep the file as you would keep the key: on this chip it opens the volume for
ever, also after the volume was erased. With a recovery copy in it, the recovery
identity opens the volume anywhere.

` + exitCodesHelp,
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
	return a.each(ctx, []volume.Spec{s}, func(ctx context.Context, s volume.Spec) (volume.Result, error) {
		r, err := m.BackupHeader(ctx, s, file)
		if err == nil {
			r.Warnings = append(r.Warnings, "the backup opens the volume on this chip for ever, also after it was erased: destroy it when you erase the volume")
		}
		return r, err
	}, func(r volume.Result) string {
		return fmt.Sprintf("%s: header of generation %d written to %s", r.Volume, r.Generation, file)
	})
}

type headerRestoreFlags struct{ yes, force, dryRun bool }

func (a *app) headerRestoreCommand() *cobra.Command {
	var f headerRestoreFlags
	c := &cobra.Command{
		Use:   "restore NAME FILE",
		Short: "bring a volume's header back from a backup",
		Long: `Restore writes a header back that "header backup" kept. The backup must be one of
this volume, and its key must open on this chip, before anything is written.
Afterwards the key is proved; if it is not the right one, what was there is put
back. A header that is there is replaced only after the volume's name was typed,
one with a newer key only with --force.

` + exitCodesHelp,
		Example:           "  imxcrypt header restore data /media/usb/data.header",
		Args:              exactly(2, "a volume and a file"),
		ValidArgsFunction: a.completeOneVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.headerRestore(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().BoolVar(&f.yes, "yes", false, "confirm without being asked for the name")
	c.Flags().BoolVar(&f.force, "force", false, "also an older generation, and over a filesystem or a foreign header")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "look at everything, print what would be done, change nothing")
	return c
}

func (a *app) headerRestore(ctx context.Context, name, file string, f headerRestoreFlags) error {
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	o := volume.RestoreOptions{Force: f.force, DryRun: f.dryRun, Confirm: func(what string) error {
		return a.confirm(name, what, f.yes || f.dryRun)
	}}
	do := func(ctx context.Context, s volume.Spec) (volume.Result, error) {
		return m.RestoreHeader(ctx, s, file, o)
	}
	if f.dryRun {
		return a.eachPlan(ctx, []volume.Spec{s}, do)
	}
	return a.each(ctx, []volume.Spec{s}, do, func(r volume.Result) string {
		if r.Already {
			return fmt.Sprintf("%s: the header is that of the backup (already)", r.Volume)
		}
		return fmt.Sprintf("%s: header of generation %d restored, its key opens the volume", r.Volume, r.Generation)
	})
}

// bareManager is for commands that need no configuration, and so must not fail
// for a wrong one.
func (a *app) bareManager() (*volume.Manager, error) {
	c, err := configs.Parse("defaults", []byte("volumes: []\n"))
	if err != nil {
		return nil, err
	}
	return volume.New(a.system(c, a.log)), nil
}

// oneVolume is the manager and the one volume named.
func (a *app) oneVolume(name string) (*volume.Manager, volume.Spec, error) {
	c, m, err := a.manager()
	if err != nil {
		return nil, volume.Spec{}, err
	}
	v, err := c.Volume(name)
	if err != nil {
		return nil, volume.Spec{}, err
	}
	return m, boot.Spec(c, v), nil
}

// completeOneVolume offers volume names for the first argument, files for the
// others.
func (a *app) completeOneVolume(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.completeVolumes(cmd, given, typed)
}

// completeOnlyVolume offers volume names for the one argument there is.
func (a *app) completeOnlyVolume(cmd *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeVolumes(cmd, given, typed)
}

// bullets is a list for a person.
func bullets(list []string) string { return "  - " + strings.Join(list, "\n  - ") }
