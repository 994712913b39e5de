// SPDX-License-Identifier: Apache-2.0

//go:build vm

package dmcrypt_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	devmapper "github.com/anatol/devmapper.go"
	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// These tests pin down what the kernel and the library do, where the design depends on
// it. They do not test this package.

// foreign makes a mapping with dmsetup, as another program would.
func foreign(t *testing.T, m *dmcrypt.Mapper, table string) {
	t.Helper()
	cmd := exec.Command("dmsetup", "create", name, "--table", table)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DM_DISABLE_UDEV=1"}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dmsetup: %v: %s", err, text)
	}
	t.Cleanup(func() {
		if err := m.RemoveLater(name); err != nil {
			t.Error(err)
		}
	})
}

// Our notation is the same as dmsetup's.
func TestPremiseNotationIsDmsetups(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	c := xts(n)
	c.Options = []string{"allow_discards", "same_cpu_crypt", "submit_from_crypt_cpus", "no_read_workqueue", "no_write_workqueue", "sector_size:4096", "iv_large_sectors"}
	activate(t, m, dmcrypt.Table{c})
	out, err := exec.Command("dmsetup", "table", name).Output()
	want := dmcrypt.Table{c}.String()
	if err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("dmsetup prints %q (%v), we %q", out, err, want)
	}
}

// Where a key may be for the kernel to find it when a table is loaded. The user's keyring
// is searched only from a process without a session keyring (as in an initramfs), by way
// of the user-session keyring, and never in a service or a shell: a key there works on
// the developer's console or at boot, but not in both. The thread's own keyring works
// everywhere.
func TestPremiseWhereKeysAreFound(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	for _, c := range []struct {
		what    string
		ring    int
		session bool
		found   bool
	}{
		{"thread keyring", unix.KEY_SPEC_THREAD_KEYRING, false, true},
		{"thread keyring, with a session", unix.KEY_SPEC_THREAD_KEYRING, true, true},
		{"session keyring", unix.KEY_SPEC_SESSION_KEYRING, true, true},
		{"user keyring, without a session", unix.KEY_SPEC_USER_KEYRING, false, true},
		{"user keyring, with a session", unix.KEY_SPEC_USER_KEYRING, true, false},
	} {
		done := make(chan struct{})
		go func() { // a separate thread, which ends with it and its keyrings
			defer close(done)
			runtime.LockOSThread()
			if c.session {
				if _, err := unix.KeyctlJoinSessionKeyring("imxcrypt-premise"); err != nil {
					t.Error(err)
					return
				}
			}
			id, err := unix.AddKey("logon", "imxcrypt:vm:1", bytes.Repeat([]byte("k"), 64), c.ring)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = m.Activate(t.Context(), name, "", dmcrypt.Table{xts(n)}, false)
			if c.found && err != nil || !c.found && !errors.Is(err, unix.ENOKEY) {
				t.Errorf("%s: %v", c.what, err)
			}
			if err == nil {
				if err := m.Remove(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
			if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, c.ring, 0, 0); err != nil {
				t.Error(err)
			}
		}()
		<-done
	}
}

// The kernel copies the key: a mapping continues to work when the key is gone, and a
// reload needs it again.
func TestPremiseTheKeyIsNeededWhileLoadingOnly(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	number := activate(t, m, dmcrypt.Table{xts(n)})
	path, err := m.DevicePath(name, number)
	if err != nil {
		t.Fatal(err)
	}
	h, err := open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	data := bytes.Repeat([]byte("data"), 1024)
	if _, err := h.WriteAt(data, 0); err != nil {
		t.Error(err)
	}
	if err := m.Load(t.Context(), name, dmcrypt.Table{xts(n)}, false); !errors.Is(err, dmcrypt.ErrNoKey) {
		t.Errorf("a reload without the key: %v", err)
	}
}

// If a mapping has a table, a new one is not compared with the device when it is loaded,
// but when it is resumed, and the mapping then stays suspended with the old table.
func TestPremiseATableTooLongIsTakenByALiveMapping(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	activate(t, m, dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: n}})
	long := devmapper.LinearTable{Length: 64 << 20, BackendDevice: n.String()}
	if err := devmapper.Load(name, 0, long); err != nil {
		t.Errorf("load: %v (Load's own check is not needed then)", err)
	}
	err := m.Resume(name, dmcrypt.Private, dmcrypt.SkipLockFS|dmcrypt.NoFlush)
	i, infoErr := m.Info(name)
	table, tableErr := m.Table(name)
	t.Logf("resume: %v; %+v, %v; %s, %v", err, i, infoErr, table, tableErr)
	if !errors.Is(err, unix.EINVAL) || !i.Suspended || i.Inactive || table.Sectors() != 64 {
		t.Errorf("resume: %v, then %+v with table %s: not what Swap undoes", err, i, table)
	}
	if err := m.Resume(name, dmcrypt.Private, 0); err != nil {
		t.Error(err)
	}
}

// The library silently cuts a name that is too long.
func TestPremiseLongNamesAreCut(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	long := name + strings.Repeat("n", dmcrypt.MaxName)
	err := devmapper.Create(long, "")
	cut := long[:dmcrypt.MaxName]
	if _, infoErr := m.Info(cut); infoErr != nil {
		cut = long[:dmcrypt.MaxName+1]
		t.Fatalf("create: %v; %s: %v", err, cut, infoErr)
	}
	if err := m.Remove(t.Context(), cut); err != nil {
		t.Error(err)
	}
}

// The kernel too refuses the sizes and offsets that Validate refuses; none of them is
// refused without need.
func TestPremiseTheKernelRefusesWhatValidateRefuses(t *testing.T) {
	_, n := loopDevice(t, 4<<20, false)
	m := newMapper(t, dmcrypt.Options{})
	for what, table := range map[string]devmapper.CryptTable{
		"length":    {Length: 2047 * 512},
		"iv offset": {Length: 2048 * 512, IVTweak: 3},
		"offset":    {Length: 2048 * 512, BackendOffset: 512},
	} {
		table.BackendDevice, table.Encryption, table.KeyID = n.String(), "aes-xts-plain64", ":64:logon:imxcrypt:vm:1"
		table.Flags = []string{"sector_size:4096"}
		if err := devmapper.Create(name, ""); err != nil {
			t.Fatal(err)
		}
		if err := withKey("imxcrypt:vm:1", bytes.Repeat([]byte("k"), 64), func() {
			err := devmapper.Load(name, 0, table)
			if err == nil {
				err = m.Resume(name, dmcrypt.Private, 0)
			}
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s of no whole sector: %v", what, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
}

// A read-only device below: what the kernel reports, and when.
func TestPremiseAReadOnlyDeviceBelow(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, true)
	_, err := m.Activate(t.Context(), name, "", dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: n}}, true)
	if err != nil {
		t.Errorf("a read-only mapping over it: %v", err)
	} else if err := m.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	number, err := m.Activate(t.Context(), name, "", dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: n}}, false)
	if errors.Is(err, dmcrypt.ErrDeviceReadOnly) {
		return // newer kernels refuse at load
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}()
	path, err := m.DevicePath(name, number)
	if err != nil {
		t.Fatal(err)
	}
	h, err := open(path, true)
	if err != nil {
		return
	}
	defer h.Close()
	if _, err := h.WriteAt(make([]byte, 4096), 0); err == nil {
		t.Error("it was written")
	} else {
		t.Logf("6.1 makes a writable mapping over it, and fails each write: %v", err)
	}
}

// A device without a size, such as a loop device without a file, is taken as large
// enough: the code that makes a table has to check the size.
func TestPremiseADeviceOfNoSizeIsTaken(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	activate(t, m, dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: dmcrypt.Number{Major: 7, Minor: 77}}})
}

// The kernel counts what is read and written through a mapping, and does not include what
// is read through a mapping below. So a rotation sees whether programs use its volume.
func TestPremiseRequestsAreCountedForEachMapping(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	below := activate(t, m, dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: n}})
	const top = name + "-top"
	above, err := m.Activate(t.Context(), top, "", dmcrypt.Table{dmcrypt.Linear{Length: 64, Device: below}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Remove(t.Context(), top); err != nil {
			t.Error(err)
		}
	}()
	count := func() string {
		text, err := os.ReadFile("/sys/dev/block/" + above.String() + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	through := func(name string, n dmcrypt.Number) {
		path, err := m.DevicePath(name, n)
		if err != nil {
			t.Fatal(err)
		}
		h, err := open(path, true)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		if _, err := h.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
	}
	through(top, above) // whatever looks at a new device has done so
	before := count()
	through(name, below)
	if after := count(); after != before {
		t.Errorf("what is written below counts: %q, then %q", before, after)
	}
	through(top, above)
	if after := count(); after == before {
		t.Errorf("what is written does not count: %q", after)
	}
}

// Without udev nothing makes /dev/mapper/NAME; devtmpfs makes /dev/dm-N at once.
func TestPremiseNodesWithoutUdev(t *testing.T) {
	m := newMapper(t, dmcrypt.Options{})
	_, n := loopDevice(t, 4<<20, false)
	if err := devmapper.CreateAndLoad(name, "", 0, devmapper.LinearTable{Length: 32768, BackendDevice: n.String()}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}()
	i, err := m.Info(name)
	if err != nil {
		t.Fatal(err)
	}
	path, err := m.DevicePath(name, i.Number)
	if err != nil || !strings.HasPrefix(path, "/dev/dm-") {
		t.Errorf("path %s, %v", path, err)
	}
	if h, err := open(m.Node(name), false); !errors.Is(err, unix.ENOENT) {
		t.Errorf("somebody made %s (%v, %v)", m.Node(name), h, err)
	}
}
