// SPDX-License-Identifier: Apache-2.0

//go:build vm

package caam_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/caam"
	"imxcrypt/caam/caamtest"
	"imxcrypt/internal/secret"
)

// The tests here use the real system calls, and a driver that follows NXP's in layout,
// checks and errors: the module of test/simcaam. They change it, so none runs in
// parallel.

const parameters = "/sys/module/imxcrypt_simcaam/parameters/"

// set changes a parameter of the simulated chip until the test ends.
func set(t testing.TB, name, value, back string) {
	t.Helper()
	write := func(v string) {
		if err := os.WriteFile(parameters+name, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	write(value)
	if back != "" {
		t.Cleanup(func() { write(back) })
	}
}

// kept returns a parameter's current value.
func kept(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(parameters + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func open(t testing.TB) *caam.Ioctl {
	t.Helper()
	e, err := caam.OpenIoctl("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// otherChip creates keys as a chip with another OTPMK would.
type otherChip struct {
	caamtest.Engine
	otpmk, other string
}

func (o otherChip) Create(ctx context.Context, w caam.Wrap, n int) (*caam.BlackKey, caam.Blob, error) {
	if err := os.WriteFile(parameters+"otpmk", []byte(o.other), 0); err != nil {
		return nil, nil, err
	}
	key, blob, err := o.Engine.Create(ctx, w, n)
	return key, blob, errors.Join(err, os.WriteFile(parameters+"otpmk", []byte(o.otpmk), 0))
}

func TestIoctlOverTheDriver(t *testing.T) {
	caamtest.TestEngine(t, caamtest.Suite{
		Open: func(t testing.TB) caamtest.Engine { return open(t) },
		Foreign: func(t testing.TB) caamtest.Engine {
			return otherChip{open(t), kept(t, "otpmk"), strings.Repeat("c5", 32)}
		},
	})
}

func TestProgramOverTheDriver(t *testing.T) {
	caamtest.TestEngine(t, caamtest.Suite{
		Open: func(t testing.TB) caamtest.Engine { return install(t, fake{Device: caam.DefaultDevice}) },
		Foreign: func(t testing.TB) caamtest.Engine {
			return otherChip{open(t), kept(t, "otpmk"), strings.Repeat("5c", 32)}
		},
		NoRedKeys: true,
		NoErrno:   true,
		Costly:    true,
	})
}

// Each engine opens what the other made.
func TestEnginesUnderstandEachOther(t *testing.T) {
	ctx := context.Background()
	ioctl, program := open(t), install(t, fake{Device: caam.DefaultDevice})
	for _, c := range []struct{ from, to caamtest.Engine }{{ioctl, program}, {program, ioctl}} {
		made, blob, err := c.from.Create(ctx, caam.ECB, 24)
		if err != nil {
			t.Fatal(err)
		}
		opened, err := c.to.Import(ctx, blob)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(made.Bytes(), opened.Bytes()) {
			t.Error("another key")
		}
		made.Wipe()
		opened.Wipe()
	}
}

func TestPowerCycleMakesOtherBlackKeys(t *testing.T) {
	ctx := context.Background()
	e := open(t)
	made, blob, err := e.Create(ctx, caam.ECB, 32)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Wipe()
	set(t, "jdkek_reset", "1", "")
	opened, err := e.Import(ctx, blob)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Wipe()
	if bytes.Equal(made.Bytes(), opened.Bytes()) {
		t.Error("the black key is the same after a power cycle")
	}
}

func TestClosingTheChipRejectsWhatWasMadeOpen(t *testing.T) {
	ctx := context.Background()
	e := open(t)
	was := kept(t, "closed")
	set(t, "closed", "0", was)
	if s := caam.ReadSecurityState("", nil); s.State != caam.Open {
		t.Errorf("open: %+v", s)
	}
	key, blob, err := e.Create(ctx, caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	set(t, "closed", "1", was)
	if s := caam.ReadSecurityState("", nil); s.State != caam.Closed || s.SoC == "" {
		t.Errorf("closed: %+v", s)
	}
	_, err = e.Import(ctx, blob)
	wantKind(t, err, caam.Rejected)
	if !errors.Is(err, unix.EBADMSG) {
		t.Errorf("%v", err)
	}
}

func TestMissingJobRingIsNamed(t *testing.T) {
	e := open(t)
	set(t, "no_job_ring", "1", "0")
	_, _, err := e.Create(context.Background(), caam.CCM, 32)
	wantKind(t, err, caam.NotInitialised)
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("%v", err)
	}
}

func TestHardwareFailuresKeepTheirErrno(t *testing.T) {
	e := open(t)
	key, blob, err := e.Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	set(t, "fail_creates", "1", "0")
	set(t, "fail_imports", "1", "0")
	_, _, err = e.Create(context.Background(), caam.CCM, 32)
	if got := wantKind(t, err, caam.Failed); !errors.Is(err, unix.EIO) || got.Text != "" {
		t.Errorf("create: %v", err)
	}
	_, err = e.Import(context.Background(), blob)
	if got := wantKind(t, err, caam.Failed); !errors.Is(err, unix.EIO) || got.Text != "" {
		t.Errorf("import: %v", err)
	}
	if key, err = e.Import(context.Background(), blob); err != nil {
		t.Errorf("after the failures: %v", err)
	}
	key.Wipe()
}

func TestKeyGivenToAnOldDriverIsWhole(t *testing.T) {
	e := open(t)
	set(t, "cstring_keys", "Y", "N")
	red, err := secret.New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer red.Wipe()
	for i := range red.Bytes() {
		red.Bytes()[i] = byte(255 - i)
	}
	key, blob, err := e.CreateFrom(context.Background(), caam.CCM, red)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if blob.RedKeyLen() != 32 {
		t.Errorf("sealed %d bytes", blob.RedKeyLen())
	}
	red.Bytes()[20] = 0
	_, _, err = e.CreateFrom(context.Background(), caam.CCM, red)
	wantKind(t, err, caam.Mismatch)
}

func TestIoctlLeavesNoCopyInMemory(t *testing.T) {
	e := open(t)
	key, blob, err := e.Create(context.Background(), caam.CCM, 32)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	onlyCopy(t, key)
	again, err := e.Import(context.Background(), blob)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Wipe()
	onlyCopy(t, again)
}
