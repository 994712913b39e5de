// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"imxcrypt/boot"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

type statusFlags struct {
	states, sources    []string
	required, problems bool
	prometheus         bool
}

func (a *app) statusCommand() *cobra.Command {
	var f statusFlags
	c := &cobra.Command{
		Use:   "status [NAME…]",
		Short: "how the volumes stand",
		Long: `Status tells how the volumes of the configuration, or those named, stand. It
opens no key, waits for nothing and changes nothing.

The exit code is 0 if every required volume is up, that is unlocked or mounted,
and nothing is wrong with any; 1 if a required one is locked or not provisioned
yet; otherwise that of the first thing that is wrong. The filters choose what is
shown; the exit code is about all volumes named.

--json follows docs/status.schema.json. --prometheus is for node-exporter's
textfile collector.

` + exitCodesHelp,
		Example: `  imxcrypt status
  imxcrypt status --json data
  imxcrypt status --state locked --state damaged
  imxcrypt status --prometheus > /run/node-exporter/imxcrypt.prom`,
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.status(cmd.Context(), args, f)
		},
	}
	c.Flags().StringArrayVar(&f.states, "state", nil, "only volumes in this `STATE`; may be repeated")
	c.Flags().StringArrayVar(&f.sources, "source", nil, "only volumes of this key `SOURCE`; may be repeated")
	c.Flags().BoolVar(&f.required, "required", false, "only volumes that the system cannot do without")
	c.Flags().BoolVar(&f.problems, "problems", false, "only volumes that something is wrong with")
	c.Flags().BoolVar(&f.prometheus, "prometheus", false, "print metrics in Prometheus' text format")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateNames(), cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("source", cobra.FixedCompletions([]string{volume.SourceCAAM, volume.SourceDev}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func stateNames() []string {
	var names []string
	for _, s := range volume.States() {
		names = append(names, string(s))
	}
	return names
}

func (f statusFlags) check(json bool) error {
	for _, s := range f.states {
		if !slices.Contains(stateNames(), s) {
			return fault.New(fault.Usage, fmt.Sprintf("--state %q is none of %s", s, strings.Join(stateNames(), ", ")), nil)
		}
	}
	if f.prometheus && json {
		return fault.New(fault.Usage, "--prometheus and --json exclude each other", nil)
	}
	return nil
}

// standing is a volume and how it stands.
type standing struct {
	volume.Status
	required bool
}

// wrong is what is wrong with the volume, apart from not being up. Not to be
// provisioned yet is a state, told as one.
func (s standing) wrong() error {
	if s.State == volume.Unprovisioned && fault.Is(s.Err, fault.NotProvisioned) || s.State == volume.Absent && !s.required {
		return nil
	}
	return s.Err
}

func (f statusFlags) shows(s standing) bool {
	return (len(f.states) == 0 || slices.Contains(f.states, string(s.State))) &&
		(len(f.sources) == 0 || slices.Contains(f.sources, s.Source)) &&
		(!f.required || s.required) && (!f.problems || s.wrong() != nil)
}

func (a *app) status(ctx context.Context, names []string, f statusFlags) error {
	if err := f.check(a.json); err != nil {
		return err
	}
	c, m, err := a.manager()
	if err != nil {
		return err
	}
	chosen := c.Volumes
	if len(names) > 0 {
		if chosen, err = namedVolumes(c, names); err != nil {
			return err
		}
	}
	var shown, all []standing
	for _, v := range chosen {
		s := standing{Status: m.Status(ctx, boot.Spec(c, v)), required: v.Needed()}
		all = append(all, s)
		if f.shows(s) {
			shown = append(shown, s)
		}
	}
	verdict := verdict(all)
	switch {
	case a.json:
		volumes := []statusJSON{}
		for _, s := range shown {
			volumes = append(volumes, a.statusOf(s))
		}
		err = a.printJSON(statusPage{Volumes: volumes})
	case f.prometheus:
		err = writeMetrics(a.stdout, shown)
	default:
		err = a.printStatusTable(shown)
	}
	// The table and its problems tell it all.
	a.printed = verdict != nil
	if err != nil {
		a.printed = false
		return err
	}
	return verdict
}

// verdict is the error that the exit code tells of.
func verdict(all []standing) error {
	for _, s := range all {
		if err := s.wrong(); err != nil {
			return err
		}
	}
	for _, s := range all {
		if s.required && !s.Up() {
			return fault.New(fault.VolumeNotUp, fmt.Sprintf("volume %s is %s", s.Name, s.State), nil)
		}
	}
	return nil
}

// statusPage is what `status --json` prints. It is an interface, described by
// docs/status.schema.json: members are added, never renamed or taken away.
type statusPage struct {
	Volumes []statusJSON `json:"volumes"`
}

type statusJSON struct {
	Name          string          `json:"name"`
	Device        string          `json:"device"`
	UUID          string          `json:"uuid"`
	State         string          `json:"state"`
	Up            bool            `json:"up"`
	Required      bool            `json:"required"`
	Phase         string          `json:"phase"`
	Generation    int             `json:"generation"`
	KeyCreated    *time.Time      `json:"key_created"`
	Source        string          `json:"source"`
	Wrap          string          `json:"wrap"`
	KeySize       int             `json:"key_size"`
	Cipher        string          `json:"cipher"`
	SectorSize    int             `json:"sector_size"`
	Header        string          `json:"header"`
	SecurityState string          `json:"security_state"`
	Mapping       string          `json:"mapping"`
	Mount         statusMount     `json:"mount"`
	SizeBytes     int64           `json:"size_bytes"`
	Rotation      *rotationJSON   `json:"rotation"`
	LastUnlock    *lastUnlockJSON `json:"last_unlock"`
	Recovery      *statusRecovery `json:"recovery"`
	Problem       *problem        `json:"problem"`
}

type statusMount struct {
	Path    string `json:"path"`
	Mounted bool   `json:"mounted"`
}

// rotationJSON counts bytes; the generation is the new key's.
type rotationJSON struct {
	Done       int64 `json:"done"`
	Total      int64 `json:"total"`
	Generation int   `json:"generation"`
}

type lastUnlockJSON struct {
	At     time.Time `json:"at"`
	TookMS float64   `json:"took_ms"`
}

func (a *app) statusOf(s standing) statusJSON {
	j := statusJSON{
		Name: s.Name, Device: s.Device, UUID: s.UUID, State: string(s.State), Up: s.Up(), Required: s.required,
		Phase: string(s.Phase), Generation: s.Generation, Source: s.Source, Wrap: s.Wrap, KeySize: s.KeySize,
		Cipher: s.Cipher, SectorSize: s.SectorSize, Header: s.Header, SecurityState: s.SecurityState, Mapping: s.Mapping,
		Mount: statusMount{Path: s.MountPath, Mounted: s.Mounted}, SizeBytes: s.Size, Problem: a.problemOf(s.Err),
	}
	if !s.Created.IsZero() {
		created := s.Created.UTC()
		j.KeyCreated = &created
	}
	j.Recovery = recoveryOf(s.Status)
	if r := s.Rotation; r != nil {
		j.Rotation = &rotationJSON{Done: r.Done, Total: r.Total, Generation: r.Generation}
	}
	if u := s.LastUnlock; u != nil {
		j.LastUnlock = &lastUnlockJSON{At: u.At, TookMS: float64(u.Took) / float64(time.Millisecond)}
	}
	return j
}
