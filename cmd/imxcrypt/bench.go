// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/bench"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

type benchFlags struct {
	device, scratch, source, wrap string
	keySize, keys                 int
	each                          time.Duration
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench",
		Short: "measure keys and ciphers on this board, and suggest settings",
		Long: `Bench measures how long the CAAM or the trust source takes to make and to import a
key, and the speed of dm-crypt with each cipher, sector size and set of flags that a
volume may have. Without --source it takes the one that provisioning would choose; with
trusted keys it recommends Adiantum if that is the faster cipher. It works on a RAM
disk (a file in /run), on --scratch FILE, which it makes and removes, or on an empty
--device, which is empty again afterwards. It touches no volume. The last lines are for
the volume's entry in the configuration; a rotation gives an existing volume another
sector size.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted),
		Example: `  imxcrypt bench
  imxcrypt bench --device /dev/ram0 --each 2s
  imxcrypt bench --source trusted
  imxcrypt bench --source dev --json`,
		Args:              exactly(0, "no arguments"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.bench(cmd.Context(), f)
		},
	}
	c.Flags().StringVar(&f.device, "device", "", "an empty block `DEVICE` to work on")
	c.Flags().StringVar(&f.scratch, "scratch", "", "a `FILE` to make, work on and remove")
	c.Flags().StringVar(&f.source, "source", spec.SourceAuto, "where keys come from: caam, trusted, auto for the one that works here, or dev for ciphers in software")
	c.Flags().StringVar(&f.wrap, "wrap", "", "how black keys are encrypted: ccm or ecb (default ccm)")
	c.Flags().IntVar(&f.keySize, "key-size", 0, "key size in bytes, for the ciphers that have keys of that size (default: each cipher's own)")
	c.Flags().IntVar(&f.keys, "keys", 20, "how many keys to make and import")
	c.Flags().DurationVar(&f.each, "each", 300*time.Millisecond, "how long to read and to write with each setting")
	c.MarkFlagsMutuallyExclusive("device", "scratch")
	_ = c.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(sources(), cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("wrap", cobra.FixedCompletions([]string{"ccm", "ecb"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (f benchFlags) check() error {
	switch {
	case !slices.Contains([]string{spec.SourceAuto, spec.SourceCAAM, spec.SourceTrusted, spec.SourceDev}, f.source):
		return fault.New(fault.Usage, fmt.Sprintf("--source %q is not auto, caam, trusted or dev", f.source), nil)
	case f.wrap != "" && f.wrap != "ccm" && f.wrap != "ecb":
		return fault.New(fault.Usage, fmt.Sprintf("--wrap %q is not ccm or ecb", f.wrap), nil)
	case f.keys < 1 || f.keys > 10000:
		return fault.New(fault.Usage, "--keys must be from 1 to 10000", nil)
	case f.each < time.Millisecond || f.each > time.Minute:
		return fault.New(fault.Usage, "--each must be from 1ms to 1m", nil)
	}
	return nil
}

func (a *app) bench(ctx context.Context, f benchFlags) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	sys, err := a.keySystem("")
	if err != nil {
		return err
	}
	if err := secret.Harden(); err != nil {
		return err
	}
	device := f.device
	if device == "" {
		scratch := f.scratch
		if scratch == "" {
			if err := os.MkdirAll(volume.RunDir, 0o700); err != nil {
				return fault.New(fault.PermissionMissing, "make a RAM disk", err)
			}
			scratch = filepath.Join(volume.RunDir, fmt.Sprintf("bench-%d.img", os.Getpid()))
		}
		var release func() error
		if device, release, err = bench.ScratchDevice(scratch); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	o := bench.Options{Device: device, Source: f.source, Wrap: f.wrap, KeySize: f.keySize, Each: f.each, Keys: f.keys}
	if !a.json {
		first := true
		o.Progress = func(r bench.Row) {
			if first {
				fmt.Fprintf(a.stdout, "%-36s %6s  %11s  %11s  %s\n", "CIPHER", "SECTOR", "WRITE", "READ", "FLAGS")
				first = false
			}
			fmt.Fprintln(a.stdout, benchmarkLine(r))
		}
	}
	r, err := bench.Run(ctx, sys, o)
	if err != nil {
		switch fault.CodeOf(err) {
		case fault.NotEmpty, fault.DeviceInUse, fault.DeviceUnsuitable:
			if f.device != "" {
				return fault.New(fault.BenchRefused, "bench: --device", err)
			}
		}
		return fmt.Errorf("bench: %w", err)
	}
	if a.json {
		return a.printJSON(r)
	}
	if r.Why != "" {
		fmt.Fprintf(a.stdout, "source %s: %s\n", r.Source, r.Why)
	}
	if t := r.Times; t != nil {
		fmt.Fprintf(a.stdout, "key made in %s, imported in %s (medians of %d)\n", milliseconds(time.Duration(t.Create)), milliseconds(time.Duration(t.Import)), t.Keys)
	}
	if r.Best == nil {
		return fault.New(noCipher(r.Source), "bench: no setting could be measured", nil)
	}
	fmt.Fprint(a.stdout, "recommended for the volume's entry in the configuration:\n"+recommendation(r.Source, *r.Best))
	return nil
}

// noCipher returns the code for a kernel that has no cipher for a source.
func noCipher(source string) fault.Code {
	if source == spec.SourceCAAM {
		return fault.CipherMissing
	}
	return fault.SoftCipherMissing
}

func benchmarkLine(r bench.Row) string {
	flags := strings.Join(r.Flags, ",")
	if r.Problem != "" {
		return fmt.Sprintf("%-36s %6d  %s: %s", r.Cipher, r.SectorSize, or(flags), oneLine(r.Problem))
	}
	rate := func(bytes float64) string { return fmt.Sprintf("%.1f MiB/s", bytes/(1<<20)) }
	return strings.TrimRight(fmt.Sprintf("%-36s %6d  %11s  %11s  %s", r.Cipher, r.SectorSize, rate(r.Write), rate(r.Read), flags), " ")
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

// recommendation returns lines that fit into a volume's entry unchanged: they are
// indented like its other fields.
func recommendation(source string, r bench.Row) string {
	text := fmt.Sprintf("    sector_size: %d\n", r.SectorSize)
	if source == spec.SourceTrusted {
		text += fmt.Sprintf("    cipher: %s\n    key_size: %d\n", r.Cipher, r.KeySize)
	}
	if len(r.Flags) > 0 {
		text += "    crypt_flags: [" + strings.Join(r.Flags, ", ") + "]\n"
	}
	return text
}
