// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imxcrypt/boot"
	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/configs"
	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/crashtest"
	"imxcrypt/internal/fault"
	"imxcrypt/internal/mkfs"
	"imxcrypt/internal/mount"
	"imxcrypt/internal/program"
	"imxcrypt/internal/secret"
	"imxcrypt/luks2"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
	"imxcrypt/volume/volumetest"
)

// The files in testdata/sessions read like the terminal of a board without hardware
// (package volumetest):
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
// rewrites the files.
func TestSessions(t *testing.T) {
	t.Parallel()
	// The commands lock themselves in memory, which not every user is allowed to.
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
				t.Errorf("%s: at %s\nIMXCRYPT_UPDATE=1 go test ./cmd/imxcrypt rewrites it", file, difference(want, got))
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
	dir   string // the session's /etc/imxcrypt, and folder of key files
	board *volumetest.Board
	disks map[string]*volumetest.Disk
	names map[string]string // what was replaced by what
	// prints are the fingerprints and passphrases that were replaced; in arguments and
	// files they are put back.
	prints map[string]string
	// rotating are volumes that another process rotates.
	rotating []string
	alarms   []string
	// home is the first chip, saved are saved bytes of a disk, release releases a lock.
	home    *caamtest.Chip
	saved   []byte
	release func() error
	env     map[string]string
}

func newSession(t *testing.T) *session {
	s := &session{t: t, dir: t.TempDir(), disks: map[string]*volumetest.Disk{}, names: map[string]string{}, prints: map[string]string{}, env: map[string]string{}}
	s.home = caamtest.RandomChip()
	s.board = volumetest.New(s.home, volumetest.NoFiles())
	return s
}

func (s *session) config() string { return filepath.Join(s.dir, "imxcrypt.yaml") }

// replay runs a session file, and returns it with the actual output.
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

// isOutput reports whether a command wrote the line, in an earlier run, and not the
// author of the session.
func isOutput(line string) bool {
	return line != "" && !strings.HasPrefix(line, "$ ") && !strings.HasPrefix(line, "> ") && !strings.HasPrefix(line, "# ")
}

func (s *session) run(args []string) string {
	code, stdout, stderr := s.exec(args)
	var b strings.Builder
	for _, l := range s.lines(stdout) {
		b.WriteString(l + "\n")
	}
	for _, l := range s.lines(stderr) {
		b.WriteString(strings.TrimRight("2> "+l, " ") + "\n")
	}
	if code != 0 {
		fmt.Fprintf(&b, "= %d\n", code)
	}
	return b.String()
}

// exec runs the program once.
func (s *session) exec(args []string) (code int, out, errs string) {
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "/etc/imxcrypt", s.dir)
		for f, name := range s.prints {
			if args[i] == name {
				args[i] = f
			}
		}
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
		sleeping: s,
	}
	code = a.run(context.Background(), args)
	checkRun(s.t, args, code, stdout.String())
	return code, stdout.String(), stderr.String()
}

// lines returns normalised output, with a dot for an empty line, because in a session an
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
	prints    = regexp.MustCompile(`\b([0-9a-f]{4}-){7}[0-9a-f]{4}\b`)
	phrases   = regexp.MustCompile(`\b(?:[b-z][aiou][b-z][aiou][b-z]-){7}[b-z][aiou][b-z][aiou][b-z]\b`)
	durations = regexp.MustCompile(`\([0-9.]+ ms\)`)
	tookNS    = regexp.MustCompile(`("took_(?:ns|ms)"):[\d.e+-]+`)
	times     = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	mappings  = regexp.MustCompile(`(CRYPT-LUKS2)-[0-9a-f]{32}`)
	dates     = regexp.MustCompile(`on \d{4}-\d\d-\d\d\b`)
	goVersion = regexp.MustCompile(`go1\.[0-9.a-z]+`)
	kept      = regexp.MustCompile(`(/headers/[a-z]+)-[0-9a-f]{16}\.header`)
	shrinkLog = regexp.MustCompile(`-[0-9a-f]{16}\.shrink`)
	platforms = regexp.MustCompile(`linux/[a-z0-9]+`)
)

// noFingerprint is a fingerprint that no recovery copy has.
const noFingerprint = "0123-4567-89ab-cdef-0123-4567-89ab-cdef"

// normalise replaces what differs from run to run: UUIDs by UUID-1, UUID-2, …,
// fingerprints and passphrases likewise, in order of appearance, durations by 0, times,
// the session's folder by /etc/imxcrypt, and the Go version.
func (s *session) normalise(text string) string {
	text = strings.ReplaceAll(text, s.dir, "/etc/imxcrypt")
	text = uuids.ReplaceAllStringFunc(text, func(u string) string {
		if s.names[u] == "" {
			s.names[u] = fmt.Sprintf("UUID-%d", len(s.names)+1)
		}
		return s.names[u]
	})
	text = prints.ReplaceAllStringFunc(text, func(f string) string {
		if s.prints[f] == "" && f != noFingerprint {
			s.prints[f] = fmt.Sprintf("FINGERPRINT-%d", len(s.prints)+1)
		}
		return cmp.Or(s.prints[f], f)
	})
	text = phrases.ReplaceAllStringFunc(text, func(f string) string {
		if s.prints[f] == "" {
			s.prints[f] = fmt.Sprintf("PASSPHRASE-%d", len(s.prints)+1)
		}
		return s.prints[f]
	})
	text = durations.ReplaceAllString(text, "(0 ms)")
	text = tookNS.ReplaceAllString(text, `$1:0`)
	text = times.ReplaceAllString(text, "TIME")
	text = mappings.ReplaceAllString(text, "$1-UUID")
	text = dates.ReplaceAllString(text, "on DATE")
	text = kept.ReplaceAllString(text, "$1-HASH.header")
	text = shrinkLog.ReplaceAllString(text, "-HASH.shrink")
	text = goVersion.ReplaceAllString(text, "go1.x")
	return platforms.ReplaceAllString(text, "linux/arch")
}

// The session is a machine that sleeps for an instant, in which the chip loses power.

func (s *session) OpenMachine() (sleepMachine, error) { return s, nil }
func (s *session) Freeze(context.Context) error       { return nil }
func (s *session) Thaw() error                        { return nil }
func (s *session) Sync()                              {}
func (s *session) Sleep() error                       { s.board.Chip.PowerCycle(); return nil }
func (s *session) Alarm(text string)                  { s.alarms = append(s.alarms, text) }
func (s *session) Close() error                       { return nil }

func (s *session) PauseRotation(_ context.Context, name string) (bool, error) {
	return slices.Contains(s.rotating, name), nil
}

func (s *session) ResumeRotation(_ context.Context, name string) error {
	return fmt.Errorf("no systemd for %s here", name)
}

// happens performs an event on the board.
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
		path := filepath.Join(s.dir, arg(1))
		for f, name := range s.prints {
			block = strings.ReplaceAll(block, name, f)
		}
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(block), 0o600))
	case "disk": // PATH MIB: a new, empty disk
		s.disks[arg(1)] = &volumetest.Disk{Path: arg(1), Store: crashtest.NewImage(number(2) << 20)}
		s.on()
	case "mkdir":
		s.board.Directories = append(s.board.Directories, arg(1))
	case "power-cycle":
		s.board.Chip.PowerCycle()
		s.on()
	case "suspend": // suspend the system for a second
		s.board.Sleep(time.Second)
	case "other-chip": // the disks are moved to another board
		s.board.Chip = caamtest.RandomChip()
		s.on()
	case "open-chip":
		s.board.Chip, s.board.State = caamtest.NewChip([32]byte{1}, false), caam.Open
		s.on()
	case "close-chip":
		s.board.Chip.BurnFuse()
		s.board.State = caam.Closed
	case "unknown-chip": // the fuses cannot be read
		s.board.State = caam.Unknown
	case "noise": // PATH OFFSET LENGTH
		b := make([]byte, number(3))
		rand.New(rand.NewSource(1)).Read(b)
		_, err := s.disks[arg(1)].Store.WriteAt(b, number(2))
		return err
	case "zero": // PATH OFFSET LENGTH
		_, err := s.disks[arg(1)].Store.WriteAt(make([]byte, number(3)), number(2))
		return err
	case "write": // to the volume called data
		return s.marked(true)
	case "read": // what was written
		return s.marked(false)
	case "wipe-superblock": // of the volume called data
		f, err := s.board.Mapping("data", true)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(make([]byte, 4096), 0)
		return errors.Join(err, f.Close())
	case "fsck-fails": // the filesystem of the volume called data asks for its checker, which gives up
		s.board.Fsck = func(string, string) (bool, error) {
			return false, &program.ExitError{Name: "e2fsck", Code: 4, Output: []byte("UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n")}
		}
		f, err := s.board.Mapping("data", true)
		if err != nil {
			return err
		}
		sb := make([]byte, 1024)
		_, err = f.ReadAt(sb, 1024)
		sb[0x3a] |= 2 // s_state: errors were found
		binary.LittleEndian.PutUint32(sb[0x3fc:], ^crc32.Checksum(sb[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
		_, err2 := f.WriteAt(sb, 1024)
		return errors.Join(err, err2, f.Close())
	case "requirement", "member": // PATH NAME: the header has an unknown one
		store := s.disks[arg(1)].Store
		h, _, err := luks2.Read(store, store.Size())
		if err != nil {
			return err
		}
		if arg(0) == "requirement" {
			h.Require(arg(2))
		} else {
			h.Metadata.Tokens["0"].Extra[arg(2)] = json.RawMessage("true")
		}
		return h.Write(store)
	case "put": // PATH OFFSET TEXT: Go's escapes
		text, err := strconv.Unquote(`"` + arg(3) + `"`)
		_, err2 := s.disks[arg(1)].Store.WriteAt([]byte(text), number(2))
		return errors.Join(err, err2)
	case "save", "bring": // PATH OFFSET LENGTH: bytes are kept, and put back
		if arg(0) == "save" {
			s.saved = make([]byte, number(3))
			_, err := s.disks[arg(1)].Store.ReadAt(s.saved, number(2))
			return err
		}
		_, err := s.disks[arg(1)].Store.WriteAt(s.saved, number(2))
		return err
	case "resize": // PATH MIB
		old := s.disks[arg(1)].Store
		b := make([]byte, min(old.Size(), number(2)<<20))
		im := crashtest.NewImage(number(2) << 20)
		_, err := old.ReadAt(b, 0)
		_, err2 := im.WriteAt(b, 0)
		s.disks[arg(1)].Store = im
		s.on()
		return errors.Join(err, err2)
	case "io-error": // PATH: nothing can be read
		s.disks[arg(1)].Err = unix.EIO
	case "io-works": // PATH
		s.disks[arg(1)].Err = nil
	case "writable": // PATH
		s.disks[arg(1)].ReadOnly = false
	case "used": // PATH: as swap
		s.disks[arg(1)].Users = blockdev.Users{Swap: []string{filepath.Base(arg(1))}}
	case "unused": // PATH
		s.disks[arg(1)].Users = blockdev.Users{}
	case "fails-after": // N steps that change something, until "works"
		left := number(1)
		s.board.Step = func(string) error {
			if left--; left < 0 {
				return unix.EIO
			}
			return nil
		}
	case "fails-without": // PATH OFFSET TEXT: every step that changes something fails once TEXT is not at OFFSET, until "works"
		disk, at, text := s.disks[arg(1)].Store, number(2), []byte(arg(3))
		s.board.Step = func(string) error {
			b := make([]byte, len(text))
			if _, err := disk.ReadAt(b, at); err != nil || !bytes.Equal(b, text) {
				return errors.Join(unix.EIO, err)
			}
			return nil
		}
	case "works":
		s.board.Step = nil
	case "ext4": // PATH: an empty filesystem in plain text, over all of the disk
		store, file := s.disks[arg(1)].Store, filepath.Join(s.t.TempDir(), "ext4")
		mke2fs, err := mkfs.Maker{}.Programs.Find("mke2fs")
		if err != nil {
			return err
		}
		if out, err := exec.Command(mke2fs, "-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", file, fmt.Sprintf("%dk", store.Size()>>10)).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		b, err := os.ReadFile(file)
		_, err2 := store.WriteAt(b, 0)
		return errors.Join(err, err2)
	case "rotate", "encrypt", "decrypt": // data, without the program around it: that needs more rights
		c, err := configs.Options{AllowAnyOwner: true}.Load(s.config())
		if err != nil {
			return err
		}
		v, err := c.Volume("data")
		if err == nil {
			m := s.board.Manager()
			do := map[string]func(context.Context, spec.Volume, volume.RotateOptions) (volume.RotateResult, error){"rotate": m.Rotate, "encrypt": m.Encrypt, "decrypt": m.Decrypt}[arg(0)]
			_, err = do(context.Background(), boot.Spec(c, v), volume.RotateOptions{})
		}
		if s.board.Step != nil {
			return nil // cut off
		}
		return err
	case "home-chip": // the disks come back
		s.board.Chip = s.home
		s.on()
	case "mount": // MAPPING DIRECTORY
		return s.board.Mounts.Mount(arg(1), arg(2), "ext4", nil)
	case "unmount": // DIRECTORY
		return s.board.Unmount(arg(1))
	case "cover": // DIRECTORY: something else is mounted on it
		s.board.Cover(arg(1))
	case "uncover":
		s.board.Uncover(arg(1))
	case "remount": // DIRECTORY OPTION
		s.board.Change(arg(1), func(e *mount.Entry) { e.Options = []string{arg(2)} })
	case "rmdir":
		s.board.Directories = slices.DeleteFunc(s.board.Directories, func(d string) bool { return d == arg(1) })
	case "foreign-mapping": // NAME
		_, err := s.board.DM.Activate(context.Background(), arg(1), "LVM-x", dmcrypt.Table{dmcrypt.Fail{Length: 8}}, false)
		return errors.Join(err, s.board.DM.Announce(context.Background(), arg(1)))
	case "no-mapping": // NAME
		return s.board.DM.Remove(context.Background(), arg(1))
	case "suspended": // NAME
		return s.board.DM.Suspend(context.Background(), arg(1), 0)
	case "key-quota": // of the kernel is used up
		s.board.Ring.Err = fault.New(fault.KeyQuota, "add key", unix.EDQUOT)
	case "key-room":
		s.board.Ring.Err = nil
	case "lock-held": // NAME, by another imxcrypt
		var err error
		s.release, err = s.board.System().Locks.Acquire(context.Background(), arg(1))
		return err
	case "lock-free":
		return s.release()
	case "remove": // FILE of the board
		return s.board.Files.Remove(arg(1))
	case "new-root": // the board has another root filesystem
		s.board.Files = volumetest.NoFiles()
		s.on()
	case "flip": // PATH OFFSET: one bit
		b := []byte{0}
		d := s.disks[arg(1)].Store
		_, err := d.ReadAt(b, number(2))
		b[0] ^= 1
		_, err2 := d.WriteAt(b, number(2))
		return errors.Join(err, err2)
	case "answer": // SPECIFICATION PATH…: several disks answer to it
		s.board.Answers = map[string][]string{arg(1): words[2:]}
	case "no-targets": // NAME…: the kernel lacks them; without any it has all
		s.board.NoTargets = words[1:]
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
	case "mounted": // PATH DIRECTORY: the disk is mounted
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
	case "no-program": // NXP's, which makes the keys
		_, s.board.ChipErr = caam.OpenProgram(arg(1), "")
	case "program":
		s.board.ChipErr = nil
	case "rotating": // NAME: another process rotates it
		s.rotating = append(s.rotating, arg(1))
	case "env": // NAME VALUE
		s.env[arg(1)] = arg(2)
	default:
		return errors.New("not known")
	}
	return nil
}

// on turns the board on, with the disks that there are.
func (s *session) on() {
	var disks []*volumetest.Disk
	for _, d := range s.disks {
		disks = append(disks, d)
	}
	b := volumetest.New(s.board.Chip, s.board.Files, disks...)
	b.State, b.Directories, b.Mkfs = s.board.State, s.board.Directories, s.board.Mkfs
	s.board = b
}
