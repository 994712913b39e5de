// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
)

// goldenConfigurations are configurations and what the generator makes of them, one text
// each: IMXCRYPT_UPDATE=1 writes them anew.
func goldenConfigurations(t *testing.T) map[string]*configs.Config {
	t.Helper()
	all := map[string]*configs.Config{"nested": parse(t, nested)}
	files, err := filepath.Glob("../configs/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".yaml")] = parse(t, string(text))
	}
	return all
}

func TestUnitsOfTheExamples(t *testing.T) {
	t.Parallel()
	for name, c := range goldenConfigurations(t) {
		units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, u := range units {
			if u.Link != "" {
				b.WriteString("==> " + u.Path + " -> " + u.Link + "\n\n")
				continue
			}
			b.WriteString("==> " + u.Path + "\n" + u.Text + "\n")
		}
		file := filepath.Join("testdata", "units", name+".txt")
		if os.Getenv("IMXCRYPT_UPDATE") != "" {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s: the units are not those of %s; IMXCRYPT_UPDATE=1 writes them anew. Now:\n%s", name, file, &b)
		}
	}
}

func TestUnitsOfAVolumeNotOpenedAtBoot(t *testing.T) {
	t.Parallel()
	units, err := boot.Units(parse(t, "volumes:\n  - {name: data, device: /dev/sda1, mount: /data, at_boot: false}\n  - {name: raw, device: /dev/sda2, at_boot: false}\n"),
		boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, u := range units {
		if paths = append(paths, u.Path); u.Link != "" {
			t.Errorf("%s pulls it in", u.Path)
		}
		if strings.Contains(u.Text, "local-fs.target") {
			t.Errorf("%s is ordered before local-fs.target", u.Path)
		}
	}
	for _, want := range []string{"data.mount", "imxcrypt@data.service", "imxcrypt@raw.service"} {
		if !slices.Contains(paths, want) {
			t.Errorf("%s is not there, for who asks for it: %v", want, paths)
		}
	}
}

// A mount point that fstab has is left to it, and the volume is opened all the
// same: where fstab does not name the mapping, nothing else would pull the
// service in. A line for another mount point takes nothing away.
func TestFstabKeepsItsMounts(t *testing.T) {
	t.Parallel()
	const mapping, service = "/dev/mapper/data", "imxcrypt@data.service"
	var (
		asked    = []string(nil) // by the mapping's device
		required = []string{"cryptsetup.target.wants/" + service, "local-fs.target.requires/" + service}
		wanted   = []string{"cryptsetup.target.wants/" + service}
	)
	for _, test := range []struct {
		settings, source, target string
		hooks                    []string
		mount                    bool
	}{
		{"", mapping, "/data", asked, false},
		{"", mapping, "/data/", asked, false},
		{"", "UUID=0a1b", "/data", required, false},
		{"", "LABEL=data", "/data", required, false},
		{"", "/dev/x", "/data", required, false},
		{"", "/dev/x", "/data/", required, false},
		{", required: false", "UUID=0a1b", "/data", wanted, false},
		{", at_boot: false", "UUID=0a1b", "/data", nil, false},
		{"", mapping, "/elsewhere", []string{"local-fs.target.requires/data.mount"}, true},
		{", required: false", mapping, "/elsewhere", []string{"local-fs.target.wants/data.mount"}, true},
		{", at_boot: false", mapping, "/elsewhere", nil, true},
	} {
		c := parse(t, "volumes:\n  - {name: data, device: /dev/mmcblk2p3, mount: /data"+test.settings+"}\n")
		units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt", Fstab: []boot.FstabEntry{{Source: test.source, Target: test.target}}})
		if err != nil {
			t.Fatal(err)
		}
		var hooks []string
		mount, found := false, false
		for _, u := range units {
			switch {
			case u.Link != "":
				hooks = append(hooks, u.Path)
			case strings.HasSuffix(u.Path, ".mount"):
				mount = true
			case u.Path == "dev-mapper-data.device.d/40-imxcrypt.conf":
				found = strings.Contains(u.Text, "Requires="+service+"\n")
			}
		}
		if !slices.Equal(hooks, test.hooks) || mount != test.mount || !found {
			t.Errorf("%s %s in fstab, a volume with mount: /data%s: hooks %q, a mount unit %v, pulled in by its device %v",
				test.source, test.target, test.settings, hooks, mount, found)
		}
	}
}

// systemd itself reads the units without a complaint.
func TestSystemdUnderstandsTheUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT TESTED: systemd-analyze is missing (package systemd)")
	}
	for name, c := range goldenConfigurations(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			units, err := boot.Units(c, boot.UnitOptions{Program: "/bin/true"})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := boot.WriteUnits(dir, units); err != nil {
				t.Fatal(err)
			}
			args := []string{"verify", "--man=no", "--recursive-errors=no"}
			for _, u := range units {
				if u.Link == "" && !strings.Contains(u.Path, "/") {
					args = append(args, filepath.Join(dir, u.Path))
				}
			}
			cmd := exec.Command(analyze, args...)
			cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":/lib/systemd/system")
			out, err := cmd.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				// Other packages' units are not ours to judge.
				if strings.Contains(line, "imxcrypt") || strings.Contains(line, dir) || strings.Contains(line, ".mount") {
					t.Errorf("%s", line)
				}
			}
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// So it does the drop-in that takes the volumes through suspend-to-RAM: what the
// unit runs is replaced by it, not added to.
func TestSystemdUnderstandsTheDropInForSleep(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT TESTED: systemd-analyze is missing (package systemd)")
	}
	text, err := os.ReadFile("../packaging/systemd/systemd-suspend.service.d/imxcrypt.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"systemd-suspend.service":                 "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/nonexistent/systemd-sleep suspend\n",
		"systemd-suspend.service.d/imxcrypt.conf": strings.ReplaceAll(string(text), "/usr/bin/imxcrypt", "/bin/true"),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, "systemd-suspend.service"))
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":/lib/systemd/system")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "imxcrypt.conf") || strings.Contains(string(out), "nonexistent") {
		t.Errorf("%v\n%s", err, out)
	}
}
