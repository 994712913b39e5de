// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
)

// runGenerator runs the generator on a system that has only the given files, by their
// paths in it, and returns the content of the directory for units.
func runGenerator(t *testing.T, files map[string]string) (units []string, code int, stderr, kmsg string) {
	t.Helper()
	root, dir := t.TempDir(), t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &out, stderr: &out, cmdline: filepath.Join(root, "proc/cmdline"), bootDirs: []string{filepath.Join(root, "etc/imxcrypt")},
		getenv: func(string) string { return "" }, configPath: filepath.Join(root, "etc/imxcrypt/imxcrypt.yaml"), logLevel: "warn",
	}
	if strings.Contains(files["proc/cmdline"], "imxcrypt.config=") {
		a.configPath = ""
	}
	if err := a.prepare(); err != nil {
		t.Fatal(err)
	}
	err := a.generate(dir, root)
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			units = append(units, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	log, _ := os.ReadFile(filepath.Join(root, "dev/kmsg"))
	return units, int(fault.ExitOf(err)), out.String(), string(log)
}

const twoVolumes = `volumes:
  - {name: data, device: /dev/mmcblk2p3, mount: /data}
  - {name: logs, device: /dev/mmcblk2p4, mount: /srv/logs, required: false}
`

func TestGeneratorLeavesUnits(t *testing.T) {
	t.Parallel()
	units, code, stderr, _ := runGenerator(t, map[string]string{
		"etc/imxcrypt/imxcrypt.yaml": twoVolumes,
		"etc/fstab":                  "/dev/mapper/logs /srv/logs ext4 noauto 0 0\n",
		"proc/cmdline":               "quiet\n",
	})
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for name, want := range map[string]bool{
		"imxcrypt@data.service": true, "imxcrypt@logs.service": true, "data.mount": true,
		"local-fs.target.requires/data.mount": true, "srv-logs.mount": false,
	} {
		if slices.Contains(units, name) != want {
			t.Errorf("%s: expected %v of %v", name, want, units)
		}
	}
}

func TestGeneratorNarrowsByTheCommandLine(t *testing.T) {
	t.Parallel()
	units, code, stderr, _ := runGenerator(t, map[string]string{
		"etc/imxcrypt/imxcrypt.yaml": twoVolumes, "proc/cmdline": "imxcrypt.volumes=logs,other",
	})
	if code != 0 || !strings.Contains(stderr, "volume=other") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if slices.Contains(units, "imxcrypt@data.service") || !slices.Contains(units, "imxcrypt@logs.service") {
		t.Errorf("%v", units)
	}
}

func TestGeneratorTellsTheKernelWhatIsWrong(t *testing.T) {
	t.Parallel()
	units, code, _, kmsg := runGenerator(t, map[string]string{
		"etc/imxcrypt/imxcrypt.yaml": "volumes: 3\n", "proc/cmdline": "", "dev/kmsg": "",
	})
	if code != exitUsage || !strings.HasPrefix(kmsg, "<3>imxcrypt-generator: ") {
		t.Errorf("exit code %d, kernel log %q", code, kmsg)
	}
	// A failing unit shows why the system did not come up.
	want := []string{"imxcrypt-generator-failed.service", "local-fs.target.requires/imxcrypt-generator-failed.service"}
	if !slices.Equal(units, want) {
		t.Errorf("units %v, expected %v", units, want)
	}
}

func TestUnitOfAFailedGeneratorSaysWhy(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, system: realSystem, getenv: func(string) string { return "" }}
	code := a.run(context.Background(), []string{"generator", "--failed", `x.yaml:1:1: "volumes": 3`, "--failed=-b"})
	if code != exitUsage || !strings.Contains(stderr.String(), `no volume is opened: x.yaml:1:1: "volumes": 3`) || !strings.Contains(stderr.String(), "opened: -b\n") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestGeneratorLeavesWhatTheInitramfsOpened(t *testing.T) {
	t.Parallel()
	root, dir := t.TempDir(), t.TempDir()
	if err := (boot.Marks{Dir: filepath.Join(root, "run/imxcrypt")}).Leave("data"); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(root, "imxcrypt.yaml")
	if err := os.WriteFile(config, []byte(twoVolumes), 0o644); err != nil {
		t.Fatal(err)
	}
	a := &app{stderr: io.Discard, cmdline: "/dev/null", getenv: func(string) string { return "" }, configPath: config, logLevel: "warn"}
	if err := errors.Join(a.prepare(), a.generate(dir, root)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"data": false, "logs": true} {
		text, err := os.ReadFile(filepath.Join(dir, boot.ServiceName(name)))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"ExecStop=", "Conflicts=umount.target"} {
			if strings.Contains(string(text), line) != want {
				t.Errorf("%s: %s: expected %v\n%s", name, line, want, text)
			}
		}
	}
}

func TestGeneratorIsQuietWhereNothingIsConfigured(t *testing.T) {
	t.Parallel()
	for _, files := range []map[string]string{
		{"proc/cmdline": ""},
		{"proc/cmdline": "", "etc/initrd-release": "", "etc/imxcrypt/imxcrypt.yaml": twoVolumes},
	} {
		units, code, stderr, _ := runGenerator(t, files)
		if code != 0 || len(units) > 0 || stderr != "" {
			t.Errorf("exit code %d, units %v: %s", code, units, stderr)
		}
	}
}

// The volumes of each layer get their units; the drop-ins are those of the file that the
// kernel command line names.
func TestGeneratorReadsDropIns(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"etc/imxcrypt/imxcrypt.yaml":             twoVolumes,
		"etc/imxcrypt/imxcrypt.yaml.d/more.yaml": "volumes: [{name: more, device: /dev/vdx}]\n",
		"proc/cmdline":                           "quiet\n",
	}
	units, code, stderr, _ := runGenerator(t, files)
	for _, name := range []string{"data", "logs", "more"} {
		if !slices.Contains(units, boot.ServiceName(name)) {
			t.Errorf("%s is not in %v: exit code %d, %s", name, units, code, stderr)
		}
	}
	files["etc/imxcrypt/imxcrypt.yaml.d/more.yaml"] = "volumes: [{name: data, device: /dev/vdx}]\n"
	units, code, _, _ = runGenerator(t, files)
	if code != exitUsage || !slices.Contains(units, "imxcrypt-generator-failed.service") {
		t.Errorf("with a volume defined twice: exit code %d, units %v", code, units)
	}
}

func TestGeneratorDoesNotTakeALinkThatLeadsNowhereForNoConfiguration(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	config := filepath.Join(root, "imxcrypt.yaml")
	if err := os.Symlink("nowhere", config); err != nil {
		t.Fatal(err)
	}
	a := &app{stderr: io.Discard, cmdline: "/dev/null", getenv: func(string) string { return "" }, configPath: config, logLevel: "warn"}
	if err := a.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := a.generate(t.TempDir(), root); !fault.Is(err, fault.ConfigMissing) {
		t.Errorf("got %v", err)
	}
}

func TestGeneratorIsKnownByItsName(t *testing.T) {
	t.Parallel()
	for _, c := range [][2][]string{
		{{"/usr/lib/systemd/system-generators/imxcrypt-generator", "a", "b", "c"}, {"generator", "a", "b", "c"}},
		{{"/usr/bin/imxcrypt", "boot"}, {"boot"}},
		{{"imxcrypt"}, {}},
		{{}, {}},
	} {
		if got := asGenerator(c[0]); !slices.Equal(got, c[1]) {
			t.Errorf("%v: %v, expected %v", c[0], got, c[1])
		}
	}
}

// bootPlan runs `boot --dry-run` with a kernel command line.
func bootPlan(t *testing.T, cmdline string, env map[string]string, names ...string) (string, string, int) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if env["IMXCRYPT_CONFIG"] == "two" {
		env["IMXCRYPT_CONFIG"] = write("two.yaml", twoVolumes)
	}
	other := write("other.yaml", "volumes: [{name: third, device: /dev/vdz}]\n")
	if err := os.Mkdir(other+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	write("other.yaml.d/fourth.yaml", "volumes: [{name: fourth, device: /dev/vdy}]\n")
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, system: realSystem,
		bootDirs: []string{dir},
		cmdline:  write("cmdline", strings.ReplaceAll(cmdline, "OTHER", other)),
		getenv:   func(k string) string { return env[k] },
	}
	code := a.run(context.Background(), append([]string{"boot", "--dry-run"}, names...))
	return stdout.String(), stderr.String(), code
}

func TestBootObeysTheKernelCommandLine(t *testing.T) {
	t.Parallel()
	two := func() map[string]string { return map[string]string{"IMXCRYPT_CONFIG": "two"} }
	for _, c := range []struct {
		cmdline      string
		env          map[string]string
		names        []string
		has, hasNot  string
		warns        string
		nothingIsPut bool
	}{
		{cmdline: "", env: two(), has: "unlock data", hasNot: "third"},
		{cmdline: "imxcrypt.volumes=logs", env: two(), has: "unlock logs", hasNot: "unlock data"},
		{cmdline: "imxcrypt.volumes=logs", env: two(), names: []string{"data", "logs"}, has: "unlock logs", hasNot: "unlock data"},
		{cmdline: "imxcrypt.volumes=logs", env: two(), names: []string{"data"}, nothingIsPut: true},
		{cmdline: "imxcrypt.volumes=", env: two(), nothingIsPut: true},
		{cmdline: "imxcrypt.volumes=data,gone", env: two(), has: "unlock data", warns: "volume=gone"},
		{cmdline: "imxcrypt.config=OTHER", has: "unlock third", hasNot: "data"},
		{cmdline: "imxcrypt.config=OTHER", has: "unlock fourth"}, // of a drop-in beside it
		{cmdline: "imxcrypt.config=OTHER.d/fourth.yaml", has: "unlock fourth", hasNot: "third"},
		// The environment takes precedence over the boot loader.
		{cmdline: "imxcrypt.config=OTHER", env: two(), has: "unlock data", hasNot: "third"},
	} {
		stdout, stderr, code := bootPlan(t, c.cmdline, c.env, c.names...)
		if code != 0 || !strings.Contains(stdout, c.has) || c.hasNot != "" && strings.Contains(stdout, c.hasNot) ||
			!strings.Contains(stderr, c.warns) || c.nothingIsPut && stdout != "" {
			t.Errorf("%q %v: exit code %d\n%s%s", c.cmdline, c.names, code, stdout, stderr)
		}
	}
}

// A file of defaults that the program would itself refuse is useless.
func TestDefaultConfigurationIsWhereTheGeneratorLooks(t *testing.T) {
	t.Parallel()
	a := &app{getenv: func(string) string { return "" }}
	if got := a.configFile(); got != configs.DefaultPath {
		t.Errorf("%s", got)
	}
}

// The command line chooses among root's configurations, and cannot be one itself.
func TestTheKernelCommandLineIsNoConfiguration(t *testing.T) {
	t.Parallel()
	for _, named := range []string{"/proc/cmdline", "/proc/self/cmdline", "/etc/passwd"} {
		stdout, stderr, code := bootPlan(t, "imxcrypt.config="+named, nil)
		if code != 2 || stdout != "" || !strings.Contains(stderr, "imxcrypt.config=") {
			t.Errorf("%s: exit code %d\n%s%s", named, code, stdout, stderr)
		}
		units, code, _, kmsg := runGenerator(t, map[string]string{
			"etc/imxcrypt/imxcrypt.yaml": twoVolumes, "proc/cmdline": "imxcrypt.config=" + named, "dev/kmsg": "",
		})
		if code != 2 || slices.Contains(units, "imxcrypt@data.service") || !strings.Contains(kmsg, named) {
			t.Errorf("%s: exit code %d, %v, kernel log %q", named, code, units, kmsg)
		}
	}
}

// A required volume that the command line leaves out is reported.
func TestWhatTheCommandLineLeavesOutIsSaidLoudly(t *testing.T) {
	t.Parallel()
	const warning = "is required, and imxcrypt.volumes="
	_, _, stderr, kmsg := runGenerator(t, map[string]string{
		"etc/imxcrypt/imxcrypt.yaml": twoVolumes, "proc/cmdline": "imxcrypt.volumes=logs", "dev/kmsg": "",
	})
	if !strings.Contains(kmsg, "volume data "+warning) || strings.Contains(kmsg, "volume logs") || !strings.Contains(stderr, "volume=data") {
		t.Errorf("kernel log %q\n%s", kmsg, stderr)
	}
	if _, stderr, _ := bootPlan(t, "imxcrypt.volumes=logs", map[string]string{"IMXCRYPT_CONFIG": "two"}); !strings.Contains(stderr, "volume=data") {
		t.Errorf("boot: %s", stderr)
	}
	b := newRig(t, twoVolumes)
	b.cmdline = filepath.Join(t.TempDir(), "cmdline")
	if err := os.WriteFile(b.cmdline, []byte("imxcrypt.volumes=logs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, stderr := b.run("status"); !strings.Contains(stderr, "data "+warning) {
		t.Errorf("status: %s", stderr)
	}
	if _, stdout, _ := b.run("status", "--json"); strings.Count(stdout, `"left_out":true`) != 1 {
		t.Errorf("status: %s", stdout)
	}
}
