// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/audit"
)

// listen opens a socket in place of the journal's.
func listen(t *testing.T) (path string, next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "audit") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); _ = os.RemoveAll(dir) })
	return path, func() string {
		buf := make([]byte, 64<<10)
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestEventsAreFields(t *testing.T) {
	t.Parallel()
	path, next := listen(t)
	j := audit.Journal{Path: path}
	err := j.Send(audit.Event{
		Operation: "provision", Volume: "data", Device: "/dev/mmcblk2p3", UUID: "6a3b", Generation: 1, SecurityState: "closed",
		Result: "done", Took: 1500 * time.Microsecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `MESSAGE=provision data: done
MESSAGE_ID=` + audit.MessageID + `
PRIORITY=5
SYSLOG_IDENTIFIER=imxcrypt
IMXCRYPT_OPERATION=provision
IMXCRYPT_VOLUME=data
IMXCRYPT_DEVICE=/dev/mmcblk2p3
IMXCRYPT_UUID=6a3b
IMXCRYPT_GENERATION=1
IMXCRYPT_SECURITY_STATE=closed
IMXCRYPT_RESULT=done
IMXCRYPT_DURATION_USEC=1500
`
	if got := next(); got != want {
		t.Errorf("%q", got)
	}

	// A value with a line feed cannot forge another field.
	if err := j.Send(audit.Event{Operation: "unlock", Volume: "data", Result: "failed", Detail: "x\nIMXCRYPT_RESULT=done"}); err != nil {
		t.Fatal(err)
	}
	got := next()
	length := len("unlock data: failed: x\nIMXCRYPT_RESULT=done")
	if !strings.HasPrefix(got, "MESSAGE\n"+string([]byte{byte(length), 0, 0, 0, 0, 0, 0, 0})+"unlock data: failed: x\nIMXCRYPT_RESULT=done\n") {
		t.Errorf("%q", got)
	}
	if !strings.Contains(got, "PRIORITY=3\n") {
		t.Errorf("a failure is no error: %q", got)
	}
}

func TestWithoutAJournalNothingHappens(t *testing.T) {
	t.Parallel()
	e := audit.Event{Operation: "lock", Volume: "data", Result: "done"}
	for _, path := range []string{"", filepath.Join(t.TempDir(), "absent")} {
		if err := (audit.Journal{Path: path}).Send(e); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	path, _ := listen(t)
	e.Volume = strings.Repeat("x", 9000)
	if err := (audit.Journal{Path: path}).Send(e); err == nil {
		t.Error("a message of any length was sent")
	}
}
