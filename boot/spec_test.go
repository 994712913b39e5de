// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"reflect"
	"testing"
	"time"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/volume/spec"
)

// Every setting of a volume reaches package volume, except those that only affect the
// order of the boot.
func TestEverySettingReachesTheVolume(t *testing.T) {
	t.Parallel()
	// OnPlaintext arrives as EncryptPlain.
	ofBoot := map[string]bool{"AtBoot": true, "Required": true, "OnPlaintext": true}
	v := configs.Volume{
		Name: "data", Device: "/dev/sda", Size: 1 << 26, Source: configs.SourceDev, Key: configs.KeyEphemeral, Trusted: configs.Trusted{Source: "tpm"}, Protected: true, Wrap: configs.WrapECB, KeySize: 24, Cipher: "aes-xts-plain64", SectorSize: 512,
		Header: "/etc/data.header", HeaderSize: 1 << 16, Gap: 1 << 12, AllowDiscards: true, Grow: true, CryptFlags: []string{"same_cpu_crypt"}, AllowOpenState: true, AllowUnboundHeader: true, OnPlaintext: configs.EncryptPlaintext,
		UUID:       "0f5c7d1e-3b2a-4c8d-9e6f-a1b2c3d4e5f6",
		Filesystem: configs.Filesystem{Type: "xfs", Label: "l", UUID: configs.AnyUUID, Options: []string{"-q"}},
		Mount:      configs.Mount{Path: "/data", Options: []string{"ro"}},
		AtBoot:     true, Required: true, Timeout: time.Second,
	}
	c := &configs.Config{StateDir: "/keys", MappingPrefix: "board-", AllowInsecure: true}
	of := boot.Spec(c, v)
	carried(t, reflect.ValueOf(v), reflect.ValueOf(of), ofBoot)
	if of.Mapping != "board-data" || of.StateDir != "/keys" || !of.AllowInsecure || !of.EncryptPlain {
		t.Errorf("of the whole configuration: %+v", of)
	}
	v.Header = configs.HeaderOnDevice
	if of := boot.Spec(c, v); of.Header != spec.HeaderOnDevice || of.Detached() {
		t.Errorf("a header on the device: %q", of.Header)
	}
}

// Nothing writes to a read-only image, whatever the options say.
func TestImagesAreMountedReadOnly(t *testing.T) {
	t.Parallel()
	v := configs.Volume{Name: "slot", Device: "/dev/sda", Filesystem: configs.Filesystem{Type: "squashfs"}, Mount: configs.Mount{Path: "/slot", Options: []string{"nodev"}}}
	for range 2 {
		of := boot.Spec(&configs.Config{}, v)
		if want := []string{"ro", "nodev"}; !reflect.DeepEqual(of.Mount.Options, want) {
			t.Errorf("options %q, not %q", of.Mount.Options, want)
		}
		v.Mount.Options = of.Mount.Options
	}
}

// carried compares the fields with the same name; texts may have their own types.
func carried(t *testing.T, from, to reflect.Value, except map[string]bool) {
	t.Helper()
	for i := range from.NumField() {
		name, value := from.Type().Field(i).Name, from.Field(i)
		if except[name] {
			continue
		}
		if value.IsZero() {
			t.Errorf("%s: the test gives it no value", name)
		}
		got := to.FieldByName(name)
		switch {
		case !got.IsValid():
			t.Errorf("%s: no such field", name)
		case value.Kind() == reflect.Struct:
			carried(t, value, got, nil)
		case !got.CanConvert(value.Type()) || !reflect.DeepEqual(got.Convert(value.Type()).Interface(), value.Interface()):
			t.Errorf("%s is %v, not %v", name, got, value)
		}
	}
}
