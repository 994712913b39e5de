// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// boardProgram simulates the commands that need a board; the program runs the others.
const boardProgram = `#!/bin/sh
case "$1 $2" in
"provision "*)
	for name; do :; done
	if [ -e /var/lib/made-$name ]; then already=true; else already=false; fi
	: >/var/lib/made-$name
	echo "{\"volume\":\"$name\",\"uuid\":\"0f0e\",\"generation\":1,\"already\":$already,\"ok\":true}"
	echo "imxcrypt: $name: back up the header" >&2 ;;
"unlock --mount") : >/var/lib/mounted-$3 ;;
"header backup") echo "the header of $3" >"$4" ;;
*) exec /usr/bin/imxcrypt "$@" ;;
esac
`

// Ansible runs the role twice on a copy of this system, over a connection that it takes
// for ssh. The second run changes nothing, check mode changes nothing at all, and a
// wrong configuration is not installed.
func TestAnsibleRole(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT TESTED: the Ansible role, without -short only")
	}
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: the Ansible role (a copy of this system can only be had by root)")
	}
	role := filepath.Join(top, fleet+"ansible")
	command(t, role, []string{"ansible-lint", "--offline", "--nocolor", "--strict", "boards.yml"}, "HOME="+t.TempDir())

	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		err := writeProgram(path, text)
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	program := filepath.Join(dir, "program")
	command(t, top, []string{"packaging/build", nativeGo(t), program, "./cmd/imxcrypt", "1.2.3"})
	write("ssh", "#!/bin/sh\nfor last; do :; done\nSYSTEMD_OFFLINE=1 exec chroot \"$BOARD\" /bin/sh -c \"$last\"\n", 0o755)
	board := write("imxcrypt", boardProgram, 0o755)
	playbook := read(t, fleet+"ansible/boards.yml")
	write("boards.yml", playbook, 0o644)
	write("wrong.yml", strings.Replace(playbook, "device: PARTLABEL=data", "devise: PARTLABEL=data", 1), 0o644)
	// Everything runs in its own mount namespace, so nothing is left behind.
	script := write("run", `set -eu
mount -t tmpfs tmpfs "$DIR/space" && mkdir "$DIR/space/upper" "$DIR/space/work" "$DIR/space/root"
mount -t overlay -o "lowerdir=/,upperdir=$DIR/space/upper,workdir=$DIR/space/work" overlay "$BOARD"
mount --bind /dev "$BOARD/dev"; mount -t proc proc "$BOARD/proc"; mount -t tmpfs tmpfs "$BOARD/run"
rm -rf "$BOARD/etc/imxcrypt"
# The units, under a name that an older system cannot hide.
(cd "$TOP" && DESTDIR="$BOARD" PREFIX=/usr packaging/install "$DIR/program")
install -m 755 "$PROGRAM" "$BOARD/usr/local/sbin/imxcrypt"
play() { playbook=$1; shift; ansible-playbook -i board, "$DIR/$playbook" "$@"; }
echo "=== check"; play boards.yml --check; if [ -e "$BOARD/etc/imxcrypt/imxcrypt.yaml" ]; then echo "it is not only checked"; exit 1; fi
echo "=== first"; play boards.yml
echo "=== second"; play boards.yml
echo "=== wrong"; if play wrong.yml; then echo "a wrong configuration is taken"; exit 1; fi
echo "=== unknown"; if play boards.yml -e '{"imxcrypt_provision": ["dta"]}'; then echo "an unknown volume is taken"; exit 1; fi
echo "=== configuration"; cat "$BOARD/etc/imxcrypt/imxcrypt.yaml"
echo "=== found"; cd "$BOARD" && ls -d data var/lib/mounted-* etc/systemd/system/timers.target.wants/imxcrypt-metrics.timer
ls dev/shm | grep imxcrypt || true
`, 0o755)
	if err := os.Mkdir(filepath.Join(dir, "space"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--fork", "sh", script)
	cmd.Env = append(os.Environ(), "DIR="+dir, "TOP="+abs(t, top), "BOARD="+filepath.Join(dir, "space/root"), "PROGRAM="+board,
		"HOME="+t.TempDir(), "LC_ALL=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"ANSIBLE_ROLES_PATH="+abs(t, filepath.Join(role, "roles")), "ANSIBLE_SSH_EXECUTABLE="+filepath.Join(dir, "ssh"),
		"ANSIBLE_SSH_TRANSFER_METHOD=piped", "ANSIBLE_NOCOLOR=1", "ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3", "ANSIBLE_LOCALHOST_WARNING=0")
	out, err := cmd.CombinedOutput()
	said := string(out)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	part := func(name string) string {
		_, after, _ := strings.Cut(said, "=== "+name+"\n")
		before, _, _ := strings.Cut(after, "\n=== ")
		return before
	}
	recap := regexp.MustCompile(`board +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=(\d+)`)
	for run, want := range map[string]string{"check": "failed=0", "first": `changed=[1-9]\d*`, "second": "changed=0", "wrong": "failed=1", "unknown": "failed=1"} {
		m := recap.FindString(part(run))
		if !regexp.MustCompile(want + `\b`).MatchString(m) {
			t.Errorf("%s run: %q, expected %s\n%s", run, m, want, part(run))
		}
	}
	if !strings.Contains(part("wrong"), "unknown field") {
		t.Errorf("nobody says what is wrong:\n%s", part("wrong"))
	}
	if want := "imxcrypt_provision names dta, which imxcrypt_configuration does not have"; !strings.Contains(part("unknown"), want) {
		t.Errorf("nobody says %q:\n%s", want, part("unknown"))
	}
	if text := part("configuration"); !strings.Contains(text, `"device": "PARTLABEL=data"`) {
		t.Errorf("the configuration is\n%s", text)
	}
	if got, want := part("found"), "data\netc/systemd/system/timers.target.wants/imxcrypt-metrics.timer\nvar/lib/mounted-data\n"; got != want {
		t.Errorf("found %q, expected %q", got, want)
	}
	header, err := os.ReadFile(filepath.Join(dir, "headers/board/data-0f0e-1.header"))
	if err != nil || string(header) != "the header of data\n" {
		t.Errorf("the header's backup: %q, %v", header, err)
	}
}

func abs(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
