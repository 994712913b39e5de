// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imxcrypt/test/vm"
)

// bench is a board that stays on while many short scenarios run on it, one after the
// other, each with its own folder and loop devices: a boot costs more than most of
// them. Each subtest takes its own bench. There are as many machines as scenarios that
// run at once.
type bench struct {
	board
	*vm.Machine
	t *testing.T
	// dir holds the configuration, the disk images and the mount point. It is removed
	// with all its contents at the end.
	dir     string
	program string
	// global are the program's first arguments: --config, once there is a
	// configuration.
	global []string
}

// clean removes everything that a scenario has left behind, however it ended.
const clean = `cd /
	grep ' %[1]s' /proc/mounts | cut -d' ' -f2 | sort -r | while read -r m; do umount -l "$m"; done
	dmsetup remove_all --force
	losetup -D
	rm -rf %[1]s /run/imxcrypt /var/lib/imxcrypt`

func (b board) bench(t *testing.T) *bench {
	t.Helper()
	m := vm.Shared(t, b.kernel)
	x := &bench{
		board: b, Machine: m, t: t, program: "/opt/" + b.goarch + "/imxcrypt",
		dir: "/tmp/" + regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "_"),
	}
	// Once per machine: the program is several MB.
	if m.Sh("test -x "+x.program).Code != 0 {
		m.PutFile(x.program, vm.BuildProgram(t, "./cmd/imxcrypt", b.goarch))
	}
	m.MustRun("mkdir", "-p", x.dir+"/mnt")
	t.Cleanup(func() {
		_, _ = m.TryRun(context.Background(), vm.Command{Argv: []string{"sh", "-c", fmt.Sprintf(clean, x.dir)}})
	})
	return x
}

// in returns the same bench for a subtest that continues with the existing state.
func (x *bench) in(t *testing.T) *bench {
	t.Helper()
	y := *x
	y.t, y.Machine = t, vm.Shared(t, x.kernel)
	return &y
}

// benches runs a scenario on each of the boards, as subtests.
func benches(t *testing.T, boards []board, scenario func(*testing.T, board)) {
	t.Parallel()
	for _, b := range boards {
		t.Run(b.goarch, func(t *testing.T) {
			t.Parallel()
			scenario(t, b)
		})
	}
}

// mainBoard is the kind of board that most i.MX products are.
func mainBoard() []board { return []board{{vm.ARM64, "arm64"}} }

// imxcrypt runs the program, with the scenario's configuration if it has one.
func (x *bench) imxcrypt(args ...string) vm.Result {
	x.t.Helper()
	return x.Run(x.command(args...)...)
}

func (x *bench) command(args ...string) []string {
	return slices.Concat([]string{x.program}, x.global, args)
}

// expect runs the program and checks its exit code and that either stream contains a
// text.
func (x *bench) expect(code int, text string, args ...string) vm.Result {
	x.t.Helper()
	r := x.imxcrypt(args...)
	if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, text) {
		x.t.Fatalf("imxcrypt %s: expected exit code %d and %q, got %v", strings.Join(args, " "), code, text, r)
	}
	x.t.Logf("%s: exit %d in %v\n%s%s", strings.Join(args, " "), r.Code, r.Duration, r.Stdout, r.Stderr)
	return r
}

// configure writes the configuration: one volume, called data, on the device and
// mounted in the scenario's folder, with additional lines of YAML for the volume.
func (x *bench) configure(device string, more ...string) {
	x.t.Helper()
	x.configureText(x.volume("data", device, append([]string{"mount: " + x.dir + "/mnt"}, more...)...))
}

func (x *bench) volume(name, device string, more ...string) string {
	lines := append([]string{"name: " + name, "device: " + device, "timeout: 1s"}, more...)
	return "  - " + strings.Join(lines, "\n    ") + "\n"
}

// configureText writes a configuration with the given volumes and other top-level
// lines.
func (x *bench) configureText(volumes string, more ...string) {
	x.t.Helper()
	path := x.dir + "/imxcrypt.yaml"
	x.global = []string{"--config", path}
	x.Put(path, []byte(strings.Join(more, "\n")+"\nvolumes:\n"+volumes))
}

// loop makes a loop device from an image in the scenario's folder. It makes an image of
// 8 MiB if there is none yet. The options are passed to losetup.
func (x *bench) loop(image string, options ...string) string {
	x.t.Helper()
	file := x.image(image)
	return strings.TrimSpace(x.MustSh("[ -e " + file + " ] || truncate -s 8M " + file +
		"; losetup --find --show " + strings.Join(options, " ") + " " + file))
}

func (x *bench) image(name string) string { return filepath.Join(x.dir, name+".img") }

// provisioned returns a loop device with a provisioned, locked volume that holds the
// file fox.
func (x *bench) provisioned(image string, options ...string) string {
	x.t.Helper()
	device := x.loop(image, options...)
	x.configure(device)
	x.expect(0, "mounted on", "provision", "data")
	x.MustSh("echo 'the quick brown fox' > " + x.dir + "/mnt/fox")
	x.expect(0, "locked", "lock", "data")
	return device
}

// fox reads back what provisioned wrote.
func (x *bench) fox() {
	x.t.Helper()
	if got := x.Sh("cat " + x.dir + "/mnt/fox").Stdout; got != "the quick brown fox\n" {
		x.t.Fatalf("the file came back as %q", got)
	}
}

// chip sets a parameter of the simulated chip, and restores it to back at the end of
// the test unless back is empty.
func (x *bench) chip(name, value, back string) {
	x.t.Helper()
	set := func(v string) string {
		return "echo " + v + " > /sys/module/imxcrypt_simcaam/parameters/" + name
	}
	x.MustSh(set(value))
	if back != "" {
		x.t.Cleanup(func() { x.Sh(set(back)) })
	}
}

// powerCycle makes every black key useless, as a power cycle does.
func (x *bench) powerCycle() {
	x.t.Helper()
	x.chip("jdkek_reset", "1", "")
}

// patience is how long to wait, on a busy host, for something that another process does
// soon.
func (x *bench) patience() time.Duration { return time.Minute }
