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

// The script in docs/factory.md that times a production line runs in a board's shells.
// It records each step with its exit code, including steps that fail.
func TestTimesOfAProductionLine(t *testing.T) {
	t.Parallel()
	_, after, found := strings.Cut(read(t, "docs/factory.md"), "    #!/bin/sh\n    # line-times ")
	if !found {
		t.Fatal("docs/factory.md has no script")
	}
	var script strings.Builder
	script.WriteString("#!/bin/sh\n# ")
	for line := range strings.Lines(after) {
		if line == "\n" {
			break
		}
		script.WriteString(strings.TrimPrefix(line, "    "))
	}
	for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}} {
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{
				"line-times": script.String(),
				"imxcrypt":   "#!/bin/sh\necho \"$@\" >>calls\nif [ \"$1\" = verify ]; then exit 3; fi\n",
			} {
				if err := writeProgram(filepath.Join(dir, name), text); err != nil {
					t.Fatal(err)
				}
			}
			var said strings.Builder
			for _, when := range []string{"made", "opened"} {
				cmd := exec.Command(shell[0], append(shell[1:], "./line-times", when, "data")...)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				said.Write(out)
			}
			want := regexp.MustCompile(`^start,[\d.]+,0\nprovision,\d+\.\d\d,0\nbackup,\d+\.\d\d,0\nstart,[\d.]+,0\nboot,\d+\.\d\d,0\nverify,\d+\.\d\d,3\n$`)
			if !want.MatchString(said.String()) {
				t.Errorf("it says\n%s", said.String())
			}
			kept, err := os.ReadFile(filepath.Join(dir, "line-times.csv"))
			if err != nil || string(kept) != said.String() {
				t.Errorf("kept is %q, %v", kept, err)
			}
			called, err := os.ReadFile(filepath.Join(dir, "calls"))
			if want := "provision --all --require-closed --no-mount --json\nheader backup data /tmp/data.header\nboot\nverify --all\n"; err != nil || string(called) != want {
				t.Errorf("called was %q, %v, expected %q", called, err, want)
			}
		})
	}
}
