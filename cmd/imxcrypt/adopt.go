// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

func (a *app) adoptCommand() *cobra.Command {
	var o volume.AdoptOptions
	c := &cobra.Command{
		Use:   "adopt NAME --blob FILE",
		Short: "take over a volume made by hand with dmsetup",
		Long: `Adopt takes over a volume that was made with caam-keygen, keyctl and dmsetup, or with
a trusted key whose blob was saved as keyctl pipe prints it. It proves that the blob,
device, cipher, sector size and offset fit: it opens the blob on this chip, maps the
device read-only, and checks the filesystem's superblock. Then it writes a header to the
file that the configuration names. No byte of the device changes, and the old way of
opening it still works.

The configuration must have the volume, with "header:" set to a file, and supplies what
the flags leave out. If nothing fits, adopt tries other ciphers and sector sizes,
read-only, and names those that fit.

Beyond 2 TiB the ciphers -plain and -plain64 differ, but the superblock and the first
MiB, which are checked, are the same under both. For such a size name the cipher with
--cipher or --table. -plain64 is then taken on trust; -plain is refused, because it
repeats its IVs there.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
		Example: `  imxcrypt adopt data --blob /data/caam/data.bb
  imxcrypt adopt data --blob data.bb --table "$(dmsetup table data)"
  imxcrypt adopt data --blob data.bb --sector-size 512 --offset 2048
  keyctl pipe $(keyctl search @u trusted kmk) >kmk.blob
  imxcrypt adopt data --blob kmk.blob --table "$(dmsetup table data)"`,
		Args:              exactly(1, "a volume"),
		ValidArgsFunction: a.completeOnlyVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.adopt(cmd.Context(), args[0], o)
		},
	}
	c.Flags().StringVar(&o.Blob, "blob", "", "file of the sealed key: NAME.bb of caam-keygen, an older form, or what keyctl pipe prints for a trusted key")
	c.Flags().StringVar(&o.Table, "table", "", "how the volume is opened today: a line of dmsetup table, with the device as number or path")
	c.Flags().StringVar(&o.Device, "device", "", "device, compared with the one in the configuration")
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
		return fault.New(fault.Usage, "--blob is missing: the file of the sealed key, which ends with .bb", nil)
	}
	m, s, err := a.oneVolume(name)
	if err != nil {
		return err
	}
	do := func(ctx context.Context, s spec.Volume) (volume.Result, error) { return m.Adopt(ctx, s, o) }
	if o.DryRun {
		return a.eachPlan(ctx, []spec.Volume{s}, do)
	}
	return a.each(ctx, []spec.Volume{s}, do, func(r volume.Result) string {
		if r.Already {
			return r.Volume + ": adopted (already)"
		}
		return r.Volume + ": adopted, the device was not touched; keep the blob's file or back the header up: " + s.Header + " holds the only other copy of the key"
	})
}
