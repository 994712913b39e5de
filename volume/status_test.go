// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
	"imxcrypt/internal/blockdev"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/header"
	"imxcrypt/volume/mapping"
)

// A mapping is not the volume's merely because it has its name.
func TestStatusKnowsWhoseMappingItIs(t *testing.T) {
	t.Parallel()
	for name, uuid := range map[string]string{
		"of nobody we know":    "",
		"of LVM":               "LVM-8u2hXVj0mD1y",
		"of another volume":    dmcrypt.VolumeUUID("9f6f1c46-7a3c-4f7e-9d3b-0c1d2e3f4a5b", "data"),
		"of cryptsetup, plain": "CRYPT-PLAIN-data",
	} {
		b, _ := ready(t, newSpec())
		mapForeign(t, b, "data", uuid)
		st := b.Manager().Status(context.Background(), newSpec())
		if st.State != volume.Locked || st.Up() || st.Mapping != "" || st.Mounted {
			t.Errorf("%s: %+v", name, st)
		}
		refused(t, st.Err, fault.MappingMismatch)
	}
}

// noAnswer is a kernel that does not answer questions about its mappings.
type noAnswer struct {
	mapping.Mapper
	err error
}

func (n noAnswer) Info(string) (dmcrypt.Info, error) { return dmcrypt.Info{}, n.err }

func TestStatusWithoutDeviceMapper(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err   error
		state volume.State
		code  fault.Code
	}{
		// Without device-mapper nothing can be unlocked. Without permission to ask,
		// something may be.
		{&dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrNoDeviceMapper, Err: unix.ENOENT}, volume.Locked, fault.DMMissing},
		{&dmcrypt.Error{Op: "open the device-mapper", Kind: dmcrypt.ErrPermission, Err: unix.EACCES}, volume.Unknown, fault.PermissionMissing},
	} {
		b, _ := ready(t, newSpec())
		s := b.System()
		s.Mapper = noAnswer{s.Mapper, c.err}
		st := volume.New(s).Status(context.Background(), newSpec())
		if st.State != c.state || st.UUID == "" {
			t.Errorf("%v: %+v", c.err, st)
		}
		refused(t, st.Err, c.code)
	}
}

// closed is storage that only root may open.
type closed struct{ mapping.Devices }

func (closed) Open(path string, _ blockdev.Flags) (header.Device, error) {
	return nil, &blockdev.Error{Op: "open", Path: path, Code: fault.PermissionMissing, Err: unix.EACCES}
}

// A device that cannot be read is not absent.
func TestStatusOfADeviceThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	b, _ := ready(t, newSpec())
	s := b.System()
	s.Devices = closed{s.Devices}
	st := volume.New(s).Status(context.Background(), newSpec())
	refused(t, st.Err, fault.PermissionMissing)
	if st.State != volume.Unknown || st.Path == "" {
		t.Errorf("%+v", st)
	}
}
