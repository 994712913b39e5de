// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/configs"
	"imxcrypt/internal/audit"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// rig is a board without hardware and a configuration for it.
type rig struct {
	board   *volumetest.Board
	config  string
	sysRoot string
	cmdline string
	journal audit.Journal
	unlocks records
}

// records are kept in memory.
type records map[string]volume.LastUnlock

func (r records) Record(name string, u volume.LastUnlock) error {
	r[name] = u
	return nil
}

func (r records) LastUnlock(name string) (volume.LastUnlock, error) {
	u, ok := r[name]
	if !ok {
		return u, fs.ErrNotExist
	}
	return u, nil
}

func (r records) RecordFailure(string, *volume.UnlockFailure) error { return nil }

func (r records) LastFailure(string) (volume.UnlockFailure, error) {
	return volume.UnlockFailure{}, fs.ErrNotExist
}

func newRig(t *testing.T, yaml string, disks ...string) *rig {
	t.Helper()
	path := filepath.Join(t.TempDir(), "imxcrypt.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var all []*volumetest.Disk
	for _, d := range disks {
		all = append(all, &volumetest.Disk{Path: d, Store: crashtest.NewImage(8 << 20)})
	}
	b := volumetest.New(caamtest.RandomChip(), volumetest.NoFiles(), all...)
	b.State = caam.Closed
	b.Directories = []string{"/data", "/var/log/a/very/long/path/to/where/the/logs/of/this/product/go"}
	return &rig{board: b, config: path, unlocks: records{}}
}

// run runs the program once on the board.
func (b *rig) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" },
		sysRoot: b.sysRoot, cmdline: b.cmdline, journal: b.journal,
		system: func(*configs.Config, *slog.Logger) volume.System {
			s := b.board.System()
			s.Unlocks = b.unlocks
			return s
		},
	}
	code = a.run(context.Background(), append([]string{"--config", b.config}, args...))
	return code, out.String(), errs.String()
}

func (b *rig) must(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := b.run(args...)
	checkRun(t, args, got, stdout)
	if got != code {
		t.Fatalf("%v: exit code %d, expected %d\n%s%s", args, got, code, stdout, stderr)
	}
	return stdout, stderr
}

const threeVolumes = `volumes:
  - name: data
    device: /dev/mmcblk2p3
    mount: /data
  - name: logs-of-the-product-with-the-longest-name.2026a
    device: /dev/disk/by-path/platform-30b60000.mmc-part4
    mount: /var/log/a/very/long/path/to/where/the/logs/of/this/product/go
  - name: spare
    device: PARTUUID=6a3b9f0e-8f3b-4ad0-9cb8-0123456789ab
    required: false
    timeout: 0s
`

func TestStatus(t *testing.T) {
	t.Parallel()
	const logs = "logs-of-the-product-with-the-longest-name.2026a"
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3", "/dev/disk/by-path/platform-30b60000.mmc-part4")

	out, errs := b.must(t, exitFailed, "status")
	if !strings.Contains(out, "unprovisioned") || errs != "" {
		t.Errorf("nothing is provisioned:\n%s%s", out, errs)
	}
	b.must(t, exitDone, "provision", "data", logs)
	out, errs = b.must(t, exitDone, "status")
	if strings.Count(out, "mounted") != 2 || !strings.Contains(out, "absent") || errs != "" {
		t.Errorf("two are mounted, a third, not required, is absent:\n%s%s", out, errs)
	}
	if !strings.Contains(out, logs) {
		t.Errorf("a name is cut, for a program:\n%s", out)
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours without a terminal")
	}

	b.must(t, exitDone, "lock", "data")
	b.must(t, exitFailed, "status")
	b.must(t, exitDone, "status", logs)
	b.must(t, exitDone, "unlock", "data")
	if _, errs := b.must(t, exitFailed, "status"); !strings.Contains(errs, "not mounted on /data") {
		t.Errorf("unlocked and not mounted: %s", errs)
	}
	if u, ok := b.unlocks["data"]; !ok || u.Generation != 1 || u.UUID == "" {
		t.Errorf("the unlocking is not recorded: %+v", b.unlocks)
	}

	t.Log("filters choose what is shown")
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--state mounted", []string{logs}},
		{"--state unlocked --state absent", []string{"data", "spare"}},
		{"--required", []string{"data", logs}},
		{"--source dev", nil},
		{"--problems", []string{"data"}},
		{"--state mounted data", nil},
	} {
		out, _ := b.must(t, exitFailed, append([]string{"status", "--json"}, strings.Fields(c.args)...)...)
		var page statusPage
		if err := json.Unmarshal([]byte(out), &page); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range page.Volumes {
			got = append(got, v.Name)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s shows %q, expected %q", c.args, got, c.want)
		}
	}
	_, errs = b.must(t, exitUsage, "status", "--state", "asleep")
	if !strings.Contains(errs, "locked") {
		t.Errorf("the states are not named: %s", errs)
	}
	b.must(t, exitUsage, "status", "--json", "--prometheus")
}

func TestStatusTable(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 47)
	all := []volumeStatus{
		{required: true, Status: volume.Status{Name: "data", State: volume.Mounted, Generation: 12, Source: "caam", SecurityState: "closed", Size: 900 << 20, Device: "PARTLABEL=data", MountPath: "/data"}},
		{required: true, Status: volume.Status{Name: long, State: volume.Unprovisioned, Source: "caam", Device: "/dev/disk/by-path/platform-30b60000.mmc-part4"}},
		{required: true, Status: volume.Status{Name: "logs", State: volume.Mounted, Generation: 1, Source: "caam", SecurityState: "unknown", Size: 64 << 30, Device: "/dev/mmcblk2p4", MountPath: "/var/log/" + long,
			Rotation: &volume.Rotation{Done: 40, Total: 100, Generation: 2}}},
		{required: true, Status: volume.Status{Name: "old", State: volume.Damaged, Source: "caam", Device: "/dev/sda1", Err: fault.New(fault.HeaderDamaged, "x", nil)}},
		{Status: volume.Status{Name: long, State: volume.Mounted, Generation: 99, Source: "trusted", SecurityState: "unknown", Size: 10<<40 - 1, Device: "PARTLABEL=" + long, MountPath: "/" + long,
			Rotation: &volume.Rotation{Done: 100, Total: 100, Generation: 100}}},
	}
	var plain, coloured bytes.Buffer
	if err := errors.Join(writeTable(&plain, all, 80, false), writeTable(&coloured, all, 80, true)); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(plain.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, text := range []string{"data ", "1→2 40%", "64 GiB", "900 MiB", "10239 GiB", "99→100 100%", "unprovisioned", "…"} {
		if !strings.Contains(plain.String(), text) {
			t.Errorf("no %q in\n%s", text, plain.String())
		}
	}
	stripped := coloured.String()
	for _, sgr := range []string{sgrRed, sgrYellow, sgrGreen, sgrPlain} {
		if !strings.Contains(stripped, sgr) {
			t.Errorf("no colour %q", sgr)
		}
		stripped = strings.ReplaceAll(stripped, sgr, "")
	}
	if stripped != plain.String() {
		t.Error("colours move the columns")
	}
}

// The program prints the screen in docs/monitoring.md for such volumes.
func TestMonitoringPageShowsStatus(t *testing.T) {
	t.Parallel()
	all := []volumeStatus{
		{required: true, Status: volume.Status{Name: "data", State: volume.Mounted, Generation: 1, Source: "caam", SecurityState: "closed", Size: 7 << 30, Device: "PARTLABEL=data", MountPath: "/data"}},
		{required: true, Status: volume.Status{Name: "logs", State: volume.Mounted, Generation: 1, Source: "caam", SecurityState: "closed", Size: 512 << 20, Device: "/dev/mmcblk2p4", MountPath: "/var/log",
			Rotation: &volume.Rotation{Done: 45, Total: 100, Generation: 2}}},
		{Status: volume.Status{Name: "usb-backup", State: volume.Absent, Source: "caam", Device: "/dev/disk/by-path/platform-xhci-hcd.1.auto-usb-0:1-part1", MountPath: "/mnt/backup"}},
	}
	var b bytes.Buffer
	if err := writeTable(&b, all, 80, false); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```\n"+b.String()+"```\n") {
		t.Errorf("docs/monitoring.md differs from the screen of status:\n%s", b.String())
	}
}
