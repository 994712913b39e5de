// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"slices"
	"strings"
	"testing"

	"imxcrypt/boot"
)

// A volume in a file waits for the file's mount, not for a device, and for the volume
// whose mount contains the file; a volume whose file would be in its own mount is a
// mistake.
func TestAVolumeInAFileComesAfterItsMount(t *testing.T) {
	t.Parallel()
	c := parse(t, `
volumes:
  - {name: records, device: /data/records.img, mount: /srv/records}
  - {name: data, device: PARTLABEL=data, mount: /data}
`)
	p, err := boot.NewPlan(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := order(p); !slices.Equal(got, []string{"data", "records"}) {
		t.Errorf("order %v", got)
	}
	units, err := boot.Units(c, boot.UnitOptions{Program: "/usr/sbin/imxcrypt"})
	if err != nil {
		t.Fatal(err)
	}
	service := ""
	for _, u := range units {
		if u.Path == boot.ServiceName("records") {
			service = u.Text
		}
		if strings.Contains(u.Path, "records.img") {
			t.Errorf("a unit for the file: %s", u.Path)
		}
	}
	for _, want := range []string{`RequiresMountsFor="/data/records.img"`, "After=" + boot.ServiceName("data")} {
		if !strings.Contains(service, want+"\n") {
			t.Errorf("%s is missing in\n%s", want, service)
		}
	}
	if strings.Contains(service, "BindsTo=") {
		t.Errorf("it waits for a device:\n%s", service)
	}
}
