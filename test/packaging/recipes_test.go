// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/configs"
)

const (
	layer     = "packaging/yocto/meta-imxcrypt"
	buildroot = "packaging/buildroot"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Each script is valid for the shell that it names, as far as that shell can check
// without running it.
func TestScriptsAreOfTheirShell(t *testing.T) {
	t.Parallel()
	scripts := 0
	if err := filepath.WalkDir(filepath.Join(top, "packaging"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		shell := map[string]string{"#!/bin/sh": "sh", "#!/bin/bash": "bash", "#!/usr/bin/env bash": "bash"}[first]
		if shell == "" && strings.HasPrefix(first, "#!") {
			t.Errorf("%s is a script of %s, which a board may not have", path, first)
		}
		if shell == "" {
			return nil
		}
		scripts++
		command(t, top, []string{shell, "-n", strings.TrimPrefix(path, top+"/")})
		info, err := d.Info()
		// Buildroot's rules: a start script becomes executable when it is installed.
		if err == nil && info.Mode()&0o100 == 0 && d.Name() != "S12imxcrypt" {
			t.Errorf("%s is not executable", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if scripts < 10 {
		t.Errorf("%d scripts were found", scripts)
	}
}

// The same for the shell functions in the recipes, which bitbake passes to a shell.
func TestShellInRecipes(t *testing.T) {
	t.Parallel()
	functions := 0
	function := regexp.MustCompile(`(?ms)^([a-z_]+)\(\) \{\n(.*?)^\}$`)
	expansion := regexp.MustCompile(`\$\{@[^}]*\}`)
	if err := filepath.WalkDir(filepath.Join(top, layer), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".bb") && !strings.HasSuffix(path, ".inc") && !strings.HasSuffix(path, ".bbclass") {
			return err
		}
		for _, f := range function.FindAllStringSubmatch(read(t, strings.TrimPrefix(path, top+"/")), -1) {
			functions++
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(expansion.ReplaceAllString(f[0], "true"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %s", path, f[1], out)
			}
		}
		if text := read(t, strings.TrimPrefix(path, top+"/")); strings.Contains(text, "gomod://") {
			t.Errorf("%s has gomod://, at which scarthgap's parser stops", path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if functions < 4 {
		t.Errorf("%d functions were found", functions)
	}
}

// Python in the layer: modules, the test that runs on a target, and what bitbake passes
// to its Python, as far as Python can check without running it.
func TestPythonInTheLayer(t *testing.T) {
	t.Parallel()
	said := command(t, top, []string{"python3", "-B", "-c", `
import ast, pathlib, re, sys
layer, parsed = pathlib.Path(sys.argv[1]), []
for path in sorted(layer.rglob("*")):
    if path.suffix == ".py":
        parsed.append((path, path.read_text()))
    if path.suffix in (".bb", ".inc", ".bbclass"):
        text = path.read_text()
        for name, body in re.findall(r"(?ms)^python ?([a-z_]*) ?\(\) \{\n(.*?)^\}$", text):
            parsed.append((path, "def %s(d, bb):\n%s" % (name or "anonymous", body)))
        parsed += [(path, f) for f in re.findall(r"(?ms)^def .*?(?=^\S|\Z)", text)]
for path, text in parsed:
    tree = ast.parse(text, str(path))
    if path.parent.name == "cases":
        cases = {"%s.%s.%s" % (path.stem, c.name, f.name): f for c in tree.body if isinstance(c, ast.ClassDef)
                 for f in c.body if isinstance(f, ast.FunctionDef)}
        for name, f in cases.items():
            depends = [n for d in f.decorator_list if d.func.id == "OETestDepends" for n in ast.literal_eval(d.args[0])]
            assert depends, name + " depends on nothing: not on ssh either"
            for n in depends:
                assert n in cases or n == "ssh.SSHTest.test_ssh", "%s depends on %s, which is not there" % (name, n)
        assert cases, "no case in %s" % path
    print(path.relative_to(layer))
`, layer})
	for _, want := range []string{"classes/imxcrypt.bbclass", "lib/imxcrypt_configuration.py", "lib/oeqa/runtime/cases/imxcrypt.py", "recipes-security/imxcrypt/imxcrypt-configuration.bb"} {
		if !strings.Contains(said+"\n", want+"\n") {
			t.Errorf("no Python is found in %s:\n%s", want, said)
		}
	}
}

// generate runs what the class runs when a product is parsed.
func generate(t *testing.T, variables map[string]string) (text string, err error) {
	t.Helper()
	input, err := json.Marshal(variables)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-B", layer+"/lib/imxcrypt_configuration.py")
	cmd.Dir = top
	cmd.Stdin = bytes.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, said.String())
	}
	return out.String(), nil
}

// A product's variables become a configuration that the program accepts and that means
// what they say.
func TestConfigurationOfAProduct(t *testing.T) {
	t.Parallel()
	load := func(variables map[string]string) *configs.Config {
		t.Helper()
		text, err := generate(t, variables)
		if err != nil {
			t.Fatal(err)
		}
		c, err := configs.Parse("imxcrypt.yaml", []byte(text))
		if err != nil {
			t.Fatalf("the program does not take it: %v\n%s", err, text)
		}
		return c
	}
	three := load(map[string]string{"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "PARTLABEL=data", "IMXCRYPT_MOUNT": "/data"})
	if v := three.Volumes[0]; len(three.Volumes) != 1 || v.Name != "data" || v.Device != "PARTLABEL=data" || v.Mount.Path != "/data" {
		t.Errorf("three lines become %+v", three.Volumes)
	}
	several := load(map[string]string{
		"IMXCRYPT_VOLUMES": "data my-logs", "IMXCRYPT_DEVICE[data]": "/dev/mmcblk2p3", "IMXCRYPT_DEVICE[my-logs]": "PARTLABEL=the logs",
		"IMXCRYPT_MOUNT[data]": "/data", "IMXCRYPT_MOUNT[my-logs]": "none", "IMXCRYPT_MOUNT_OPTIONS": "noatime,nodev",
		"IMXCRYPT_FILESYSTEM[my-logs]": "f2fs", "IMXCRYPT_REQUIRED[my-logs]": "0", "IMXCRYPT_TIMEOUT": "30s", "IMXCRYPT_MOUNT[doc]": "bitbake's own",
	})
	data, logs := several.Volumes[0], several.Volumes[1]
	if data.Mount.Path != "/data" || strings.Join(data.Mount.Options, ",") != "noatime,nodev" || data.Timeout.String() != "30s" {
		t.Errorf("data becomes %+v", data)
	}
	if logs.Name != "my-logs" || logs.Device != "PARTLABEL=the logs" || logs.Mount.Path != "" || logs.Filesystem.Type != "f2fs" {
		t.Errorf("my-logs becomes %+v", logs)
	}
}

// A mistake ends parsing, with the name of the variable.
func TestMistakesOfAProduct(t *testing.T) {
	t.Parallel()
	mistakes := map[string]map[string]string{
		"IMXCRYPT_VOLUMES is empty":                     {"IMXCRYPT_VOLUMES": ""},
		"IMXCRYPT_DEVICE of data is missing":            {"IMXCRYPT_VOLUMES": "data"},
		"IMXCRYPT_DEVICE of data: 'mmcblk2p3'":          {"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "mmcblk2p3"},
		"IMXCRYPT_VOLUMES: '-x' is not a name":          {"IMXCRYPT_VOLUMES": "-x", "IMXCRYPT_DEVICE": "/dev/sda1"},
		"'data' is there twice":                         {"IMXCRYPT_VOLUMES": "data data", "IMXCRYPT_DEVICE[data]": "/dev/sda1"},
		"IMXCRYPT_MOUNT of data: 'data'":                {"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "/dev/sda1", "IMXCRYPT_MOUNT": "data"},
		"IMXCRYPT_MOUNT of data: '/a/../b'":             {"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "/dev/sda1", "IMXCRYPT_MOUNT": "/a/../b"},
		"IMXCRYPT_VOLUMES has no datum":                 {"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "/dev/sda1", "IMXCRYPT_MOUNT[datum]": "/data"},
		"IMXCRYPT_DEVICE[logs]":                         {"IMXCRYPT_VOLUMES": "data logs", "IMXCRYPT_DEVICE": "/dev/sda1"},
		"data and logs have the same device /dev/sda1":  {"IMXCRYPT_VOLUMES": "data logs", "IMXCRYPT_DEVICE[data]": "/dev/sda1", "IMXCRYPT_DEVICE[logs]": "/dev/sda1"},
		"data and logs have the same mount /d":          {"IMXCRYPT_VOLUMES": "data logs", "IMXCRYPT_DEVICE[data]": "/dev/a", "IMXCRYPT_DEVICE[logs]": "/dev/b", "IMXCRYPT_MOUNT[data]": "/d", "IMXCRYPT_MOUNT[logs]": "/d"},
		"IMXCRYPT_REQUIRED of data is 'yes', and not 0": {"IMXCRYPT_VOLUMES": "data", "IMXCRYPT_DEVICE": "/dev/a", "IMXCRYPT_REQUIRED": "yes"},
	}
	input, err := json.Marshal(mistakes)
	if err != nil {
		t.Fatal(err)
	}
	var said map[string]string
	python(t, &said, `
import io, json, sys
sys.path.insert(0, sys.argv[1] + "/lib")
import imxcrypt_configuration
said = {}
for part, variables in json.loads(sys.argv[2]).items():
    sys.stdin, sys.stdout = io.StringIO(json.dumps(variables)), io.StringIO()
    try:
        imxcrypt_configuration.main()
        said[part] = sys.stdout.getvalue()
    except SystemExit as e:
        said[part] = "refused: %s" % e
json.dump(said, sys.__stdout__)
`, layer, string(input))
	for part, variables := range mistakes {
		if got := said[part]; !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, part) {
			t.Errorf("%v:\n%s, and not %q", variables, got, part)
		}
	}
}

// python runs a program and parses the JSON that it prints. Its start takes longer than
// most cases, so it does all of them.
func python(t *testing.T, said any, program string, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(command(t, top, append([]string{"python3", "-B", "-c", program}, args...))), said); err != nil {
		t.Fatal(err)
	}
}

// A mistake also ends parsing in the class, including a missing configuration file of
// the product. Otherwise bitbake would report it hours later, or never.
func TestTheClassEndsTheParsing(t *testing.T) {
	t.Parallel()
	own := filepath.Join(t.TempDir(), "imxcrypt.yaml")
	if err := os.WriteFile(own, []byte("volumes: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ Configuration, Device, want string }{
		{own, "", "volumes: 0"},
		{"", "/dev/sda1", "volumes: 1"},
		{"", "", "fatal: imxcrypt: IMXCRYPT_DEVICE of data is missing"},
		{own + "l", "", "fatal: imxcrypt: IMXCRYPT_CONFIGURATION: there is no file " + own + "l"},
		{filepath.Dir(own), "", "fatal: imxcrypt: IMXCRYPT_CONFIGURATION: there is no file " + filepath.Dir(own)},
		{"imxcrypt.yaml", "", "fatal: imxcrypt: IMXCRYPT_CONFIGURATION: 'imxcrypt.yaml' is not an absolute path"},
	}
	input, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	// bb and d stand in for bitbake's.
	python(t, &said, `
import json, re, sys
layer = sys.argv[1]
class bb:
    def fatal(text): sys.exit("fatal: " + text)
exec("\n".join(re.findall(r"(?ms)^def .*?(?=^\S|\Z)", open(layer + "/classes/imxcrypt.bbclass").read())))
def volumes(c):
    class d:
        getVar = {"IMXCRYPT_LAYERDIR": layer, "IMXCRYPT_CONFIGURATION": c["Configuration"], "IMXCRYPT_DEVICE": c["Device"], "IMXCRYPT_VOLUMES": "data"}.get
        def getVarFlags(name): return None
    try:
        return "volumes: %d" % len(imxcrypt_volumes(d))
    except SystemExit as e:
        return str(e)
json.dump([volumes(c) for c in json.loads(sys.argv[2])], sys.stdout)
`, layer, string(input))
	for i, c := range cases {
		if said[i] != c.want {
			t.Errorf("IMXCRYPT_CONFIGURATION %q, IMXCRYPT_DEVICE %q: it says %q, expected %q", c.Configuration, c.Device, said[i], c.want)
		}
	}
}

// What a product's configuration installs. bitbake gives do_install only those shell
// functions whose calls it sees, and it does not see calls in quotes; here it gives
// none.
func TestConfigurationIsInstalled(t *testing.T) {
	t.Parallel()
	text := read(t, layer+"/recipes-security/imxcrypt/imxcrypt-configuration.bb")
	m := regexp.MustCompile(`(?ms)^do_install\(\) \{\n(.*?)^\}$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatal("there is no do_install")
	}
	for provision, want := range map[string]string{
		"1": `imxcrypt-provision@data.service imxcrypt-provision@my\x2dlogs.service`,
		"0": "",
	} {
		made, dest := t.TempDir(), t.TempDir()
		if err := os.WriteFile(made+"/imxcrypt.yaml", []byte("volumes: []\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		script := regexp.MustCompile(`\$\{@bb\.utils\.contains\('DISTRO_FEATURES', 'systemd', 'true', 'false', d\)\}`).ReplaceAllString(m[1], "true")
		for name, value := range map[string]string{
			"B": made, "D": dest, "sysconfdir": "/etc", "localstatedir": "/var", "nonarch_libdir": "/usr/lib",
			"IMXCRYPT_MOUNT_POINTS": "/data /var/log/product", "IMXCRYPT_NAMES": "data my-logs", "IMXCRYPT_PROVISION": provision,
		} {
			script = strings.ReplaceAll(script, "${"+name+"}", value)
		}
		if strings.Contains(script, "${") {
			t.Fatalf("not known here:\n%s", script)
		}
		command(t, top, []string{"sh", "-e", "-c", script})
		links, err := filepath.Glob(dest + "/etc/systemd/system/local-fs.target.wants/*")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, link := range links {
			names = append(names, filepath.Base(link))
			if to, err := os.Readlink(link); err != nil || to != "/usr/lib/systemd/system/imxcrypt-provision@.service" {
				t.Errorf("%s leads to %s, %v", link, to, err)
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("IMXCRYPT_PROVISION = %s enables %q, expected %q", provision, got, want)
		}
		for _, name := range []string{"/etc/imxcrypt/imxcrypt.yaml", "/data", "/var/log/product", "/var/lib/imxcrypt"} {
			if _, err := os.Stat(dest + name); err != nil {
				t.Error(err)
			}
		}
	}
}

// The example's partition is empty. By default wic makes a FAT filesystem in a
// partition, and provisioning refuses that.
func TestPartitionOfTheExampleIsEmpty(t *testing.T) {
	t.Parallel()
	line := regexp.MustCompile("(?m)(?:^|`)(part [^`\n]*--part-name data[^`\n]*)")
	for _, name := range []string{layer + "/files/wic/imxcrypt-example.wks.in", "docs/factory.md"} {
		if m := line.FindStringSubmatch(read(t, name)); m == nil || !strings.Contains(m[1], "--source empty ") || !strings.Contains(m[1], "--fixed-size ") {
			t.Errorf("%s: %q", name, m)
		}
	}
}

// Both recipes are for every processor with a CAAM, DCP or TEE from i.MX 6 on, and not
// for the ARMv5 of an i.MX28. This follows what oe-core's conf/machine/include/arm
// makes of a processor: the features of a Cortex-A7 or A9 lack armv7a, the overrides
// have it.
func TestProcessorsOfTheRecipes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"imxcrypt", "imxcrypt-bin"} {
		if !strings.Contains(read(t, fmt.Sprintf("%s/recipes-security/imxcrypt/%s_%s.bb", layer, name, release(t))), "\nrequire imxcrypt.inc\n") {
			t.Errorf("%s does not take imxcrypt.inc", name)
		}
	}
	cases := []struct{ processor, Architecture, Features, Overrides, want string }{
		{"i.MX 6", "arm", "arm vfp cortexa9 neon thumb callconvention-hard", "linux:arm:armv7a:imx6", "taken"},
		{"i.MX 6ULL, 7", "arm", "arm vfp cortexa7 neon thumb callconvention-hard", "linux:arm:armv7ve:imx7", "taken"},
		{"qemuarm", "arm", "arm vfp cortexa15 neon thumb callconvention-hard", "linux:arm:qemuarm:armv7ve", "taken"},
		{"no tuning", "arm", "arm armv7a vfp thumb callconvention-hard", "linux:arm:armv7a", "taken"},
		{"32 bits of an i.MX 8", "arm", "armv8a cortexa32 callconvention-hard neon", "linux:arm:armv8a", "taken"},
		{"i.MX 8M", "aarch64", "aarch64 armv8a crc cortexa53", "linux:aarch64:armv8a", "taken"},
		{"a PC", "x86_64", "m64 core2", "linux:x86-64", "taken"},
		{"i.MX28", "arm", "arm armv5 thumb dsp", "linux:arm:armv5", "skipped: imxcrypt is built for ARMv7 and later"},
	}
	input, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	python(t, &said, `
import json, re, sys
class bb:
    class parse:
        class SkipRecipe(Exception): pass
text = open(sys.argv[1] + "/recipes-security/imxcrypt/imxcrypt.inc").read()
exec("def check(d):\n" + re.search(r"(?ms)^python \(\) \{\n(.*?)^\}$", text).group(1))
def said(c):
    class d:
        getVar = {"TARGET_ARCH": c["Architecture"], "TUNE_FEATURES": c["Features"], "OVERRIDES": c["Overrides"]}.get
    try:
        check(d)
        return "taken"
    except bb.parse.SkipRecipe as e:
        return "skipped: %s" % e
json.dump([said(c) for c in json.loads(sys.argv[2])], sys.stdout)
`, layer, string(input))
	for i, c := range cases {
		if said[i] != c.want {
			t.Errorf("%s: %s, expected %s", c.processor, said[i], c.want)
		}
	}
}

// The recipes are for the version of the sources, and name the licence by its checksum.
func TestRecipesAreOfThisVersion(t *testing.T) {
	t.Parallel()
	version := release(t)
	for _, name := range []string{"imxcrypt", "imxcrypt-bin"} {
		read(t, fmt.Sprintf("%s/recipes-security/imxcrypt/%s_%s.bb", layer, name, version))
	}
	if mk := read(t, buildroot+"/package/imxcrypt/imxcrypt.mk"); !strings.Contains(mk, "\nIMXCRYPT_VERSION = "+version+"\n") {
		t.Errorf("Buildroot's package is of another version than %s", version)
	}
	licence := read(t, "LICENSE")
	if want := fmt.Sprintf("LICENSE;md5=%x", md5.Sum([]byte(licence))); !strings.Contains(read(t, layer+"/recipes-security/imxcrypt/imxcrypt.inc"), want) {
		t.Errorf("the recipe lacks %s", want)
	}
}

// The module of initramfs-framework has the two functions that its init calls by the
// file's name, and opens the volumes before the root filesystem is mounted.
func TestInitramfsModule(t *testing.T) {
	t.Parallel()
	recipe := read(t, layer+"/recipes-core/initrdscripts/initramfs-module-imxcrypt_1.0.bb")
	m := regexp.MustCompile(`/init\.d/([0-9]+)-([a-z]+)\n`).FindStringSubmatch(recipe)
	if m == nil || m[1] <= "01" || m[1] >= "90" {
		t.Fatalf("it is not between 01-udev and 90-rootfs: %q", m)
	}
	dir := t.TempDir()
	stub := `
info() { echo "info: $*"; }
load_kernel_module() { echo "module $1"; }
add_module_pre_hook() { echo "hook $1"; }
imxcrypt() { echo "imxcrypt $*"; return 1; }
mkdir() { :; }
ROOTFS_DIR=` + dir + `
. ` + layer + `/recipes-core/initrdscripts/files/imxcrypt
` + m[2] + `_run
`
	// The console is the kernel's; here it is a file.
	script := strings.ReplaceAll(read(t, layer+"/recipes-core/initrdscripts/files/imxcrypt"), "/dev/console", dir+"/console")
	stub = strings.Replace(stub, ". "+layer+"/recipes-core/initrdscripts/files/imxcrypt\n", script+"\n", 1)
	said := command(t, top, []string{"sh", "-c", stub})
	if want := "module dm-mod\nmodule dm-crypt\ninfo: imxcrypt: exit code 1\nhook imxcrypt_keep"; said != want {
		t.Errorf("%s_run does\n%s, expected\n%s", m[2], said, want)
	}
	console, err := os.ReadFile(dir + "/console")
	if err != nil || string(console) != "imxcrypt boot --no-mount\n" {
		t.Errorf("the console says %q, %v", console, err)
	}
	if !strings.Contains(script, m[2]+"_enabled()") {
		t.Errorf("%s_enabled is missing", m[2])
	}
}
