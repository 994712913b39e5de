// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/mount"
)

// goldenConfigurations are configurations whose units are kept in testdata, one text
// each: IMXCRYPT_UPDATE=1 rewrites them.
func goldenConfigurations(t *testing.T) map[string]*configs.Config {
	t.Helper()
	all := map[string]*configs.Config{"nested": parse(t, nested)}
	all["scratch"] = parse(t, scratch)
	all["swap-in-fstab"] = parse(t, scratch)
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

// scratch has volumes with throw-away keys.
const scratch = `volumes:
- {name: swap, device: "eMMC:PARTLABEL=swap", filesystem: swap, key: ephemeral, allow_discards: true}
- {name: more, device: "PARTLABEL=more", filesystem: swap, key: ephemeral, required: false}
- {name: tmp, device: "PARTUUID=1234abcd-05", key: ephemeral, mount: /tmp}
`

func TestUnitsOfTheExamples(t *testing.T) {
	t.Parallel()
	for name, c := range goldenConfigurations(t) {
		options := boot.UnitOptions{Program: "/usr/bin/imxcrypt"}
		if name == "swap-in-fstab" {
			options.Fstab = mount.ParseFstab("/dev/mapper/swap none swap\n")
		}
		units, err := boot.Units(c, options)
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
			t.Errorf("%s: the units are not those of %s; IMXCRYPT_UPDATE=1 rewrites them. Now:\n%s", name, file, &b)
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

// Systemd grows a filesystem that is to grow once it is mounted, and leaves others as
// they are.
func TestUnitsOfGrow(t *testing.T) {
	t.Parallel()
	for grow, want := range map[string]bool{"true": true, "false": false} {
		units, err := boot.Units(parse(t, "volumes:\n  - {name: data, device: PARTLABEL=data, mount: /srv/my-data, grow: "+grow+"}\n"), boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(units, func(u boot.Unit) bool { return u.Path == `srv-my\x2ddata.mount` })
		if i < 0 {
			t.Fatalf("no unit mounts it: %v", units)
		}
		if wanted := strings.Contains(units[i].Text, `Wants=systemd-growfs@srv-my\x2ddata.service`+"\n"); wanted != want {
			t.Errorf("grow: %s: the mount wants its growing: %v\n%s", grow, wanted, units[i].Text)
		}
	}
}

// A service that encrypts a device at boot first writes a record, and has the time to
// encrypt.
func TestUnitsOfOnPlaintext(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]bool{"encrypt": true, "refuse": false} {
		units, err := boot.Units(parse(t, "state_dir: /state\nvolumes:\n  - {name: data, device: PARTLABEL=data, mount: /data, on_plaintext: "+setting+"}\n"),
			boot.UnitOptions{Program: "/usr/bin/imxcrypt", Canonical: func(p string) string { return strings.Replace(p, "/state", "/var/state", 1) }})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			if u.Path != "imxcrypt@data.service" {
				continue
			}
			for _, part := range []string{`RequiresMountsFor="/var/state"`, "After=systemd-remount-fs.service", "TimeoutStartSec=940s"} {
				if strings.Contains(u.Text, part+"\n") != want {
					t.Errorf("%s: %s is there or not:\n%s", setting, part, u.Text)
				}
			}
		}
	}
}

// systemd refuses a mount point behind a symbolic link, such as /var/log on Yocto.
func TestUnitsHaveNoSymbolicLinks(t *testing.T) {
	t.Parallel()
	options := boot.UnitOptions{Program: "/usr/bin/imxcrypt", Canonical: func(p string) string {
		return strings.Replace(p, "/var/log", "/var/volatile/log", 1)
	}}
	const text = "volumes:\n  - {name: logs, device: /dev/sda1, mount: /var/log, header: /var/log.header}\n  - {name: app, device: /dev/sda2, mount: /var/log/app}\n"
	options.Fstab = mount.ParseFstab("/dev/mapper/app /var/log/app ext4 defaults 0 0\n")
	units, err := boot.Units(parse(t, text), options)
	if err != nil {
		t.Fatal(err)
	}
	mounts := map[string]string{}
	for _, u := range units {
		if strings.HasSuffix(u.Path, ".mount") && u.Text != "" {
			mounts[u.Path] = u.Text
		}
		if strings.HasPrefix(u.Path, "imxcrypt@logs") && !strings.Contains(u.Text, `RequiresMountsFor="/var/volatile/log.header"`) {
			t.Errorf("the header's file: %s", u.Text)
		}
	}
	if len(mounts) != 1 || !strings.Contains(mounts["var-volatile-log.mount"], "Where=/var/volatile/log\n") {
		t.Errorf("mount units: %v", mounts)
	}
}

// No udev link is certain to lead to a device that is looked for on one controller:
// systemd waits for none, and does not lock the volume when a foreign card with the same
// label is pulled out.
func TestUnitsOfADeviceOnOneController(t *testing.T) {
	t.Parallel()
	for _, device := range []string{"eMMC:PARTLABEL=data", "mmc@30b60000:part3"} {
		units, err := boot.Units(parse(t, "volumes:\n  - {name: data, device: '"+device+"', mount: /data}\n"), boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			if strings.HasPrefix(u.Path, "imxcrypt@data.service") && strings.Contains(u.Text, "BindsTo=") || strings.Contains(u.Path, "backing") {
				t.Errorf("%s: %s\n%s", device, u.Path, u.Text)
			}
		}
	}
}

// A rotation that continues in the background reads the configuration that its volume was
// opened with.
func TestTheRotationsConfiguration(t *testing.T) {
	t.Parallel()
	const text = "volumes:\n  - {name: my-data, device: /dev/sda1}\n"
	for file, dropIn := range map[string]string{
		configs.DefaultPath: "",
		"/boot/50%.yaml": "[Unit]\nConditionPathExists=\nConditionPathExists=/boot/50%%.yaml\n\n[Service]\nExecStart=\n" +
			`ExecStart=/usr/bin/imxcrypt --config "/boot/50%%.yaml" rotate --resume-only "my-data"` + "\n",
	} {
		c, err := configs.Parse(file, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, u := range units {
			if u.Path == `imxcrypt-rotate@my\x2ddata.service.d/40-imxcrypt-config.conf` {
				_, got, _ = strings.Cut(u.Text, "\n\n")
			}
		}
		if got != dropIn {
			t.Errorf("%s: %q, expected %q", file, got, dropIn)
		}
	}
}

// A unit's source is the file that defines its volume, so that systemd asks for a
// reload when that was changed.
func TestUnitsNameTheFileOfTheirVolume(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "board.yaml")
	dropIn := filepath.Join(file+".d", "logs.yaml")
	if err := errors.Join(
		os.Mkdir(file+".d", 0o755),
		os.WriteFile(file, []byte("volumes:\n  - {name: data, device: /dev/sda1, mount: /data}\n"), 0o644),
		os.WriteFile(dropIn, []byte("volumes:\n  - {name: logs, device: /dev/sda2, mount: /srv/logs}\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Options{AllowAnyOwner: true}.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, u := range units {
		texts[u.Path] = u.Text
	}
	for unit, want := range map[string]string{
		"imxcrypt@data.service": "SourcePath=" + file + "\n", "data.mount": "SourcePath=" + file + "\n",
		"imxcrypt@logs.service": "SourcePath=" + dropIn + "\n", "srv-logs.mount": "SourcePath=" + dropIn + "\n",
		// The whole configuration still opens them.
		"imxcrypt-rotate@logs.service.d/40-imxcrypt-config.conf": " --config \"" + file + "\" rotate",
	} {
		if !strings.Contains(texts[unit], want) {
			t.Errorf("%s: no %q in\n%s", unit, want, texts[unit])
		}
	}
}

// A mount point in fstab is left to fstab, but the volume is still opened: if fstab does
// not name the mapping, nothing else would pull in the service. A line for another mount
// point changes nothing.
func TestFstabKeepsItsMounts(t *testing.T) {
	t.Parallel()
	const mapping, service = "/dev/mapper/data", "imxcrypt@data.service"
	var (
		asked    = []string(nil) // pulled in by the mapping's device
		required = []string{"cryptsetup.target.wants/" + service, "local-fs.target.requires/" + service}
		wanted   = []string{"cryptsetup.target.wants/" + service, "local-fs.target.wants/" + service}
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
		units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt", Fstab: []mount.FstabEntry{{Source: test.source, Target: test.target}}})
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

// Every manual page that a unit names is one of ours, and exists.
func TestUnitsNamePagesThatExist(t *testing.T) {
	t.Parallel()
	texts := map[string]string{}
	for _, u := range boot.FailureUnits("/usr/bin/imxcrypt", []string{"a reason"}) {
		texts[u.Path] = u.Text
	}
	for name, c := range goldenConfigurations(t) {
		units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/bin/imxcrypt"})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range units {
			texts[name+": "+u.Path] = u.Text
		}
	}
	err := filepath.WalkDir("../packaging", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	reference := regexp.MustCompile(`man:([^\s()]+)\((\w+)\)`)
	for name, text := range texts {
		found := reference.FindAllStringSubmatch(text, -1)
		if len(found) != strings.Count(text, "man:") || len(found) == 0 && strings.Contains(text, "[Unit]\nDescription=") {
			t.Errorf("%s names no page, or in a way that is not understood", name)
		}
		for _, m := range found {
			if _, err := os.Stat("../docs/man/" + m[1] + "." + m[2]); err != nil {
				t.Errorf("%s: there is no page %s: %v", name, m[0], err)
			}
		}
	}
}

// verify makes systemd read the units in dir with the given names or paths, and returns
// its output.
func verify(t *testing.T, dir string, units ...string) (string, error) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("NOT TESTED: systemd-analyze is missing (package systemd)")
	}
	cmd := exec.Command(analyze, append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":/lib/systemd/system")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// checkVerify fails if systemd complains about our units. Complaints about other
// packages' units are ignored.
func checkVerify(t *testing.T, dir, output string, err error) {
	t.Helper()
	for line := range strings.Lines(output) {
		if strings.Contains(line, "imxcrypt") || strings.Contains(line, dir) || strings.Contains(line, ".mount") {
			t.Errorf("%s", line)
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

// systemd itself reads the units without complaints.
func TestSystemdUnderstandsTheUnits(t *testing.T) {
	t.Parallel()
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
			var paths []string
			for _, u := range units {
				if u.Link == "" && !strings.Contains(u.Path, "/") {
					paths = append(paths, filepath.Join(dir, u.Path))
				}
			}
			output, err := verify(t, dir, paths...)
			checkVerify(t, dir, output, err)
		})
	}
}

// systemd also reads the shipped templates without complaints, beside a volume's units.
func TestSystemdUnderstandsTheTemplates(t *testing.T) {
	t.Parallel()
	units, err := boot.Units(parse(t, "volumes:\n  - {name: data, device: /dev/mmcblk2p3, mount: /data}\n"), boot.UnitOptions{Program: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	templates, err := filepath.Glob("../packaging/systemd/*@.service")
	if err != nil || len(templates) < 2 {
		t.Fatalf("templates %q: %v", templates, err)
	}
	var instances []string
	for _, file := range templates {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		units = append(units, boot.Unit{Path: name, Text: strings.ReplaceAll(string(text), "/usr/bin/imxcrypt", "/bin/true")})
		instances = append(instances, strings.Replace(name, "@", "@data", 1))
	}
	dir := t.TempDir()
	if err := boot.WriteUnits(dir, units); err != nil {
		t.Fatal(err)
	}
	output, err := verify(t, dir, instances...)
	checkVerify(t, dir, output, err)
}

// Stopping a volume first stops its rotation, which holds the volume's lock.
func TestARotationIsStoppedBeforeItsVolume(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../packaging/systemd/imxcrypt-rotate@.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"After=imxcrypt@%i.service", "PartOf=imxcrypt@%i.service"} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
}

// systemd also reads the drop-in that takes the volumes through suspend-to-RAM: it
// replaces what the unit runs, and does not add to it.
func TestSystemdUnderstandsTheDropInForSleep(t *testing.T) {
	t.Parallel()
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
	if out, err := verify(t, dir, filepath.Join(dir, "systemd-suspend.service")); err != nil || strings.Contains(out, "imxcrypt.conf") || strings.Contains(out, "nonexistent") {
		t.Errorf("%v\n%s", err, out)
	}
}

// A line in fstab that swaps on the volume replaces the unit. A suspend-to-disk would use
// that swap too.
func TestSwapInFstab(t *testing.T) {
	t.Parallel()
	units, err := boot.Units(parse(t, scratch), boot.UnitOptions{Program: "/usr/bin/imxcrypt", Fstab: []mount.FstabEntry{{Source: "/dev/mapper/swap", Target: "none"}}})
	if err != nil {
		t.Fatal(err)
	}
	var guarded []string
	for _, u := range units {
		if strings.HasPrefix(u.Path, "dev-mapper-swap.swap") || strings.HasSuffix(u.Path, "/dev-mapper-swap.swap") {
			t.Errorf("%s is made", u.Path)
		}
		if service, ok := strings.CutSuffix(u.Path, ".service.d/40-imxcrypt-dev-mapper-swap.conf"); ok && strings.Contains(u.Text, "\nAssertPathExists=!/dev/mapper/swap\n") {
			guarded = append(guarded, service)
		}
	}
	if want := []string{"systemd-hibernate", "systemd-hybrid-sleep", "systemd-suspend-then-hibernate"}; !slices.Equal(guarded, want) {
		t.Errorf("%q cannot be started while it is there, expected %q", guarded, want)
	}
}
