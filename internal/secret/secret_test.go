// SPDX-License-Identifier: Apache-2.0

package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/internal/secret"
)

func newBuffer(t *testing.T, n int) *secret.Buffer {
	t.Helper()
	b, err := secret.New(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Wipe)
	return b
}

func TestBufferIsZeroedAndOfTheSizeAskedFor(t *testing.T) {
	t.Parallel()
	b := newBuffer(t, 96)
	if b.Len() != 96 || !bytes.Equal(b.Bytes(), make([]byte, 96)) {
		t.Fatalf("got %d bytes, %x", b.Len(), b.Bytes())
	}
	if cap(b.Bytes()) != 96 {
		t.Fatalf("an append could run over the end: capacity %d", cap(b.Bytes()))
	}
}

func TestWipeLeavesNothingAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	b := newBuffer(t, 16)
	copy(b.Bytes(), "0123456789abcdef")
	b.Wipe()
	b.Wipe()
	if b.Bytes() != nil || b.Len() != 0 {
		t.Fatalf("after Wipe: %d bytes", b.Len())
	}
	var none *secret.Buffer
	none.Wipe()
}

func TestTruncateClearsTheRest(t *testing.T) {
	t.Parallel()
	b := newBuffer(t, 8)
	whole := b.Bytes()
	copy(whole, "secretly")
	if err := b.Truncate(6); err != nil {
		t.Fatal(err)
	}
	if string(b.Bytes()) != "secret" || whole[6] != 0 || whole[7] != 0 {
		t.Fatalf("got %q, behind it %v", b.Bytes(), whole[6:])
	}
	if err := b.Truncate(7); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("growing: %v", err)
	}
}

func TestPrintingShowsNoSecret(t *testing.T) {
	t.Parallel()
	b := newBuffer(t, 16)
	copy(b.Bytes(), "0123456789abcdef")
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%#v", b), fmt.Sprintf("%+v", b)} {
		if s != "[secret]" {
			t.Errorf("printed as %q", s)
		}
	}
}

func TestEmptySecretIsRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, -1} {
		if _, err := secret.New(n); !errors.Is(err, unix.EINVAL) {
			t.Errorf("New(%d): %v", n, err)
		}
	}
}

// The kernel reports the mapping as locked (lo), not dumped (dd) and wiped on fork (wf).
func TestPagesAreLockedNotDumpedAndNotInherited(t *testing.T) {
	t.Parallel()
	b := newBuffer(t, 64)
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	start := fmt.Sprintf("%x-", addressOf(b.Bytes()))
	at := strings.Index(string(smaps), "\n"+start)
	if at < 0 {
		t.Fatalf("no mapping starts at %s", start)
	}
	flags := regexp.MustCompile(`VmFlags:(.*)`).FindStringSubmatch(string(smaps)[at:])[1]
	for _, want := range []string{" lo", " dd", " wf"} {
		if !strings.Contains(flags, want) {
			t.Errorf("flag%s missing in%s", want, flags)
		}
	}
}
