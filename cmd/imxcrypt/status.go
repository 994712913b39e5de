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
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/plainfile"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
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
		Short: "show the state of the volumes",
		Long: `Status shows the state of the volumes of the configuration, or of those named. It
opens no key and waits for no device. It changes nothing, except that it finishes the
zone that a killed rotation holds, whose users would wait forever.

A volume with a mount in the configuration is up if it is mounted there, a swap volume if
its swap is enabled, and any other volume if it is unlocked. The exit code is 0 if every
required volume is up and none has a problem; 1 if a required volume is locked or not
provisioned yet; otherwise that of the first problem. The filters choose what is
shown; the exit code covers all volumes named.

--json follows docs/status.schema.json. --prometheus is for node-exporter's
textfile collector.

` + exitCodes(fault.ExitKeyRejected, fault.ExitMissing, fault.ExitBusy, fault.ExitRefused, fault.ExitInterrupted, fault.ExitHeaderDamaged),
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
	c.Flags().StringArrayVar(&f.sources, "source", nil, "only volumes with this key `SOURCE`; may be repeated")
	c.Flags().BoolVar(&f.required, "required", false, "only volumes that the system cannot do without")
	c.Flags().BoolVar(&f.problems, "problems", false, "only volumes with a problem")
	c.Flags().BoolVar(&a.wide, "wide", false, "do not shorten the table to the terminal's width")
	c.Flags().BoolVar(&f.prometheus, "prometheus", false, "print metrics in Prometheus' text format")
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateNames(), cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(sources(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// sources lists what a volume's source can be; that of a volume with source auto shows
// once there is a header.
func sources() []string {
	return []string{spec.SourceAuto, spec.SourceCAAM, spec.SourceTrusted, spec.SourceDev}
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
			return fault.New(fault.Usage, fmt.Sprintf("--state %q is not one of %s", s, strings.Join(stateNames(), ", ")), nil)
		}
	}
	for _, s := range f.sources {
		if !slices.Contains(sources(), s) {
			return fault.New(fault.Usage, fmt.Sprintf("--source %q is not one of %s", s, strings.Join(sources(), ", ")), nil)
		}
	}
	if f.prometheus && json {
		return fault.New(fault.Usage, "--prometheus and --json exclude each other", nil)
	}
	return nil
}

// volumeStatus is a volume with its state.
type volumeStatus struct {
	volume.Status
	required bool
	// leftOut is set if the kernel command line keeps it from being opened at boot.
	leftOut bool
}

// wrong returns what is wrong with the volume, apart from not being up. Not being
// provisioned yet is shown as a state, not as a problem.
func (s volumeStatus) wrong() error {
	if s.State == volume.Unprovisioned && fault.Is(s.Err, fault.NotProvisioned) || s.State == volume.Absent && !s.required {
		return nil
	}
	return s.Problem()
}

// lost reports whether the volume once existed and its header is gone.
func (s volumeStatus) lost() bool {
	return s.State == volume.HeaderMissing || fault.Is(s.Err, fault.VolumeGone)
}

func (f statusFlags) shows(s volumeStatus) bool {
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
		if chosen, err = a.namedVolumes(c, names); err != nil {
			return err
		}
	}
	leftOut := a.leftOut(c)
	var shown, all []volumeStatus
	for _, v := range chosen {
		s := volumeStatus{Status: m.Status(ctx, boot.Spec(c, v)), required: v.Needed(), leftOut: slices.Contains(leftOut, v.Name)}
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
	// The output already shows the problems.
	a.printed = verdict != nil
	if err != nil {
		a.printed = false
		return err
	}
	return verdict
}

// leftOut returns the required volumes that this boot's kernel command line left out.
func (a *app) leftOut(c *configs.Config) []string {
	text, err := plainfile.Read(a.cmdline)
	if err != nil {
		return nil // boot reports that
	}
	return boot.ParseKernelOptions(string(text)).LeftOut(c)
}

// verdict returns the error that decides the exit code.
func verdict(all []volumeStatus) error {
	for _, s := range all {
		if err := s.wrong(); err != nil && !s.lost() {
			return err
		}
	}
	for _, s := range all {
		if s.required && !s.Up() || s.lost() {
			return fault.New(fault.VolumeNotUp, fmt.Sprintf("volume %s is %s", s.Name, s.State), nil)
		}
	}
	return nil
}

// statusPage is what `status --json` prints. It is an interface, described by
// docs/status.schema.json: members are added, never renamed or removed.
type statusPage struct {
	Volumes []statusJSON `json:"volumes"`
}

type statusJSON struct {
	Name          string           `json:"name"`
	Device        string           `json:"device"`
	UUID          string           `json:"uuid"`
	State         string           `json:"state"`
	Up            bool             `json:"up"`
	Required      bool             `json:"required"`
	LeftOut       bool             `json:"left_out"`
	Phase         string           `json:"phase"`
	Generation    int              `json:"generation"`
	KeyCreated    *time.Time       `json:"key_created"`
	Source        string           `json:"source"`
	Wrap          string           `json:"wrap"`
	KeySize       int              `json:"key_size"`
	Cipher        string           `json:"cipher"`
	SectorSize    int              `json:"sector_size"`
	Header        string           `json:"header"`
	SecurityState string           `json:"security_state"`
	Mapping       string           `json:"mapping"`
	Mount         statusMount      `json:"mount"`
	SizeBytes     int64            `json:"size_bytes"`
	Rotation      *rotationJSON    `json:"rotation"`
	LastUnlock    *lastUnlockJSON  `json:"last_unlock"`
	LastFailure   *lastFailureJSON `json:"last_failure"`
	Recovery      *statusRecovery  `json:"recovery"`
	Warnings      []problem        `json:"warnings"`
	Problem       *problem         `json:"problem"`
}

type statusMount struct {
	Path    string `json:"path"`
	Mounted bool   `json:"mounted"`
}

// rotationJSON has the progress in bytes, and the generation of the new key.
type rotationJSON struct {
	Done       int64 `json:"done"`
	Total      int64 `json:"total"`
	Generation int   `json:"generation"`
}

type lastUnlockJSON struct {
	At     time.Time `json:"at"`
	TookMS float64   `json:"took_ms"`
}

// failureOf returns why the latest unlock of the volume failed.
func (a *app) failureOf(s volumeStatus) problem {
	f := s.LastFailure
	return problem{f.Code, oneLine(f.Message), a.hintFor(s.Name, fault.New(f.Code, f.Message, nil))}
}

type lastFailureJSON struct {
	At time.Time `json:"at"`
	problem
}

func (a *app) statusOf(s volumeStatus) statusJSON {
	j := statusJSON{
		Name: s.Name, Device: s.Device, UUID: s.UUID, State: string(s.State), Up: s.Up(), Required: s.required, LeftOut: s.leftOut,
		Phase: string(s.Phase), Generation: s.Generation, Source: s.Source, Wrap: s.Wrap, KeySize: s.KeySize,
		Cipher: s.Cipher, SectorSize: s.SectorSize, Header: s.Header, SecurityState: s.SecurityState, Mapping: s.Mapping,
		Mount: statusMount{Path: s.MountPath, Mounted: s.Mounted}, SizeBytes: s.Size, Warnings: []problem{}, Problem: a.problemOf(s.Name, s.Problem()),
	}
	if !s.Created.IsZero() {
		created := s.Created.UTC()
		j.KeyCreated = &created
	}
	j.Recovery = recoveryOf(s.Status)
	if r := s.Rotation; r != nil {
		j.Rotation = &rotationJSON{Done: r.Done, Total: r.Total, Generation: r.Generation}
	}
	for _, w := range s.Warnings {
		j.Warnings = append(j.Warnings, *a.problemOf(s.Name, w))
	}
	if f := s.LastFailure; f != nil {
		j.LastFailure = &lastFailureJSON{f.At, a.failureOf(s)}
	}
	if u := s.LastUnlock; u != nil {
		j.LastUnlock = &lastUnlockJSON{At: u.At, TookMS: float64(u.Took) / float64(time.Millisecond)}
	}
	return j
}
