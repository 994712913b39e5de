// SPDX-License-Identifier: Apache-2.0

package doctor_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/caam"
	"imxcrypt/internal/doctor"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/keysource"
)

func updating() bool { return flag.Lookup("update").Value.(flag.Getter).Get().(bool) }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

// unpack copies a recorded board and sets the modes that a checkout does not keep.
func unpack(t *testing.T, name string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(path) == "caam-keygen" || strings.HasSuffix(path, ".key") {
			mode = 0o600
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func locked(name string) doctor.Volume {
	return doctor.Volume{Name: name, Source: "caam", Filesystem: "ext4", State: "locked", Generation: 1, Level: doctor.OK, IntactHeader: true}
}

func trustedVolume(trust string) doctor.Volume {
	v := locked("data")
	v.Source, v.Trust, v.Cipher = "trusted", trust, "aes-xts-plain64"
	return v
}

// machine returns a recorded board with one volume, examined by root.
func machine(t *testing.T, name string) doctor.Machine {
	t.Helper()
	root := unpack(t, name)
	s := caam.ReadSecurityState(root, nil)
	return doctor.Machine{
		Root: root, Superuser: true,
		Chip:     doctor.Chip{SoC: s.SoC, Key: s.Key, State: string(s.State), KeepsKeys: s.KeepsKeys, Evidence: s.Evidence},
		CAAMNode: "/dev/caam-keygen", StateDir: "/var/lib/imxcrypt",
		Config:       doctor.Config{Path: "/etc/imxcrypt/imxcrypt.yaml"},
		Volumes:      []doctor.Volume{locked("data")},
		CryptVersion: func() (string, error) { return "1.24.0", nil },
		Now:          time.Date(2026, 3, 14, 15, 9, 0, 0, time.UTC),
	}
}

// boards returns the recorded boards, and how each differs from machine.
func boards() map[string]func(*testing.T, *doctor.Machine) {
	none := func(*testing.T, *doctor.Machine) {}
	return map[string]func(*testing.T, *doctor.Machine){
		"imx6q": none, "imx6ul": none, "imx6ull": none, "imx7ulp": none, "imx8qm": none, "imx8qxp": none,
		"imx8ulp": none, "imx93": none, "imx95": none, "imx28": none,
		"imx7d": func(_ *testing.T, m *doctor.Machine) {
			m.Now = time.Date(1970, 1, 1, 0, 0, 20, 0, time.UTC)
			m.Volumes = []doctor.Volume{{Name: "data", Source: "caam", Filesystem: "ext4", State: "unprovisioned", Level: doctor.Warning,
				Text: "status data: not provisioned", Remedy: "imxcrypt provision data", Code: fault.NotProvisioned}}
		},
		"imx8mm": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes = []doctor.Volume{locked("data"), locked("logs"), locked("app")}
			m.Volumes[0].Header, m.Volumes[1].Header, m.Volumes[2].Header = "/boot/firmware/data.luks2", "/var/volatile/logs.luks2", "/persist/app.luks2"
			m.Volumes[2].Filesystem = "f2fs"
		},
		"imx8mp": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes = append(m.Volumes, doctor.Volume{Name: "a-name-as-long-as-it-may-be", Source: "caam", Filesystem: "none", State: "mounted", Generation: 3})
		},
		"imx8mq": func(t *testing.T, m *doctor.Machine) {
			if err := os.Chmod(filepath.Join(m.Root, "dev/caam-keygen"), 0o666); err != nil {
				t.Fatal(err)
			}
			m.Volumes[0].Level, m.Volumes[0].Code = doctor.Problem, fault.HeaderDamaged
			m.Volumes[0].Text, m.Volumes[0].Remedy = "status data: both copies of the header are damaged", "restore a copy of the header"
		},
		"imx8mn": func(_ *testing.T, m *doctor.Machine) {
			m.Superuser, m.CryptVersion = false, func() (string, error) { return "", errors.New("permission denied") }
			m.Config = doctor.Config{Path: m.Config.Path, Problem: "there is no such file", Remedy: "write one", Code: fault.ConfigMissing}
			m.Volumes = nil
		},
		"imx8dxl": func(_ *testing.T, m *doctor.Machine) { m.Program = "/usr/bin/caam-keygen" },
		"pc": func(t *testing.T, m *doctor.Machine) {
			m.Volumes = []doctor.Volume{{Name: "try", Source: "dev", Filesystem: "xfs", State: "locked", Generation: 1}}
			for _, f := range []string{"0f0e0d0c-1.key"} {
				if err := os.Chmod(filepath.Join(m.Root, "var/lib/imxcrypt/dev", f), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		},
		"imx6ull-mainline": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes = []doctor.Volume{trustedVolume("dcp")}
		},
		"imx8mp-mainline": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes[0].Source, m.Volumes[0].State, m.Volumes[0].Generation = "auto", "unprovisioned", 0
		},
		"imx93-tee": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes[0].Source, m.Volumes[0].State, m.Volumes[0].Generation = "auto", "unprovisioned", 0
		},
		"pc-tpm": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes = []doctor.Volume{trustedVolume("tpm")}
		},
		"nothing": func(_ *testing.T, m *doctor.Machine) { m.CryptVersion, m.Volumes = nil, nil },
	}
}

func TestBoards(t *testing.T) {
	t.Parallel()
	folders, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if _, known := boards()[f.Name()]; f.IsDir() && !known {
			t.Errorf("no test examines testdata/%s", f.Name())
		}
	}
	for name, change := range boards() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machine(t, name)
			change(t, &m)
			var got bytes.Buffer
			if err := doctor.Examine(m).Write(&got, false); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(got.String()) {
				if len([]rune(line)) > 81 && strings.Contains(strings.TrimSpace(line), " ") {
					t.Errorf("wider than 80 columns: %q", line)
				}
			}
			golden := filepath.Join("testdata", name+".txt")
			if updating() {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
			}
		})
	}
}

// Every family of chips that the program knows has a sample.
func TestEveryFamilyHasABoard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../caam/fuses.json")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Families []struct{ SoC []string }
	}
	if err := json.Unmarshal(text, &table); err != nil || len(table.Families) == 0 {
		t.Fatalf("%v: %+v", err, table)
	}
	samples, err := filepath.Glob("testdata/*/sys/devices/soc0/soc_id")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, s := range samples {
		soc, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		have[strings.TrimSpace(string(soc))] = true
	}
	for _, f := range table.Families {
		if !slices.ContainsFunc(f.SoC, func(soc string) bool { return have[soc] }) {
			t.Errorf("no board of the family %v in testdata", f.SoC)
		}
	}
}

func find(r doctor.Report, check string) doctor.Check {
	for _, c := range r.Checks {
		if c.Name == check {
			return c
		}
	}
	return doctor.Check{}
}

func TestEverythingRightIsNoProblemAndNoWarning(t *testing.T) {
	t.Parallel()
	m := machine(t, "imx8mp")
	if r := doctor.Examine(m); r.Problems+r.Warnings != 0 || r.Failed() != "" {
		t.Errorf("%+v", r)
	}
}

func TestOptionsOfTheRunningKernelGoFirst(t *testing.T) {
	t.Parallel()
	m := machine(t, "imx8mp")
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write([]byte("CONFIG_KEYS=y\nCONFIG_DM_CRYPT=m\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.Root, "proc/config.gz"), gz.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := find(doctor.Examine(m), "kernel-options")
	if c.ID != "kernel-options-missing" || strings.Contains(c.Text, "DM_CRYPT") || !strings.Contains(c.Text, "CONFIG_CRYPTO_DEV_FSL_CAAM_TK_API") {
		t.Errorf("%+v", c)
	}
}

// An option that only some volumes need is reported as missing only if there is such a
// volume.
func TestOptionsThatSomeVolumesNeed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		board  string
		change func(*doctor.Machine)
		lacks  string // empty for nothing
	}{
		"NXP's kernel, a partition":   {"imx8mp", func(*doctor.Machine) {}, ""},
		"NXP's kernel, a file":        {"imx8mp", func(m *doctor.Machine) { m.Volumes[0].Image = true }, "CONFIG_BLK_DEV_LOOP"},
		"NXP's kernel, swap space":    {"imx8mp", func(m *doctor.Machine) { m.Volumes[0].Filesystem = "swap" }, "CONFIG_SWAP"},
		"a header in a file":          {"imx8mp", func(m *doctor.Machine) { m.Volumes[0].Header = "/etc/data.luks2" }, ""},
		"mainline's kernel, xts":      {"imx8mp-mainline", func(m *doctor.Machine) { m.Volumes = []doctor.Volume{trustedVolume("caam")} }, ""},
		"mainline's kernel, adiantum": {"imx8mp-mainline", func(m *doctor.Machine) { m.Volumes[0].Source, m.Volumes[0].Cipher = "trusted", keysource.Adiantum }, "CONFIG_CRYPTO_ADIANTUM"},
		"an old processor, adiantum":  {"imx6ull-mainline", func(m *doctor.Machine) { m.Volumes[0].Source, m.Volumes[0].Cipher = "trusted", keysource.Adiantum }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machine(t, c.board)
			c.change(&m)
			r := doctor.Examine(m)
			for _, check := range r.Checks {
				if check.Name == "kernel-options" && check.Level == doctor.Problem && (c.lacks == "" || !strings.HasSuffix(check.Text, " without "+c.lacks)) {
					t.Errorf("%+v", check)
				}
			}
			if i := slices.IndexFunc(r.Checks, func(check doctor.Check) bool { return check.ID == "kernel-options-missing" }); (i >= 0) != (c.lacks != "") {
				t.Errorf("%+v", r.Checks)
			}
		})
	}
}

// A built-in cipher appears in /proc/crypto only once it has been used.
func TestABuiltInCipherIsThere(t *testing.T) {
	t.Parallel()
	m := machine(t, "imx8mp")
	m.Volumes[0].Source, m.Volumes[0].Node = "dev", "/dev/mmcblk2p3"
	if err := os.WriteFile(filepath.Join(m.Root, "boot/config-6.6.52-lts-next"), []byte("CONFIG_KEYS=y\nCONFIG_BLK_DEV_DM=y\nCONFIG_DM_CRYPT=m\nCONFIG_CRYPTO_XTS=y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := doctor.Examine(m)
	if c := find(r, "cipher"); c.Level != doctor.OK || !strings.Contains(c.Text, "xts(aes)") {
		t.Errorf("%+v", c)
	}
	if c := find(r, "storage"); c.Level != doctor.OK || !strings.Contains(c.Text, "/dev/mmcblk2p3") {
		t.Errorf("%+v", c)
	}
}

func TestOptionsByTheModules(t *testing.T) {
	t.Parallel()
	m := machine(t, "imx8mp")
	if err := os.RemoveAll(filepath.Join(m.Root, "boot")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.Root, "lib/modules/6.6.52-lts-next")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte("kernel/drivers/md/dm-mod.ko\nkernel/drivers/md/dm-crypt.ko\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The cipher at work shows that the CAAM's options were set.
	if c := find(doctor.Examine(m), "kernel-options"); c.Level != doctor.OK || !strings.Contains(c.Text, "modules in") {
		t.Errorf("%+v", c)
	}
	if err := os.Remove(filepath.Join(m.Root, "proc/crypto")); err != nil {
		t.Fatal(err)
	}
	c := find(doctor.Examine(m), "kernel-options")
	if c.ID != "kernel-options-missing" || strings.Contains(c.Text, "DM_CRYPT") || !strings.Contains(c.Text, "CONFIG_CRYPTO_DEV_FSL_CAAM_JR") {
		t.Errorf("%+v", c)
	}
}

func TestWithoutAVolumeOfTheCAAMItsLackIsNoProblem(t *testing.T) {
	t.Parallel()
	m := machine(t, "imx93")
	m.Volumes[0].Source = "dev"
	if c := find(doctor.Examine(m), "key-hardware"); c.Level != doctor.Warning || c.Code != "" {
		t.Errorf("%+v", c)
	}
}

// Each edit is a small change to a board, and must lead to the finding it is named after.
func TestFindings(t *testing.T) {
	t.Parallel()
	write := func(name, text string) func(*testing.T, *doctor.Machine) {
		return func(t *testing.T, m *doctor.Machine) {
			path := filepath.Join(m.Root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(names ...string) func(*testing.T, *doctor.Machine) {
		return func(t *testing.T, m *doctor.Machine) {
			for _, n := range names {
				if err := os.RemoveAll(filepath.Join(m.Root, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// A board with mainline's kernel and a volume with a trusted key.
	onMainline := func(edit func(*testing.T, *doctor.Machine)) func(*testing.T, *doctor.Machine) {
		return func(t *testing.T, m *doctor.Machine) {
			*m = machine(t, "imx8mp-mainline")
			m.Volumes = []doctor.Volume{trustedVolume("caam")}
			edit(t, m)
		}
	}
	for id, edit := range map[string]func(*testing.T, *doctor.Machine){
		"caam-not-in-device-tree":          remove("sys/bus/platform", "dev/caam-keygen"),
		"caam-not-in-device-tree-but-node": remove("sys/bus/platform"),
		"caam-program-missing":             func(_ *testing.T, m *doctor.Machine) { m.Program = "/opt/caam-keygen" },
		"caam-node-missing":                remove("dev/caam-keygen"),
		"cipher-selftest":                  write("proc/crypto", "name : tk(cbc(aes))\ndriver : tk-cbc-aes-caam\nselftest : unknown\npriority : 3000\n"),
		"device-mapper-missing":            remove("sys/class/misc/device-mapper"),
		"device-mapper-not-loaded": func(t *testing.T, m *doctor.Machine) {
			remove("sys/class/misc/device-mapper")(t, m)
			write("lib/modules/6.6.52-lts-next/modules.dep", "kernel/drivers/md/dm-mod.ko.xz: kernel/drivers/dax/dax.ko.xz\n")(t, m)
		},
		"dm-crypt-missing": func(t *testing.T, m *doctor.Machine) {
			m.CryptVersion = nil
			write("boot/config-6.6.52-lts-next", "CONFIG_KEYS=y\n")(t, m)
		},
		"keyring-missing": func(t *testing.T, m *doctor.Machine) {
			remove("proc/key-users", "boot")(t, m)
		},
		"loop-missing": func(t *testing.T, m *doctor.Machine) {
			m.Volumes[0].Header = "/etc/data.luks2"
			write("boot/config-6.6.52-lts-next", "CONFIG_KEYS=y\n# CONFIG_BLK_DEV_LOOP is not set\n")(t, m)
		},
		"cipher-xts-missing": func(_ *testing.T, m *doctor.Machine) { m.Volumes[0].Source = "dev" },
		"storage-device-open": func(t *testing.T, m *doctor.Machine) {
			write("dev/mmcblk2p3", "")(t, m)
			m.Volumes[0].Node = "/dev/mmcblk2p3"
			if err := os.Chmod(filepath.Join(m.Root, m.Volumes[0].Node), 0o664); err != nil {
				t.Fatal(err)
			}
		},
		// There is no record of the options, but one of the modules.
		"kernel-options-missing": func(t *testing.T, m *doctor.Machine) {
			remove("boot", "proc/crypto")(t, m)
			write("lib/modules/6.6.52-lts-next/modules.builtin", "kernel/drivers/md/dm-mod.ko\nkernel/drivers/crypto/caam/caam.ko\nkernel/crypto/cbc.ko\n")(t, m)
			write("lib/modules/6.6.52-lts-next/modules.dep", "kernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n")(t, m)
		},
		"trusted-keys-missing": onMainline(write("boot/config-6.12.60", "CONFIG_KEYS=y\nCONFIG_DM_CRYPT=y\n")),
		"trust-source-no-hardware": onMainline(func(t *testing.T, m *doctor.Machine) {
			remove("sys/bus/platform")(t, m)
			m.Chip.Key = ""
		}),
		"trust-source-open-chip": onMainline(func(t *testing.T, m *doctor.Machine) {
			m.Chip.Key, m.Chip.State = "dcp", "open"
			remove("sys/bus/platform")(t, m)
			write("boot/config-6.12.60", "CONFIG_TRUSTED_KEYS=y\nCONFIG_TRUSTED_KEYS_DCP=y\n")(t, m)
		}),
		"trust-source-not-built": onMainline(write("boot/config-6.12.60", "CONFIG_TRUSTED_KEYS=y\nCONFIG_TRUSTED_KEYS_TPM=y\n")),
		"trust-source-no-application": func(t *testing.T, m *doctor.Machine) {
			*m = machine(t, "imx93-tee")
			m.Volumes = []doctor.Volume{trustedVolume("tee")}
			m.TrustSource = func() (bool, error) { return false, nil }
		},
		"trust-source-missing": onMainline(func(t *testing.T, m *doctor.Machine) {
			write("proc/cmdline", "root=/dev/mmcblk2p2 trusted.source=caam\n")(t, m)
			m.TrustSource = func() (bool, error) { return false, nil }
		}),
		"trust-source-other": onMainline(func(t *testing.T, m *doctor.Machine) {
			write("proc/cmdline", "trusted.source=caam\n")(t, m)
			m.Volumes[0].Trust = "tee"
		}),
		"source-nothing-works": func(t *testing.T, m *doctor.Machine) {
			remove("dev/caam-keygen")(t, m)
			m.Volumes[0].Source = "auto"
		},
		"protected-keys-missing": onMainline(func(_ *testing.T, m *doctor.Machine) {
			m.Volumes[0].Cipher = "capi:cbc(paes)-plain64"
		}),
		"cipher-adiantum-missing": onMainline(func(_ *testing.T, m *doctor.Machine) {
			m.Volumes[0].Cipher = "capi:adiantum(xchacha12,aes)-plain64"
		}),
		"entropy-unknown":     remove("proc/sys/kernel/random"),
		"fsck-missing":        remove("usr/sbin/e2fsck"),
		"configuration-empty": func(_ *testing.T, m *doctor.Machine) { m.Volumes = nil },
		"chip-state-unreadable": func(_ *testing.T, m *doctor.Machine) {
			m.Superuser, m.Chip.State, m.Chip.Evidence = false, "unknown", []string{"i.MX8MP: the fuses cannot be read: permission denied"}
		},
		"units-missing": func(t *testing.T, m *doctor.Machine) {
			remove("usr/lib/systemd")(t, m)
			write("usr/lib/systemd/system/imxcrypt-rotate@.service", "")(t, m)
		},
		"plaintext-permitted": func(_ *testing.T, m *doctor.Machine) {
			m.Volumes[0].EncryptsPlain, m.Volumes[0].Generation = true, 1
		},
		"plaintext-log-in-slot": func(t *testing.T, m *doctor.Machine) {
			m.StateDir = "/var/lib/imxcrypt"
			m.Volumes[0].EncryptsPlain, m.Volumes[0].Shrinks, m.Volumes[0].Generation = true, true, 0
		},
		"storage-unknown": func(t *testing.T, m *doctor.Machine) {
			m.Volumes[0].Header = "/etc/data.luks2"
			remove("proc/self")(t, m)
		},
		"storage-unsafe-option": func(t *testing.T, m *doctor.Machine) {
			m.Volumes[0].Header = "/etc/data.luks2"
			write("proc/self/mountinfo", "21 1 179:2 / / rw - ext4 /dev/mmcblk2p2 rw,nobarrier\n")(t, m)
		},
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			m := machine(t, "imx8mp")
			edit(t, &m)
			r := doctor.Examine(m)
			for _, c := range r.Checks {
				if c.ID == id {
					if c.Remedy == "" || strings.Contains(c.Text, "%!") || c.Level == doctor.Problem && c.Code == "" {
						t.Errorf("%+v", c)
					}
					return
				}
			}
			t.Errorf("not found: %+v", r.Checks)
		})
	}
}

// Every finding of the catalogue occurs in a golden file or in TestFindings. A finding
// that cannot occur does not belong in the catalogue.
func TestNoFindingIsUnreachable(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("doctor_test.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name, change := range boards() {
		m := machine(t, name)
		change(t, &m)
		for _, c := range doctor.Examine(m).Checks {
			seen[c.ID] = true
			if strings.Contains(c.Text, "%!") || c.Level != doctor.OK && c.Remedy == "" {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
	for _, f := range doctor.Findings() {
		// A node that is not a device occurs only on the running system.
		if !seen[f.ID] && !strings.Contains(string(source), `"`+f.ID+`":`) && f.ID != "caam-node-no-device" {
			t.Errorf("%s never comes up", f.ID)
		}
	}
}

// The screen in docs/install.md is what the program prints for that board.
func TestInstallPageShowsTheGoldenScreen(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/imx8mp.txt")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```\n"+string(golden)+"```\n") {
		t.Error("docs/install.md differs from testdata/imx8mp.txt")
	}
}
