// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sleep scripts call the program as systemd-sleep, elogind and pm-utils call them:
// only to restore the keys afterwards, and only if there is a configuration.
func TestSleepHooksCallTheProgram(t *testing.T) {
	t.Parallel()
	const program = "/usr/bin/imxcrypt"
	hook, module := read(t, "packaging/systemd/system-sleep/imxcrypt"), read(t, "packaging/pm-utils/imxcrypt")
	for _, c := range []struct {
		name, script, run string
		configured        bool
		fails             bool
		called            string
	}{
		{"systemd-sleep and elogind, before", hook, `. "$script"`, true, false, ""},
		{"systemd-sleep and elogind, after", hook, `set -- post suspend; . "$script"`, true, false, "sleep resume"},
		{"elogind, after a hibernation", hook, `set -- post hibernate; . "$script"`, true, false, "sleep resume"},
		{"elogind, before", hook, `set -- pre suspend; . "$script"`, true, false, ""},
		{"pm-utils, before", hook, `set -- suspend suspend; . "$script"`, true, false, ""},
		{"pm-utils, after", hook, `set -- resume suspend; . "$script"`, true, false, "sleep resume"},
		{"pm-utils, after a hibernation", hook, `set -- thaw hibernate; . "$script"`, true, false, "sleep resume"},
		{"not configured", hook, `set -- post suspend; . "$script"`, false, false, ""},
		{"a drop-in alone", strings.ReplaceAll(hook, "/etc/imxcrypt", "$root"), `set -- post suspend; root=${script%/*}; mkdir $root/imxcrypt.yaml.d; echo >$root/imxcrypt.yaml.d/10-data.yaml; . "$script"`, false, false, "sleep resume"},
		{"a failure is handed on", hook, `set -- post suspend; . "$script"`, true, true, "sleep resume"},
		{"module of pm-utils, read", module, `. "$script"`, true, false, ""},
		{"module of pm-utils", module, `. "$script"; do_suspend`, true, false, "sleep suspend"},
		{"module of pm-utils, a failure", module, `. "$script"; do_suspend`, true, true, "sleep suspend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			stub, script, calls, config := filepath.Join(dir, "imxcrypt"), filepath.Join(dir, "script"), filepath.Join(dir, "calls"), filepath.Join(dir, "imxcrypt.yaml")
			if strings.Count(c.script, program) != 1 {
				t.Fatalf("%s is not called once", program)
			}
			code := "0"
			if c.fails {
				code = "3"
			}
			files := map[string]string{
				stub: "echo \"$@\" >>" + calls + "\nexit " + code + "\n", calls: "",
				script: strings.Replace(c.script, program, "sh "+stub, 1),
			}
			if c.configured {
				files[config] = ""
			}
			for name, text := range files {
				if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("/bin/sh", "-c", c.run)
			cmd.Env = append(os.Environ(), "script="+script, "IMXCRYPT_CONFIG="+config)
			out, err := cmd.CombinedOutput()
			if (err != nil) != c.fails || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
			if got, err := os.ReadFile(calls); err != nil || strings.TrimSpace(string(got)) != c.called {
				t.Errorf("called with %q, expected %q (%v)", got, c.called, err)
			}
		})
	}
}
