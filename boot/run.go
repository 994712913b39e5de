// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/spec"
)

// Opener opens a volume; [volume.Manager] is one. It is called from several
// goroutines at once, never twice for a volume.
type Opener interface {
	Unlock(ctx context.Context, s spec.Volume, o volume.UnlockOptions) (volume.Result, error)
}

// Outcome is the result of one step.
type Outcome struct {
	Step   Step
	Result volume.Result
	Err    error
}

// ErrNotTried is the cause for a step that was not started because a step that it waits
// for failed.
var ErrNotTried = errors.New("not tried")

// Run opens the volumes of a plan, each as soon as those it waits for are open, and
// independent volumes at the same time. Volumes with a mount point are mounted if mount
// is set. It returns one outcome for each step, in the plan's order.
func (p Plan) Run(ctx context.Context, opener Opener, mount bool) []Outcome {
	outcomes := make([]Outcome, len(p.Steps))
	finished := make(map[string]chan struct{}, len(p.Steps))
	index := make(map[string]int, len(p.Steps))
	for i, s := range p.Steps {
		finished[s.Spec.Name] = make(chan struct{})
		index[s.Spec.Name] = i
	}
	open := func(i int) {
		step := p.Steps[i]
		defer close(finished[step.Spec.Name])
		outcomes[i] = Outcome{Step: step}
		for _, name := range step.After {
			<-finished[name]
			if outcomes[index[name]].Err != nil {
				outcomes[i].Err = notTried(step, name, outcomes[index[name]].Err)
				return
			}
		}
		outcomes[i].Result, outcomes[i].Err = opener.Unlock(ctx, step.Spec,
			volume.UnlockOptions{Mount: mount && step.Spec.Mountable()})
	}
	if len(p.Steps) == 1 {
		open(0) // without the threads that waiting for a goroutine takes
		return outcomes
	}
	var all sync.WaitGroup
	for i := range p.Steps {
		all.Go(func() { open(i) })
	}
	all.Wait()
	return outcomes
}

func notTried(step Step, needed string, cause error) error {
	return fault.New(fault.CodeOf(cause), fmt.Sprintf("unlock %s: it needs %s, which failed", step.Spec.Name, needed), ErrNotTried)
}

// Failed joins the errors of required volumes; it returns nil if the boot may continue.
func Failed(outcomes []Outcome) error {
	var errs []error
	for _, o := range outcomes {
		if o.Err != nil && o.Step.Required {
			errs = append(errs, o.Err)
		}
	}
	return errors.Join(errs...)
}
