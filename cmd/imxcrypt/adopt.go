// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

func (a *app) adoptCommand() *cobra.Command {
	var o volume.AdoptOptions
	c := &cobra.Command{
		Use:   "adopt NAME --blob FILE",
		Short: "take over a volume made with caam-keygen and dmsetup",
		Long: `Adopt takes over a volume that was made with caam-keygen, keyctl and dmsetup. It
proves that blob, device, cipher, sector size and offset fit: the blob is opened
on this chip, the device is mapped read-only, and the filesystem's superblock
must prove itself. Then it writes a header to the file that the configuration
names. No byte of the device changes, and the old way of opening it goes on
working.

The volume stands in the configuration with "header:" set to a file. What the
flags leave out is taken from there. If nothing fits, other ciphers and sector
sizes are tried, read-only, and those that fit are named.

Beyond 2 TiB the ciphers -plain and -plain64 differ, and what is looked at, the
superblock and the first MiB, cannot tell them apart: for such a size the cipher
must be given, with --cipher or --table. -plain64 is taken on trust then; -plain
repeats its IVs there, and is not adopted.

` + exitCodesHelp,
		Example: `  imxcrypt adopt data --blob /data/caam/data.bb
  imxcrypt adopt data --blob data.bb --table "$(dmsetup table data)"
  imxcrypt adopt data --blob data.bb --sector-size 512 --offset 2048`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.adopt(cmd.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&o.Blob, "blob", "", "file of the sealed key (NAME.bb of caam-keygen, or an older form)")
	c.Flags().StringVar(&o.Table, "table", "", "how it is opened today: a line of dmsetup table, the device as number or path")
	c.Flags().StringVar(&o.Device, "device", "", "device, compared with that of the configuration")
	c.Flags().StringVar(&o.Cipher, "cipher", "", "cipher in dm-crypt's notation (default as configured)")
	c.Flags().IntVar(&o.SectorSize, "sector-size", 0, "encryption sector in bytes: 512, 1024, 2048 or 4096 (default as configured)")
	c.Flags().Uint64Var(&o.Offset, "offset", 0, "start of the data on the device, in sectors of 512 bytes, as in a table")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "prove that everything fits, write nothing")
	for _, other := range []string{"device", "cipher", "sector-size", "offset"} {
		c.MarkFlagsMutuallyExclusive("table", other)
	}
	return c
}

func (a *app) adopt(ctx context.Context, name string, o volume.AdoptOptions) error {
	if o.Blob == "" {
		return fault.New(fault.Usage, "--blob is missing: the file of the sealed key, NAME.bb", nil)
	}
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	do := func(ctx context.Context, s volume.Spec) (volume.Result, error) { return m.Adopt(ctx, s, o) }
	if o.DryRun {
		return a.eachPlan(ctx, []volume.Spec{s}, do)
	}
	return a.each(ctx, []volume.Spec{s}, do, func(r volume.Result) string {
		if r.Already {
			return r.Volume + ": adopted (already)"
		}
		return r.Volume + ": adopted, the device was not touched; keep the blob's file or back the header up: " + s.Header + " holds the only other copy of the key"
	})
}
