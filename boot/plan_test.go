// SPDX-License-Identifier: Apache-2.0

package boot_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

func parse(t *testing.T, text string) *configs.Config {
	t.Helper()
	c, err := configs.Parse("/etc/imxcrypt/imxcrypt.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const nested = `state_dir: /data/state
volumes:
  - {name: inner, device: /dev/mapper/outer, filesystem: none}
  - {name: logs, device: /dev/mmcblk2p4, mount: /data/logs, required: false}
  - {name: keyed, device: /dev/mmcblk2p6, header: /data/keyed.hdr}
  - {name: data, device: PARTLABEL=data, mount: /data, timeout: 3s}
  - {name: outer, device: /dev/mmcblk2p5, filesystem: none}
`

// The record that a volume was encrypted is written before its encryption.
func TestARecordInAnotherVolume(t *testing.T) {
	t.Parallel()
	plan, err := boot.NewPlan(parse(t, "state_dir: /var/state\nvolumes:\n  - {name: data, device: PARTLABEL=data, mount: /data, on_plaintext: encrypt}\n  - {name: var, device: /dev/sdb, mount: /var}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if last := plan.Steps[1]; last.Spec.Name != "data" || len(last.Why) != 1 || last.Why[0] != "the record that it was encrypted is in var" {
		t.Errorf("%+v", plan.Steps)
	}
}

func order(p boot.Plan) []string {
	var names []string
	for _, s := range p.Steps {
		names = append(names, s.Spec.Name)
	}
	return names
}

func TestVolumesComeAfterWhatTheyLieIn(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested))
	if err != nil {
		t.Fatal(err)
	}
	if got := order(p); !slices.Equal(got, []string{"data", "logs", "keyed", "outer", "inner"}) {
		t.Errorf("order %v", got)
	}
	if got := order(p.Reverse()); got[0] != "inner" || got[4] != "data" {
		t.Errorf("reverse order %v", got)
	}
	why := map[string]string{}
	for _, s := range p.Steps {
		why[s.Spec.Name] = strings.Join(s.Why, ", ")
	}
	for name, want := range map[string]string{
		"data": "", "outer": "", "inner": "its device is in outer",
		"logs": "its mount point is in data", "keyed": "its header is in data",
	} {
		if why[name] != want {
			t.Errorf("%s waits because %q, expected %q", name, why[name], want)
		}
	}
}

func TestVolumesThatAreNotOpenedAtBoot(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, `volumes:
  - {name: inner, device: /dev/mapper/outer}
  - {name: spare, device: /dev/sda1, at_boot: false}
  - {name: outer, device: /dev/sda2, filesystem: none, at_boot: false}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := order(p.AtBoot()); !slices.Equal(got, []string{"outer", "inner"}) {
		t.Errorf("opened at boot are %v: outer is needed by inner, spare by none", got)
	}
	for _, s := range p.Steps {
		if s.Required != (s.Spec.Name == "inner") {
			t.Errorf("%s: required is %v", s.Spec.Name, s.Required)
		}
	}
}

func TestOnlyTheVolumesNamedAreOpened(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested), "logs", "logs")
	if err != nil || !slices.Equal(order(p), []string{"logs"}) {
		t.Fatalf("%v, %v", order(p), err)
	}
	if _, err := boot.NewPlan(parse(t, nested), "nothing"); !fault.Is(err, fault.VolumeUnknown) {
		t.Fatalf("unknown volume: %v", err)
	}
}

// opener records which volumes are open when another one begins.
type opener struct {
	mu     sync.Mutex
	began  []string
	ended  map[string]bool
	fails  map[string]error
	missed []string
	needs  map[string]string
	both   *sync.WaitGroup
}

func (o *opener) Unlock(_ context.Context, s spec.Volume, _ volume.UnlockOptions) (volume.Result, error) {
	o.mu.Lock()
	o.began = append(o.began, s.Name)
	if n := o.needs[s.Name]; n != "" && !o.ended[n] {
		o.missed = append(o.missed, s.Name)
	}
	o.mu.Unlock()
	if o.both != nil {
		// Both independent volumes must be inside at the same time.
		o.both.Done()
		o.both.Wait()
	}
	o.mu.Lock()
	o.ended[s.Name] = true
	o.mu.Unlock()
	return volume.Result{Volume: s.Name}, o.fails[s.Name]
}

func TestNothingIsOpenedBeforeWhatItNeeds(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested))
	if err != nil {
		t.Fatal(err)
	}
	o := &opener{ended: map[string]bool{}, needs: map[string]string{"logs": "data", "keyed": "data", "inner": "outer"}}
	if err := boot.Failed(p.Run(context.Background(), o, true)); err != nil {
		t.Fatal(err)
	}
	if len(o.began) != 5 || len(o.missed) > 0 {
		t.Fatalf("began %v, too early %v", o.began, o.missed)
	}
}

func TestIndependentVolumesAreOpenedAtTheSameTime(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested), "data", "outer")
	if err != nil {
		t.Fatal(err)
	}
	o := &opener{ended: map[string]bool{}, both: &sync.WaitGroup{}}
	o.both.Add(2)
	p.Run(context.Background(), o, true)
	if len(o.ended) != 2 {
		t.Fatalf("%v", o.ended)
	}
}

func TestAFailureReachesThoseThatNeedItAndNobodyElse(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested))
	if err != nil {
		t.Fatal(err)
	}
	broken := fault.New(fault.KeyWrong, "wrong key", nil)
	o := &opener{ended: map[string]bool{}, fails: map[string]error{"data": broken}}
	outcomes := p.Run(context.Background(), o, true)
	for _, out := range outcomes {
		switch out.Step.Spec.Name {
		case "logs", "keyed":
			if !errors.Is(out.Err, boot.ErrNotTried) || !fault.Is(out.Err, fault.KeyWrong) {
				t.Errorf("%s: %v", out.Step.Spec.Name, out.Err)
			}
		case "data":
			if !errors.Is(out.Err, error(broken)) {
				t.Errorf("data: %v", out.Err)
			}
		default:
			if out.Err != nil {
				t.Errorf("%s: %v", out.Step.Spec.Name, out.Err)
			}
		}
	}
	if boot.Failed(outcomes) == nil {
		t.Error("a required volume failed and the boot did not")
	}
}

func TestAVolumeThatIsNotRequiredLetsTheBootGoOn(t *testing.T) {
	t.Parallel()
	p, err := boot.NewPlan(parse(t, nested), "logs")
	if err != nil {
		t.Fatal(err)
	}
	o := &opener{ended: map[string]bool{}, fails: map[string]error{"logs": errors.New("broken")}}
	outcomes := p.Run(context.Background(), o, true)
	if outcomes[0].Err == nil || boot.Failed(outcomes) != nil {
		t.Fatalf("%v", outcomes)
	}
}
