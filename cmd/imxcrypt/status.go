// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status [NAME…]",
		Short: "how the volumes stand",
		Long: `Status tells how the volumes of the configuration, or those named, stand. It
opens no key, waits for nothing and changes nothing.

The exit code is 0 if nothing is wrong with any of them; a volume that is
merely locked, or not provisioned yet, is not wrong.

` + exitCodesHelp,
		Example:           "  imxcrypt status\n  imxcrypt status --json data",
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.status(cmd.Context(), args)
		},
	}
}

// statusJSON is one volume as `status --json` prints it. It is an interface:
// members are added, never renamed or taken away.
type statusJSON struct {
	Name          string      `json:"name"`
	Device        string      `json:"device"`
	UUID          string      `json:"uuid"`
	State         string      `json:"state"`
	Phase         string      `json:"phase"`
	Generation    int         `json:"generation"`
	Source        string      `json:"source"`
	Wrap          string      `json:"wrap"`
	KeySize       int         `json:"key_size"`
	Cipher        string      `json:"cipher"`
	SectorSize    int         `json:"sector_size"`
	Header        string      `json:"header"`
	SecurityState string      `json:"security_state"`
	Mapping       string      `json:"mapping"`
	Mount         statusMount `json:"mount"`
	SizeBytes     int64       `json:"size_bytes"`
	Rotation      any         `json:"rotation"`
	Problem       *problem    `json:"problem"`
}

type statusMount struct {
	Path    string `json:"path"`
	Mounted bool   `json:"mounted"`
}

func (a *app) status(ctx context.Context, names []string) error {
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	chosen, err := chooseVolumes(c, names)
	if err != nil {
		return err
	}
	var worst error
	all := []statusJSON{}
	var states []volume.Status
	for _, v := range chosen {
		st := m.Status(ctx, boot.Spec(c, v))
		// Not provisioned yet is a state, told as one, and no failure.
		if st.State != volume.Unprovisioned && st.Err != nil && worst == nil && (v.Required || st.State != volume.Absent) {
			worst = st.Err
		}
		states = append(states, st)
		all = append(all, statusOf(st))
	}
	if a.json {
		a.printed = worst != nil
		if err := a.printJSON(map[string]any{"volumes": all}); err != nil {
			return err
		}
		return worst
	}
	a.printStatusTable(states)
	a.printed = worst != nil
	return worst
}

func chooseVolumes(c *configs.Config, names []string) ([]configs.Volume, error) {
	if len(names) == 0 {
		return c.Volumes, nil
	}
	var chosen []configs.Volume
	for _, name := range names {
		v, err := c.Volume(name)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, v)
	}
	return chosen, nil
}

func statusOf(st volume.Status) statusJSON {
	return statusJSON{
		Name: st.Name, Device: st.Device, UUID: st.UUID, State: string(st.State), Phase: string(st.Phase),
		Generation: st.Generation, Source: st.Source, Wrap: st.Wrap, KeySize: st.KeySize, Cipher: st.Cipher,
		SectorSize: st.SectorSize, Header: st.Header, SecurityState: st.SecurityState, Mapping: st.Mapping,
		Mount: statusMount{Path: st.MountPath, Mounted: st.Mounted}, SizeBytes: st.Size, Problem: problemOf(st.Err),
	}
}

func (a *app) printStatusTable(states []volume.Status) {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tGEN\tSOURCE\tCHIP\tSIZE\tDEVICE\tMOUNT")
	for _, st := range states {
		generation, chip := "-", st.SecurityState
		if st.Generation > 0 {
			generation = fmt.Sprint(st.Generation)
		}
		if chip == "" {
			chip = "-"
		}
		mount := st.MountPath
		if mount == "" {
			mount = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", st.Name, st.State, generation, st.Source, chip, size(st.Size), st.Device, mount)
	}
	_ = w.Flush()
	for _, st := range states {
		if st.Err == nil || fault.Is(st.Err, fault.NotProvisioned) {
			continue
		}
		fmt.Fprintf(a.stderr, "imxcrypt: %s\n", oneLine(st.Err.Error()))
		if h := hint(st.Err); h != "" {
			fmt.Fprintf(a.stderr, "  hint: %s\n", h)
		}
	}
}

// size is a number of bytes for a person.
func size(n int64) string {
	switch {
	case n == 0:
		return "-"
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
