// SPDX-License-Identifier: Apache-2.0

//go:build vmhost

package scenario

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"imxcrypt/internal/fault"
	"imxcrypt/test/vm"
	"imxcrypt/volume/header"
	"imxcrypt/volume/volumetest"
)

// life is a volume on a real kernel. Commands are given in any order, and some are
// killed. The model is the one that checks the fake board.
type life struct {
	volumetest.Model
	*vm.Machine
	t      *testing.T
	rng    *rand.Rand
	device string
	// recipient is that of a recovery copy; empty for a volume without one.
	recipient string
	text      string // what the user last wrote and flushed
	history   []string

	kills, formats, rotations, boards int
}

func (l *life) fail(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s\n%+v; after:\n%s", fmt.Sprintf(format, args...), l.Model, strings.Join(l.history, "\n"))
}

func (l *life) note(format string, args ...any) {
	l.history = append(l.history, fmt.Sprintf(format, args...))
}

// command returns the arguments for one of the model's commands.
func (l *life) command(name string) []string {
	var recipients []string
	if l.recipient != "" {
		recipients = []string{"--recipient", l.recipient}
	}
	args := map[string][]string{
		volumetest.Provision:        append([]string{"provision", "data"}, recipients...),
		volumetest.ProvisionNoMount: append([]string{"provision", "--no-mount", "data"}, recipients...),
		volumetest.Unlock:           {"unlock", "data"},
		volumetest.UnlockAndMount:   {"unlock", "--mount", "data"},
		volumetest.Lock:             {"lock", "data"},
		volumetest.Verify:           {"verify", "data"},
		volumetest.Rotate:           {"rotate", "data"},
		volumetest.RotateKeyOnly:    {"rotate", "--init-only", "data"},
		volumetest.RotateResume:     {"rotate", "--resume-only", "data"},
		volumetest.Adopt:            {"adopt", "data", "--blob", "/caam/data.bb"},
		volumetest.Erase:            {"erase", "--yes", "data"},
	}[name]
	return append([]string{"imxcrypt", "--json", "-v"}, args...)
}

var codeInJSON = regexp.MustCompile(`"code":"([a-z0-9-]+)"`)

// codeOf returns the code with which a run ended.
func (l *life) codeOf(r vm.Result) fault.Code {
	l.t.Helper()
	if r.Code == 0 {
		return ""
	}
	found := codeInJSON.FindStringSubmatch(r.Stdout)
	if found == nil {
		l.fail("no code in %v", r)
	}
	return fault.Code(found[1])
}

// step does one thing at random.
func (l *life) step() {
	l.t.Helper()
	rotate, erase := l.rng.IntN(4) == 0, l.rng.IntN(5) == 0
	list := slices.DeleteFunc(l.Commands(), func(c volumetest.Command) bool {
		return strings.HasPrefix(c.Name, volumetest.Rotate) && !rotate || c.Name == volumetest.Erase && !erase
	})
	c := list[l.rng.IntN(len(list))]
	switch dice := l.rng.IntN(12); {
	case dice == 0:
		l.powerCycle()
	case dice <= 2 && l.recipient != "" && l.Phase == header.PhaseReady && !l.Rotating:
		l.otherBoard()
	case dice <= 3:
		l.kill(c)
	case dice <= 6 && l.Mounted:
		l.text = fmt.Sprint(l.rng.Uint64())
		l.note("write")
		l.MustSh("echo " + l.text + " > /data/note && sync -f /data/note")
	default:
		l.note("%s", c.Name)
		l.do(c, l.command(c.Name)...)
	}
	l.check()
}

// certainly brings the volume to a state in which it can change boards, and changes
// them: chance alone would often never get there.
func (l *life) certainly() {
	l.t.Helper()
	if l.Phase == header.PhaseErasing {
		l.plain(volumetest.Erase)
	}
	l.plain(volumetest.Provision)
	l.plain(volumetest.RotateResume)
	l.check()
	l.otherBoard()
	l.check()
}

// plain runs one of the model's commands.
func (l *life) plain(name string) {
	l.t.Helper()
	l.note("%s", name)
	for _, c := range l.Commands() {
		if c.Name == name {
			l.do(c, l.command(name)...)
		}
	}
}

// do runs a command and checks it. It reports whether the command ran to its end.
func (l *life) do(c volumetest.Command, argv ...string) (ended bool) {
	l.t.Helper()
	precious := l.Precious()
	r := l.Run(argv...)
	if strings.Contains(r.Stdout+r.Stderr, "ext4 made") {
		if l.formats++; precious {
			l.fail("%s formatted a volume that was ready: %v", c.Name, r)
		}
	}
	if r.Code == 137 {
		return false
	}
	code := l.codeOf(r)
	if !slices.Contains(c.Want, code) {
		l.fail("%s: code %q, not one of %q: %v", c.Name, code, c.Want, r)
	}
	if code != "" {
		return true
	}
	c.Done()
	switch {
	case c.Name == volumetest.Erase:
		l.text = ""
	case strings.HasPrefix(c.Name, volumetest.Rotate):
		l.rotations++
	}
	return true
}

// kill runs a command and kills it after some time; the system keeps running.
func (l *life) kill(c volumetest.Command) {
	l.t.Helper()
	after := l.rng.Float64()
	if slices.Contains([]string{volumetest.Unlock, volumetest.UnlockAndMount, volumetest.Lock, volumetest.Verify}, c.Name) {
		after /= 5
	}
	l.note("%s, killed after %.3f s", c.Name, after)
	script := fmt.Sprintf("%s & p=$!; sleep %.3f; kill -KILL $p 2>/dev/null; wait $p", strings.Join(l.command(c.Name), " "), after)
	if l.do(c, "sh", "-c", script) {
		return
	}
	l.kills++
	st := l.status()
	was := l.Phase
	if err := l.Interrupted(c.Name, st.phase()); err != nil {
		l.fail("%v", err)
	}
	if c.Name == volumetest.Erase && was != l.Phase {
		l.text = ""
	}
	l.Live, l.Mounted = st.Mapping != "", st.Mount.Mounted
	if l.Live && l.Phase == header.PhaseReady {
		// The next command releases what a killed rotation holds.
		l.note("unlock")
		if r := l.Run(l.command(volumetest.Unlock)...); r.Code != 0 {
			l.fail("unlock: %v", r)
		}
	}
}

// powerCycle is orderly: it locks the volume first.
func (l *life) powerCycle() {
	l.t.Helper()
	l.note("power cycle")
	if r := l.Run(l.command(volumetest.Lock)...); r.Code != 0 {
		l.fail("lock: %v", r)
	}
	l.MustSh("echo 1 > /sys/module/imxcrypt_simcaam/parameters/jdkek_reset")
	l.Live, l.Mounted = false, false
}

// otherBoard puts the disk into another board, which opens it once the key is resealed
// there.
func (l *life) otherBoard() {
	l.t.Helper()
	l.powerCycle()
	l.note("another board")
	l.boards++
	l.MustSh(fmt.Sprintf("echo %064x > /sys/module/imxcrypt_simcaam/parameters/otpmk", l.rng.Uint64()))
	if r := l.Run(l.command(volumetest.Unlock)...); l.codeOf(r) != fault.BlobRejected {
		l.fail("another chip opens the volume: %v", r)
	}
	fingerprint := l.MustSh("imxcrypt status --json data | sed -n 's/.*\"fingerprint\":\"\\([^\"]*\\).*/\\1/p'")
	for _, argv := range [][]string{
		{"imxcrypt", "recover", "--identity", "/run/key.txt", l.device},
		{"dmsetup", "remove", "recovered-data"},
		{"imxcrypt", "recover", "--identity", "/run/key.txt", "--reseal", "data", "--fingerprint", strings.TrimSpace(fingerprint)},
		l.command(volumetest.Unlock),
	} {
		if r := l.Run(argv...); r.Code != 0 {
			l.fail("%s: %v", strings.Join(argv, " "), r)
		}
	}
	l.Live = true
}

// seen is the output of status.
type seen struct {
	State, Phase, UUID, Mapping string
	Generation                  int
	Rotation                    *struct{}
	Mount                       struct{ Mounted bool }
}

// phase returns ready also while the key is being changed.
func (s seen) phase() header.Phase {
	switch {
	case s.State == "erasing":
		return header.PhaseErasing
	case s.Phase == string(header.PhaseRotating):
		return header.PhaseReady
	}
	return header.Phase(s.Phase)
}

func (l *life) status() seen {
	l.t.Helper()
	r := l.Run("imxcrypt", "status", "--json", "data")
	var status struct{ Volumes []seen }
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil || len(status.Volumes) != 1 {
		l.fail("status: %v, %v", err, r)
	}
	return status.Volumes[0]
}

// check compares the visible state with the model.
func (l *life) check() {
	l.t.Helper()
	st := l.status()
	if err := l.Seen(header.Phase(st.Phase), st.UUID, st.Generation, st.Rotation != nil, st.Mount.Mounted); err != nil {
		l.fail("%v", err)
	}
	if (st.Mapping != "") != l.Live {
		l.fail("mapping %q", st.Mapping)
	}
	if l.Mounted && l.text != "" {
		if got := strings.TrimSpace(l.MustSh("cat /data/note")); got != l.text {
			l.fail("data lost: %q, not %q", got, l.text)
		}
	}
}

// Commands in any order on a real kernel, some of them killed: each answers as the
// model predicts, nothing that was ready is formatted, and nothing is lost.
func TestAnyOrderOfCommands(t *testing.T) {
	t.Parallel()
	lives, steps := 1, 120
	if os.Getenv("IMXCRYPT_SOAK") != "" {
		lives, steps = 4, 500
	}
	var mu sync.Mutex
	var total life
	var lived int
	t.Cleanup(func() {
		if t.Failed() || lived < 2*lives { // a life was skipped, which is reported
			return
		}
		if total.formats == 0 || total.rotations == 0 || total.boards == 0 {
			t.Errorf("%d filesystems made, %d rotations, %d other boards: nothing was shown", total.formats, total.rotations, total.boards)
		}
		t.Logf("%d commands on a real kernel, %d of them killed; %d filesystems made, none on a volume that was ready; %d rotations; %d times on another board; nothing lost",
			2*lives*steps, total.kills, total.formats, total.rotations, total.boards)
	})
	for _, name := range []string{"adopted", "device"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := board{vm.AMD64, "amd64"}
			m := b.start(t, vm.NewDisk(t, 6<<20))
			for seed := range lives {
				l := newLife(t, m, name, uint64(seed))
				for n := range steps {
					l.step()
					if n == steps/2 && l.recipient != "" {
						l.certainly()
					}
				}
				m.MustRun("imxcrypt", "lock", "data")
				mu.Lock()
				lived++
				total.kills, total.formats = total.kills+l.kills, total.formats+l.formats
				total.rotations, total.boards = total.rotations+l.rotations, total.boards+l.boards
				mu.Unlock()
			}
		})
	}
}

// newLife begins with an empty disk, or with one filled by the recipe.
func newLife(t *testing.T, m *vm.Machine, name string, seed uint64) *life {
	t.Helper()
	l := &life{Machine: m, t: t, rng: rand.New(rand.NewPCG(seed, uint64(len(name)))), device: "/dev/vda"}
	l.Mounts = true
	l.note("%s, seed %d", name, seed)
	m.MustSh("mkdir -p /data; rm -rf /caam /var/lib/imxcrypt; blkdiscard -z " + l.device)
	if name == "adopted" {
		m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(fmt.Sprintf(adoptedVolume, "ccm", "capi:tk(cbc(aes))-plain64", 4096)))
		m.MustRun("imxcrypt", "key", "create", "data", "--dir", "/caam", "--wrap", "ccm")
		m.MustSh("FIRST=yes\nexport FIRST\n" + fmt.Sprintf(byHand, "capi:tk(cbc(aes))-plain64", 4096, "echo old > /mnt/note"))
		l.Recipe, l.text = true, "old"
		return l
	}
	m.Put("/etc/imxcrypt/imxcrypt.yaml", []byte(oneVolume))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	m.Put("/run/key.txt", []byte(id.String()+"\n"))
	l.recipient = id.Recipient().String()
	return l
}
