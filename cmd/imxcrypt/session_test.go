// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/configs"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/program"
	"imxcrypt/internal/secret"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// The files of testdata/sessions read like what a person sees at a terminal of
// a board without hardware (package volumetest):
//
//	# a comment
//	> WORD ARGUMENTS     something happens to the board, see session.happens
//	  a line indented by two spaces belongs to it
//	$ imxcrypt ARGUMENTS
//	what goes to stdout
//	2> what goes to stderr
//	= 3                  the exit code, unless it is 0
//
// What differs from run to run is replaced: see normalise. IMXCRYPT_UPDATE=1
// writes the files anew.
func TestSessions(t *testing.T) {
	t.Parallel()
	// The commands lock themselves in memory, which not every user may.
	if err := secret.Harden(); err != nil {
		t.Skipf("NOT TESTED: %v (root may, or `ulimit -l unlimited`)", err)
	}
	files, err := filepath.Glob("testdata/sessions/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newSession(t).replay(string(text))
			if os.Getenv("IMXCRYPT_UPDATE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(text); got != want {
				t.Errorf("%s: at %s\nIMXCRYPT_UPDATE=1 go test ./cmd/imxcrypt writes it anew", file, difference(want, got))
			}
		})
	}
}

// difference shows the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		a, b := at(w, i), at(g, i)
		if a != b {
			return fmt.Sprintf("line %d\nexpected %s\ngot      %s", i+1, a, b)
		}
	}
	return "no line"
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}

// session is a board and its terminal.
type session struct {
	t     *testing.T
	dir   string // /etc/imxcrypt of the session, and folder of key files
	board *volumetest.Board
	disks map[string]*volumetest.Disk
	names map[string]string // what was replaced by what
	// rotating are volumes that another process rotates.
	rotating []string
	alarms   []string
	env      map[string]string
}

func newSession(t *testing.T) *session {
	s := &session{t: t, dir: t.TempDir(), disks: map[string]*volumetest.Disk{}, names: map[string]string{}, env: map[string]string{}}
	s.board = volumetest.New(caamtest.RandomChip(), volumetest.NoFiles())
	return s
}

func (s *session) config() string { return filepath.Join(s.dir, "imxcrypt.yaml") }

// replay does what a session file says, and returns it with what happened.
func (s *session) replay(text string) string {
	var out strings.Builder
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		command, isCommand := strings.CutPrefix(line, "$ imxcrypt")
		event, isEvent := strings.CutPrefix(line, "> ")
		switch {
		case isCommand:
			out.WriteString(line + "\n")
			out.WriteString(s.run(strings.Fields(command)))
			for i+1 < len(lines) && isOutput(lines[i+1]) {
				i++
			}
		case isEvent:
			out.WriteString(line + "\n")
			var block strings.Builder
			for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  "); i++ {
				out.WriteString(lines[i+1] + "\n")
				block.WriteString(lines[i+1][2:] + "\n")
			}
			if err := s.happens(strings.Fields(event), block.String()); err != nil {
				s.t.Fatalf("%s: %v", line, err)
			}
		default:
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// isOutput tells a line that a command wrote, in an earlier run, from what the
// author of the session did.
func isOutput(line string) bool {
	return line != "" && !strings.HasPrefix(line, "$ ") && !strings.HasPrefix(line, "> ") && !strings.HasPrefix(line, "# ")
}

func (s *session) run(args []string) string {
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "/etc/imxcrypt", s.dir)
	}
	var stdout, stderr bytes.Buffer
	a := &app{
		sysRoot: s.dir,
		stdin:   strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		getenv: func(name string) string {
			if name == "IMXCRYPT_CONFIG" {
				return s.config()
			}
			return s.env[name]
		},
		cmdline: os.DevNull,
		system: func(_ *configs.Config, log *slog.Logger) volume.System {
			s.board.Log = log
			return s.board.System()
		},
		night: s,
	}
	code := a.run(context.Background(), args)
	var b strings.Builder
	for _, l := range s.lines(stdout.String()) {
		b.WriteString(l + "\n")
	}
	for _, l := range s.lines(stderr.String()) {
		b.WriteString(strings.TrimRight("2> "+l, " ") + "\n")
	}
	if code != 0 {
		fmt.Fprintf(&b, "= %d\n", code)
	}
	return b.String()
}

// lines are normalised output, an empty one shown as a dot: in a session an
// empty line ends the output.
func (s *session) lines(text string) []string {
	if text == "" {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(s.normalise(text), "\n"), "\n")
	for i, l := range lines {
		if l == "" {
			lines[i] = "."
		}
	}
	return lines
}

var (
	uuids     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	durations = regexp.MustCompile(`\([0-9.]+ ms\)`)
	tookNS    = regexp.MustCompile(`("took_(?:ns|ms)"):[\d.e+-]+`)
	times     = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	dates     = regexp.MustCompile(`on \d{4}-\d\d-\d\d\b`)
	goVersion = regexp.MustCompile(`go1\.[0-9.a-z]+`)
	platforms = regexp.MustCompile(`linux/[a-z0-9]+`)
)

// normalise replaces what differs from run to run: UUIDs by UUID-1, UUID-2, …
// in the order they are seen, durations by 0, times, the session's folder by
// /etc/imxcrypt, what Go built the test.
func (s *session) normalise(text string) string {
	text = strings.ReplaceAll(text, s.dir, "/etc/imxcrypt")
	text = uuids.ReplaceAllStringFunc(text, func(u string) string {
		if s.names[u] == "" {
			s.names[u] = fmt.Sprintf("UUID-%d", len(s.names)+1)
		}
		return s.names[u]
	})
	text = durations.ReplaceAllString(text, "(0 ms)")
	text = tookNS.ReplaceAllString(text, `$1:0`)
	text = times.ReplaceAllString(text, "TIME")
	text = dates.ReplaceAllString(text, "on DATE")
	text = goVersion.ReplaceAllString(text, "go1.x")
	return platforms.ReplaceAllString(text, "linux/arch")
}

// The session is a machine that sleeps for an instant, in which the chip's power
// is gone.

func (s *session) Bed() (bed, error)            { return s, nil }
func (s *session) Freeze(context.Context) error { return nil }
func (s *session) Thaw() error                  { return nil }
func (s *session) Sync()                        {}
func (s *session) Sleep() error                 { s.board.Chip.PowerCycle(); return nil }
func (s *session) Alarm(text string)            { s.alarms = append(s.alarms, text) }
func (s *session) Close() error                 { return nil }

func (s *session) Pause(_ context.Context, name string) (bool, error) {
	return slices.Contains(s.rotating, name), nil
}

func (s *session) GoOn(_ context.Context, name string) error {
	return fmt.Errorf("no systemd for %s here", name)
}

// happens does something to the board.
func (s *session) happens(words []string, block string) error {
	arg := func(i int) string { return at(words, i) }
	number := func(i int) int64 {
		n, err := strconv.ParseInt(arg(i), 0, 64)
		if err != nil {
			s.t.Fatalf("%v: %v", words, err)
		}
		return n
	}
	switch arg(0) {
	case "config": // the lines are the configuration
		return os.WriteFile(s.config(), []byte(block), 0o600)
	case "file": // NAME: the lines are a file beside it
		return os.WriteFile(filepath.Join(s.dir, arg(1)), []byte(block), 0o600)
	case "disk": // PATH MIB: a new, empty disk
		s.disks[arg(1)] = &volumetest.Disk{Path: arg(1), Store: crashtest.NewImage(number(2) << 20)}
		s.on()
	case "mkdir":
		s.board.Directories = append(s.board.Directories, arg(1))
	case "power-cycle":
		s.board.Chip.PowerCycle()
		s.on()
	case "other-chip": // the disks go into another board
		s.board.Chip = caamtest.RandomChip()
		s.on()
	case "open-chip":
		s.board.Chip, s.board.State = caamtest.NewChip([32]byte{1}, false), caam.Open
		s.on()
	case "close-chip":
		s.board.Chip.BurnFuse()
		s.board.State = caam.Closed
	case "unknown-chip": // no fuses to be seen
		s.board.State = caam.Unknown
	case "noise": // PATH OFFSET LENGTH
		b := make([]byte, number(3))
		rand.New(rand.NewSource(1)).Read(b)
		_, err := s.disks[arg(1)].Store.WriteAt(b, number(2))
		return err
	case "flip": // PATH OFFSET: one bit
		b := []byte{0}
		d := s.disks[arg(1)].Store
		_, err := d.ReadAt(b, number(2))
		b[0] ^= 1
		_, err2 := d.WriteAt(b, number(2))
		return errors.Join(err, err2)
	case "pull": // PATH: the disk is gone
		s.disks[arg(1)].Absent = true
	case "plug": // PATH
		s.disks[arg(1)].Absent = false
	case "swap": // PATH PATH: the disks change places
		a, b := s.disks[arg(1)], s.disks[arg(2)]
		a.Store, b.Store = b.Store, a.Store
		s.on()
	case "read-only": // PATH
		s.disks[arg(1)].ReadOnly = true
	case "mounted": // PATH DIRECTORY: somebody has the disk mounted
		s.disks[arg(1)].Users = blockdev.Users{Mounts: []blockdev.Mounted{{Device: filepath.Base(arg(1)), Target: arg(2)}}}
	case "mkfs-fails":
		s.board.Mkfs = func(fstype, _ string) error {
			return &program.ExitError{Name: "mkfs." + fstype, Code: 1, Output: []byte("no room for a journal\n")}
		}
	case "mkfs-works":
		s.board.Mkfs = nil
	case "caam-fails": // ERRNO of every request
		errno := map[string]error{"EIO": unix.EIO, "ENODEV": unix.ENODEV, "ENOMEM": unix.ENOMEM}[arg(1)]
		s.board.Chip.SetFault(func(string) error { return errno })
	case "caam-works":
		s.board.Chip.SetFault(nil)
	case "rotating": // NAME: another process rotates it
		s.rotating = append(s.rotating, arg(1))
	case "env": // NAME VALUE
		s.env[arg(1)] = arg(2)
	default:
		return errors.New("not known")
	}
	return nil
}

// on turns the board on, with the disks there are.
func (s *session) on() {
	var disks []*volumetest.Disk
	for _, d := range s.disks {
		disks = append(disks, d)
	}
	b := volumetest.New(s.board.Chip, s.board.Files, disks...)
	b.State, b.Directories, b.Mkfs = s.board.State, s.board.Directories, s.board.Mkfs
	s.board = b
}
