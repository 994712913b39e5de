// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

// rotateShown shows a rotation of 64 MiB that moves 1 MiB in each of n steps.
func rotateShown(a *app, terminal bool, step time.Duration, n int) {
	p := a.newRotationProgress("data", "under the new key")
	now := p.begun
	p.now = func() time.Time { return now }
	p.terminal = p.terminal || terminal
	for i := range n {
		now = now.Add(step)
		p.moved(volume.Rotation{Done: int64(i+1) << 20, Total: 64 << 20, Generation: 2, Held: 40 * time.Millisecond})
	}
	p.end()
}

func quietApp() (*app, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	return &app{stdout: &out, stderr: &err, getenv: func(string) string { return "" }}, &out, &err
}

// A program gets a JSON line at most every fifth of a second, and a last one.
func TestRotationEvents(t *testing.T) {
	t.Parallel()
	a, out, stderr := quietApp()
	a.json = true
	rotateShown(a, false, 100*time.Millisecond, 64)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 25 || len(lines) > 40 || stderr.Len() > 0 {
		t.Fatalf("%d lines, and on stderr %q", len(lines), stderr)
	}
	last := int64(0)
	for _, line := range lines {
		var e struct {
			Event, Volume    string
			Done, Total      int64
			BytesPerSecond   int64 `json:"bytes_per_second"`
			LeftMilliseconds int64 `json:"left_ms"`
			HeldMilliseconds int64 `json:"held_ms"`
		}
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Event != "progress" || e.Volume != "data" || e.Done <= last || e.Total != 64<<20 || e.HeldMilliseconds != 40 {
			t.Fatalf("%s", line)
		}
		// 1 MiB in a tenth of a second; the first one is not counted.
		if e.BytesPerSecond > 10<<20 || e.BytesPerSecond < 5<<20 || e.LeftMilliseconds > 12000 {
			t.Fatalf("the rate is wrong: %s", line)
		}
		last = e.Done
	}
	if last != 64<<20 {
		t.Errorf("the last event is at %d", last)
	}
}

// On a terminal one line is redrawn, and ended with a newline.
func TestRotationBar(t *testing.T) {
	t.Parallel()
	a, out, stderr := quietApp()
	rotateShown(a, true, 250*time.Millisecond, 32)
	text := stderr.String()
	if out.Len() > 0 || strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		t.Fatalf("%q", text)
	}
	drawn := strings.Split(strings.TrimSpace(text), "\r")
	end := drawn[len(drawn)-1]
	if half := strings.Repeat("#", barWidth/2) + strings.Repeat("-", barWidth/2); !strings.Contains(end, "data ["+half+"]") ||
		!strings.Contains(end, " 50 %") || !strings.Contains(end, "/s") || !strings.Contains(end, "left") {
		t.Errorf("half-way it shows %q", end)
	}
}

// A log gets a line every half minute.
func TestRotationInALog(t *testing.T) {
	t.Parallel()
	a, out, stderr := quietApp()
	rotateShown(a, false, 10*time.Second, 32)
	if n := strings.Count(stderr.String(), "\n"); n < 9 || n > 11 || out.Len() > 0 || strings.Contains(stderr.String(), "\r") {
		t.Errorf("%d lines in 320 s:\n%s", n, stderr)
	}
	if !strings.Contains(stderr.String(), "data: 31 of 64 MiB under the new key") {
		t.Errorf("%s", stderr)
	}
}

// A terminal is detected, but JSON is written even to a terminal.
func TestTerminalIsKnown(t *testing.T) {
	t.Parallel()
	terminal := openTerminal(t)
	a, _, _ := quietApp()
	a.stderr = terminal
	if !a.newRotationProgress("data", "under the new key").terminal {
		t.Error("a terminal is not known")
	}
	a.json = true
	if a.newRotationProgress("data", "under the new key").terminal {
		t.Error("a bar would be drawn between events")
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a.stderr, a.json = null, false
	if a.newRotationProgress("data", "under the new key").terminal {
		t.Error("/dev/null is taken for a terminal")
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"": 0, "512": 512, "512KiB": 512 << 10, "8MiB": 8 << 20, "8M": 8 << 20, "1GiB": 1 << 30, "1TiB": 1 << 40} {
		if got, err := (rotateFlags{rateLimit: text}).rate(); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"0", "-1", "8MB", "MiB", "1.5MiB", "9999999999GiB"} {
		if got, err := (rotateFlags{rateLimit: text}).rate(); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	if _, err := (rotateFlags{maxHold: -time.Millisecond}).rate(); !fault.Is(err, fault.Usage) {
		t.Errorf("a negative --max-hold: %v", err)
	}
}

// Commands that move data are stopped: rotations and in-place operations, but not another
// command on a volume with the name rotate.
func TestWhatRotates(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"imxcrypt rotate data":                                       true,
		"/usr/bin/imxcrypt rotate --resume-only rotate":              true,
		"imxcrypt --config /etc/x.yaml rotate data":                  true,
		"imxcrypt -c rotate --verbose rotate --rate-limit 1MiB data": true,
		"imxcrypt --log-level=debug rotate data":                     true,
		"imxcrypt encrypt data":                                      true,
		"imxcrypt encrypt --rate-limit 1MiB data":                    true,
		"imxcrypt decrypt --yes data":                                true,
		"imxcrypt status encrypt":                                    false,
		"imxcrypt unlock rotate":                                     false,
		"imxcrypt lock --all rotate":                                 false,
		"imxcrypt provision rotate":                                  false,
		"imxcrypt --config rotate unlock data":                       false,
		"imxcrypt -c rotate unlock rotate":                           false,
		"imxcrypt header restore rotate rotate":                      false,
		"imxcrypt":                                                   false,
		"":                                                           false,
	} {
		if got := rotates(line); got != want {
			t.Errorf("%q rotates: %v", line, got)
		}
	}
}

func TestADurationWithoutAUnit(t *testing.T) {
	t.Parallel()
	var stderr strings.Builder
	code := run(t.Context(), []string{"rotate", "--max-hold", "5", "data"}, strings.NewReader(""), io.Discard, &stderr, func(string) string { return "" })
	if want := `invalid argument "5" for "--max-hold" flag: a duration is a number with ms, s, m or h, as in 100ms`; code != int(fault.ExitUsage) || !strings.Contains(stderr.String(), want) {
		t.Errorf("exit %d, and says %q", code, stderr.String())
	}
}
