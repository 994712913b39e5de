// SPDX-License-Identifier: Apache-2.0

package klog_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"imxcrypt/internal/klog"
)

func TestParseRecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		want klog.Record
		bad  bool
	}{
		"a line of the device-mapper": {
			in: "3,612,4711081,-;device-mapper: table: 253:0: crypt: Error decoding and setting key (-EINVAL)\n",
			want: klog.Record{Priority: 3, Sequence: 612, Time: 4711081 * time.Microsecond,
				Text: "device-mapper: table: 253:0: crypt: Error decoding and setting key (-EINVAL)"},
		},
		"with a dictionary": {
			in:   "6,1,7,-;usb 1-1: new device\n SUBSYSTEM=usb\n DEVICE=c189:1\n",
			want: klog.Record{Priority: 6, Sequence: 1, Time: 7 * time.Microsecond, Text: "usb 1-1: new device"},
		},
		"with fields yet to come": {
			in:   "30,2,8,c,caller=T1,x;hello; world",
			want: klog.Record{Priority: 6, Facility: 3, Sequence: 2, Time: 8 * time.Microsecond, Text: "hello; world"},
		},
		"escapes stay escaped": {
			in:   `4,3,9,-;\x1b[31mred`,
			want: klog.Record{Priority: 4, Sequence: 3, Time: 9 * time.Microsecond, Text: `\x1b[31mred`},
		},
		"no semicolon":        {in: "3,612,4711081,-", bad: true},
		"two fields":          {in: "3,612;x", bad: true},
		"priority is no word": {in: "x,1,2,-;y", bad: true},
		"negative sequence":   {in: "3,-1,2,-;y", bad: true},
		"time overflows":      {in: "3,1,18446744073709551615,-;y", bad: true},
		"longer than a read":  {in: "3,1,2,-;" + strings.Repeat("x", 8192), bad: true},
		"empty":               {bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := klog.ParseRecord([]byte(c.in))
			if (err != nil) != c.bad || !c.bad && got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

// A file stands in for the device here: a read returns everything there is, and the
// parser takes the first record.
func TestSinceReturnsOnlyWhatCameAfterTheMark(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(path, []byte("3,1,1,-;before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := klog.Now(path)
	defer m.Close()
	if got := m.Since(nil); len(got) != 0 {
		t.Fatalf("records before anything was logged: %v", got)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, text := range []string{"one", "two"} {
		if _, err := fmt.Fprintf(f, "3,%d,2,-;%s\n", i+2, text); err != nil {
			t.Fatal(err)
		}
		got := m.Since(func(r klog.Record) bool { return r.Text != "two" })
		if want := 1 - i; len(got) != want {
			t.Errorf("after %q: %v, want %d records", text, got, want)
		}
	}
	m.Close()
	m.Close()
	if got := m.Since(nil); got != nil {
		t.Errorf("records after Close: %v", got)
	}
}

// A file stands in for the device: one read returns all of it.
func TestAllReadsWhatWasThereBefore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(path, []byte("4,7,1,-;caam 30900000.crypto: using insecure test key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := klog.All(path, nil); len(got) != 1 || got[0].Sequence != 7 {
		t.Errorf("got %v", got)
	}
	if got := klog.All(path, func(klog.Record) bool { return false }); len(got) != 0 {
		t.Errorf("kept %v", got)
	}
	if got := klog.All(path+".absent", nil); got != nil {
		t.Errorf("records of no log: %v", got)
	}
}

func TestALogThatCannotBeReadHasNoRecords(t *testing.T) {
	t.Parallel()
	m := klog.Now(filepath.Join(t.TempDir(), "absent"))
	defer m.Close()
	if got := m.Since(nil); got != nil {
		t.Errorf("got %v", got)
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, s := range []string{
		"3,612,4711081,-;device-mapper: table: 253:0: crypt: unknown (-EINVAL)\n",
		"6,1,7,-,caller=T1;text\n SUBSYSTEM=usb\n", ";", ",,;", "3,1,2,-;", "99999,1,2,-;x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := klog.ParseRecord(b)
		if err != nil {
			return
		}
		if r.Priority < 0 || r.Priority > 7 || r.Facility < 0 || r.Time < 0 || strings.Contains(r.Text, "\n") {
			t.Errorf("%q gave %+v", b, r)
		}
	})
}
