// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imxcrypt/internal/fault"
)

func TestUnlockRecordsAreKeptUntilPowerOff(t *testing.T) {
	t.Parallel()
	r := runRecords{filepath.Join(t.TempDir(), "imxcrypt")}
	if _, err := r.LastUnlock("data"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a record before there was an unlocking: %v", err)
	}
	want := LastUnlock{UUID: "0a", Generation: 2, At: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Took: 17 * time.Millisecond}
	for range 2 {
		if err := r.Record("data", want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.LastUnlock("data"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	info, err := os.Stat(r.path("data"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	failure := UnlockFailure{At: want.At, Code: fault.BlobRejected, Message: "no"}
	for _, f := range []*UnlockFailure{nil, &failure, &failure} {
		if err := r.RecordFailure("data", f); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.LastFailure("data"); err != nil || got != failure {
		t.Errorf("%+v, %v", got, err)
	}
	if err := r.RecordFailure("data", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.LastFailure("data"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failure after a success: %v", err)
	}
	if err := os.WriteFile(r.path("data"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.LastUnlock("data"); err == nil {
		t.Error("a damaged record was read")
	}
}
