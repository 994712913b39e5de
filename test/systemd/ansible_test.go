// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package systemd

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// network is QEMU's own: the machine reaches nothing, and its port 22 is forwarded from
// a port of the host's loopback.
var network = []string{"-netdev", "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net0"}

// The Ansible role over ssh: it installs the package on a board without it, provisions
// and mounts; installs a newer package while the volume is in use; the next boot
// unlocks as the role configured it; after that another run changes nothing.
func TestAnsible(t *testing.T) {
	t.Parallel()
	// It took 410 s of the emulated processor, and 38 minutes on a very busy host with
	// two processors; without check mode, 187 s and 17 minutes.
	if os.Getenv("IMXCRYPT_SOAK") == "" {
		t.Skip("NOT TESTED: the Ansible role over ssh, by make soak only (IMXCRYPT_SOAK=1); TestAnsibleRole of test/packaging plays it on a copy of the host")
	}
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a Debian root filesystem can only be built by root")
	}
	dir, err := os.MkdirTemp("", "imxcrypt") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	identity := filepath.Join(dir, "identity")
	made(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity)
	disk := rootOf(t, vm.AMD64, made(t, "./build-root", "amd64", "openssh-server", "python3", "python3-apt", "iproute2"), files{
		"/root/.ssh/authorized_keys": {Host: identity + ".pub", Mode: 0o600},
	})
	b := board{t: t, Machine: vm.Start(t, vm.Config{
		Arch: vm.AMD64, Root: "/dev/vda", SimCAAM: &vm.SimCAAM{Closed: true}, Append: systemOptions, QEMUArgs: network,
		Disks: []*vm.Disk{disk, vm.NewDisk(t, 64<<20)},
	})}
	role := filepath.Join("../..", "packaging/fleet/ansible")
	playbook, err := os.ReadFile(filepath.Join(role, "boards.yml"))
	if err != nil {
		t.Fatal(err)
	}
	own := strings.Replace(string(playbook), "PARTLABEL=data", "/dev/vdb", 1)
	if own == string(playbook) {
		t.Fatal("the example has no PARTLABEL=data")
	}
	if err := os.WriteFile(filepath.Join(dir, "boards.yml"), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	roles, err := filepath.Abs(filepath.Join(role, "roles"))
	if err != nil {
		t.Fatal(err)
	}
	recap := regexp.MustCompile(`board +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0`)
	// play runs the playbook and returns how many tasks changed something.
	play := func(arguments ...string) string {
		t.Helper()
		cmd := exec.Command("ansible-playbook", append([]string{"-i", "board,", filepath.Join(dir, "boards.yml"),
			"-e", "ansible_host=127.0.0.1 ansible_port=" + b.reachable()}, arguments...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1", "ANSIBLE_ROLES_PATH="+roles,
			"ANSIBLE_PRIVATE_KEY_FILE="+identity, "ANSIBLE_HOST_KEY_CHECKING=0", "ANSIBLE_PIPELINING=1", "ANSIBLE_TIMEOUT=180",
			"ANSIBLE_SSH_CONTROL_PATH_DIR="+filepath.Join(dir, "cp"), "ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3", "ANSIBLE_SSH_TRANSFER_METHOD=piped",
			// One connection until the machine ends: on a busy host more than seconds
			// pass between two tasks.
			"ANSIBLE_SSH_ARGS=-F none -o ControlMaster=auto -o ControlPersist=10m -o UserKnownHostsFile=/dev/null")
		began := time.Now()
		out, err := cmd.CombinedOutput()
		m := recap.FindSubmatch(out)
		if err != nil || m == nil {
			t.Fatalf("ansible-playbook: %v\n%s\n%s", err, out, b.journal("-b", "-u", "ssh"))
		}
		t.Logf("%s after %.0f s", m[0], time.Since(began).Seconds())
		return string(m[1])
	}
	program := vm.BuildProgram(t, "./cmd/imxcrypt", "amd64")
	install := func(version string) string {
		t.Helper()
		return play("-e", "imxcrypt_package="+made(t, "../../packaging/debian/package", "amd64", program, version, dir))
	}
	is := func(version string) {
		t.Helper()
		b.expect("dpkg-query -W -f '${Version} ${db:Status-Status}' imxcrypt", version+"-1 installed")
		b.expect("findmnt -n -o SOURCE /data; cat /data/kept 2>/dev/null", "/dev/mapper/data\na year of work")
	}

	b.mustAwait("multi-user.target")
	if changed := play("--check", "-e", "imxcrypt_package="+made(t, "../../packaging/debian/package", "amd64", program, "0.0.1", dir)); changed == "0" {
		t.Error("nothing would change on a new board")
	}
	b.expect("ls /etc/imxcrypt /usr/bin/imxcrypt 2>/dev/null; dmsetup ls", "No devices found")
	if changed := install("0.0.1"); changed == "0" {
		t.Error("the first run changed nothing")
	}
	b.MustSh("echo 'a year of work' >/data/kept; sync -f /data")
	is("0.0.1")
	if kept, err := filepath.Glob(filepath.Join(dir, "headers/board/data-*-1.header")); err != nil || len(kept) != 1 {
		t.Errorf("the header's backup: %v, %v", kept, err)
	}
	if changed := install("0.0.2"); changed == "0" {
		t.Error("a newer package changed nothing")
	}
	is("0.0.2")
	b.MustSh("sync") // the restart is a power cut
	b.Restart()
	b.mustAwait("multi-user.target")
	is("0.0.2")
	if changed := install("0.0.2"); changed != "0" {
		t.Errorf("a run after the restart changed %s things", changed)
	}
	b.eventually("imxcrypt-metrics.service: Deactivated successfully", "-u", "imxcrypt-metrics.service")
}

// reachable brings the board's network up and returns the loopback port of the host
// that is forwarded to the board's port 22.
func (b board) reachable() string {
	b.t.Helper()
	b.MustSh(`modprobe virtio_net
		for interface in /sys/class/net/e*; do interface=${interface##*/}; done
		ip link set "$interface" up && ip address replace 10.0.2.15/24 dev "$interface"
		systemctl start ssh`)
	var text string
	if err := json.Unmarshal(b.QMP("human-monitor-command", map[string]string{"command-line": "info usernet"}), &text); err != nil {
		b.t.Fatal(err)
	}
	m := regexp.MustCompile(`HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)`).FindStringSubmatch(text)
	if m == nil {
		b.t.Fatalf("QEMU forwards no port:\n%s", text)
	}
	return m[1]
}
