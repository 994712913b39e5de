// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "make, open and inspect files of NXP's caam-keygen, byte for byte",
		`Key makes, opens and inspects the files that NXP's caam-keygen program makes:
sealed keys (blobs, NAME.bb) and black keys. Volumes need none of them.`,
		"  imxcrypt key create data\n  imxcrypt key inspect /data/caam/data.bb",
		a.keyCreateCommand(), a.keyImportCommand(), a.keyInspectCommand())
}

type keyCreateFlags struct {
	dir, wrap, hexFile, device string
	size                       int
	blackKey                   bool
}

func (a *app) keyCreateCommand() *cobra.Command {
	var f keyCreateFlags
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "make a key in the chip and write its blob to NAME.bb",
		Long: `Create makes a key in the CAAM and writes its blob, as caam-keygen create does,
but atomically, durably, readable only by root, and never over an existing file.
The black key is written only with --black-key: it is worthless after the next
power-off, and should never be stored.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitRefused, fault.ExitInterrupted),
		Example: "  imxcrypt key create data\n  imxcrypt key create data --wrap ecb --size 16 --dir /perm/caam",
		Args:    exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.keyCreate(cmd.Context(), args[0], f)
		},
	}
	c.Flags().StringVar(&f.dir, "dir", "/data/caam", "directory of the files")
	c.Flags().StringVar(&f.wrap, "wrap", "ccm", "how the black key is wrapped: ecb or ccm")
	c.Flags().IntVar(&f.size, "size", 32, "size of a random key in bytes: 16, 24 or 32")
	c.Flags().StringVar(&f.hexFile, "hex-file", "", "import the hexadecimal key in this file; - is standard input")
	c.Flags().BoolVar(&f.blackKey, "black-key", false, "also write the black key to NAME")
	c.Flags().StringVar(&f.device, "device", "", "the CAAM's device node (default as configured)")
	c.MarkFlagsMutuallyExclusive("size", "hex-file")
	return c
}

func (a *app) keyCreate(ctx context.Context, name string, f keyCreateFlags) (err error) {
	if err := secret.Harden(); err != nil {
		return err
	}
	r := volume.KeyFileRequest{Name: name, Dir: f.dir, Wrap: f.wrap, Size: f.size, BlackKey: f.blackKey}
	if f.hexFile != "" {
		if r.Red, err = a.readHexKey(f.hexFile); err != nil {
			return err
		}
		defer r.Red.Wipe()
	}
	sys, err := a.keySystem(f.device)
	if err != nil {
		return err
	}
	paths, err := volume.New(sys).CreateKeyFile(ctx, r)
	if r.Red != nil && fault.Is(err, fault.KeyLengthMismatch) {
		// The hint is about a header, but here the kernel cannot take the given key.
		err = fault.New(fault.Usage, "--hex-file "+f.hexFile, err)
	}
	a.auditKey(name, err)
	if err != nil {
		return fmt.Errorf("key create %s: %w", name, err)
	}
	if a.json {
		return a.printJSON(keyFilesJSON{Files: paths})
	}
	for _, p := range paths {
		fmt.Fprintln(a.stdout, p)
	}
	return nil
}

// maxHexFile is enough for 32 bytes in hexadecimal, a newline and white space.
const maxHexFile = 256

// readHexKey reads a red key into locked memory. This is one of the few places where the
// program has a red key in memory at all, because the user asked for it.
func (a *app) readHexKey(path string) (_ *secret.Buffer, err error) {
	in := a.stdin
	if path != "-" {
		f, openErr := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
		if openErr != nil {
			return nil, named("--hex-file", openErr)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		in = f
	}
	text, err := secret.New(maxHexFile)
	if err != nil {
		return nil, err
	}
	defer text.Wipe()
	n, err := io.ReadFull(in, text.Bytes())
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fault.New(fault.Usage, fmt.Sprintf("--hex-file %s: not a key of 16, 24 or 32 bytes in hexadecimal", path), nil)
	}
	digits := text.Bytes()[:n]
	for len(digits) > 0 && (digits[len(digits)-1] == '\n' || digits[len(digits)-1] == '\r' || digits[len(digits)-1] == ' ') {
		digits = digits[:len(digits)-1]
	}
	if n := len(digits); n == 0 || n%2 != 0 || n/2 > volume.MaxRedKey {
		return nil, fault.New(fault.Usage, fmt.Sprintf("--hex-file %s: %d hexadecimal digits, a key has 32, 48 or 64", path, len(digits)), nil)
	}
	red, err := secret.New(len(digits) / 2)
	if err != nil {
		return nil, err
	}
	if _, err := hex.Decode(red.Bytes(), digits); err != nil {
		red.Wipe()
		// Not wrapped: the library's error quotes a byte of the key.
		return nil, fault.New(fault.Usage, fmt.Sprintf("--hex-file %s: not hexadecimal", path), nil)
	}
	return red, nil
}

func (a *app) keyImportCommand() *cobra.Command {
	var out, device string
	c := &cobra.Command{
		Use:   "import BLOB",
		Short: "open a blob on this chip, and write its black key if asked",
		Long: `Import opens a blob on this chip. Without --out it only reports whether it opens;
with --out it also writes the black key, as caam-keygen import does. It accepts
older forms of blobs that can be converted.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitRefused),
		Example: "  imxcrypt key import /data/caam/data.bb\n  imxcrypt key import /data/caam/data.bb --out /run/data.black",
		Args:    exactly(1, "a blob's file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := secret.Harden(); err != nil {
				return err
			}
			sys, err := a.keySystem(device)
			if err != nil {
				return err
			}
			info, err := volume.New(sys).ImportKeyFile(cmd.Context(), args[0], out)
			a.auditKey(args[0], err)
			if err != nil {
				return fmt.Errorf("key import %s: %w", args[0], err)
			}
			return a.printKeyInfo(args[0], info, "opens on this chip")
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write the black key to; must not exist")
	c.Flags().StringVar(&device, "device", "", "the CAAM's device node (default as configured)")
	return c
}

func (a *app) keyInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "show what a file of caam-keygen contains",
		Long: `Inspect shows what a file contains: a blob or a black key, how it is wrapped, and the
length of the key. It needs no hardware.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitRefused),
		Example: "  imxcrypt key inspect /data/caam/data.bb",
		Args:    exactly(1, "a file"),
		RunE: func(_ *cobra.Command, args []string) error {
			info, err := volume.New(volume.RealFiles(a.log)).InspectKeyFile(args[0])
			if err != nil {
				return fmt.Errorf("key inspect %s: %w", args[0], err)
			}
			return a.printKeyInfo(args[0], info, "")
		},
	}
}

// keySystem needs no configuration: without one, it uses the defaults.
func (a *app) keySystem(device string) (volume.System, error) {
	c, err := a.loadConfig()
	if err != nil {
		if a.configPath != "" || !fault.Is(err, fault.ConfigMissing) {
			return volume.System{}, err
		}
		if c, err = configs.Parse("defaults", []byte("volumes: []\n")); err != nil {
			return volume.System{}, err
		}
	}
	if device != "" {
		c.CAAM.Device = device
	}
	return a.system(c, a.log), nil
}

type keyFilesJSON struct {
	Files []string `json:"files"`
}

// keyInfoJSON describes a key file; sizes are in bytes.
type keyInfoJSON struct {
	File    string `json:"file"`
	Kind    string `json:"kind"`
	Wrap    string `json:"wrap"`
	KeySize int    `json:"key_size"`
	Size    int    `json:"size"`
}

func (a *app) printKeyInfo(path string, info volume.KeyFileInfo, verdict string) error {
	if a.json {
		return a.printJSON(keyInfoJSON{File: path, Kind: string(info.Form), Wrap: string(info.Wrap), KeySize: info.RedKeyLen, Size: info.Size})
	}
	text := fmt.Sprintf("%s, %d bytes, a key of %d", info.Form, info.Size, info.RedKeyLen)
	if info.Wrap != "" {
		text += ", wrapped " + string(info.Wrap)
	}
	if verdict != "" {
		text += ", " + verdict
	}
	fmt.Fprintf(a.stdout, "%s: %s\n", path, text)
	return nil
}
