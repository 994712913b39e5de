// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imxcrypt/internal/fault"
)

// Buildroot's init script calls the program as Buildroot's init calls the script,
// passes on each of the program's exit codes, and reports on the console what it did.
func TestInitScriptOfBuildroot(t *testing.T) {
	t.Parallel()
	const opening, closing = "Opening encrypted volumes", "Closing encrypted volumes"
	for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}} {
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(shell[0]); err != nil {
				t.Fatalf("%v: make setup installs it", err)
			}
			board := newInitScript(t, shell)
			for code := fault.ExitDone; code <= fault.ExitHeaderDamaged; code++ {
				result := fmt.Sprintf(": FAIL, exit code %d", code)
				if code == fault.ExitDone {
					result = ": OK"
				}
				board.does(code, "start", code, opening+"\nsays boot\n"+opening+result, "modprobe -q dm-crypt", "imxcrypt boot")
				board.does(code, "stop", code, closing+"\nsays lock --all\n"+closing+result, "imxcrypt lock --all")
			}
			for _, action := range []string{"restart", "reload"} {
				board.does(fault.ExitDone, action, fault.ExitDone, closing+"\nsays lock --all\n"+closing+": OK\n"+opening+"\nsays boot\n"+opening+": OK",
					"imxcrypt lock --all", "modprobe -q dm-crypt", "imxcrypt boot")
				// A volume that is still in use is not opened a second time.
				board.does(fault.ExitBusy, action, fault.ExitBusy, closing+"\nsays lock --all\n"+closing+": FAIL, exit code 5", "imxcrypt lock --all")
			}
			for _, action := range []string{"", "status"} {
				board.does(fault.ExitDone, action, 1, "Usage: "+board.script+" {start|stop|restart|reload}")
			}
			if _, err := os.Stat(filepath.Join(board.root, "dev/mapper")); err != nil {
				t.Error(err)
			}
			// A drop-in alone is a configuration. Without any there is nothing to do.
			if err := os.Remove(filepath.Join(board.root, "etc/imxcrypt/imxcrypt.yaml")); err != nil {
				t.Fatal(err)
			}
			board.does(fault.ExitFailed, "start", fault.ExitDone, "")
			board.write("usr/lib/imxcrypt/imxcrypt.yaml.d/10-data.yaml", "")
			board.does(fault.ExitDone, "start", fault.ExitDone, opening+"\nsays boot\n"+opening+": OK", "modprobe -q dm-crypt", "imxcrypt boot")
		})
	}
}

// initScript is a folder that stands in for a board with the script.
type initScript struct {
	t            *testing.T
	shell        []string
	root, script string
}

func newInitScript(t *testing.T, shell []string) initScript {
	t.Helper()
	b := initScript{t: t, shell: shell, root: t.TempDir()}
	text := read(t, buildroot+"/package/imxcrypt/S12imxcrypt")
	for _, folder := range []string{"/etc/imxcrypt", "/usr/lib/imxcrypt", "/dev/mapper"} {
		if strings.Count(text, " "+folder) != 1 {
			t.Fatalf("%s is not there once", folder)
		}
		text = strings.Replace(text, " "+folder, " "+b.root+folder, 1)
	}
	b.script = b.write("etc/init.d/S12imxcrypt", text)
	b.write("etc/imxcrypt/imxcrypt.yaml", "")
	b.write("bin/modprobe", "#!/bin/sh\necho \"modprobe $*\" >>\"$CALLS\"\n")
	b.write("bin/imxcrypt", "#!/bin/sh\necho \"imxcrypt $*\" >>\"$CALLS\"\necho \"says $*\"\nexit \"$CODE\"\n")
	return b
}

func (b initScript) write(name, text string) string {
	b.t.Helper()
	path := filepath.Join(b.root, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = writeProgram(path, text)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return path
}

// does checks the exit code, the output and the commands of an action if the program
// exits with the given code.
func (b initScript) does(program fault.Exit, action string, want fault.Exit, says string, runs ...string) {
	b.t.Helper()
	calls := b.write("calls", "")
	argv := append(append([]string{}, b.shell...), b.script)
	if action != "" {
		argv = append(argv, action)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(b.root, "bin")+":"+os.Getenv("PATH"), "CALLS="+calls, fmt.Sprintf("CODE=%d", program))
	out, err := cmd.CombinedOutput()
	if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
		b.t.Fatal(err)
	}
	if got := fault.Exit(cmd.ProcessState.ExitCode()); got != want {
		b.t.Errorf("%q, program exit code %d: exit code %d, expected %d", action, program, got, want)
	}
	if got := strings.TrimSuffix(string(out), "\n"); got != says {
		b.t.Errorf("%q, program exit code %d: it says\n%s\nexpected\n%s", action, program, got, says)
	}
	ran, err := os.ReadFile(calls)
	if err != nil {
		b.t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(ran)), strings.Join(runs, "\n"); got != want {
		b.t.Errorf("%q, program exit code %d: it runs\n%s\nexpected\n%s", action, program, got, want)
	}
}
