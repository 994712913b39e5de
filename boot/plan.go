// SPDX-License-Identifier: Apache-2.0

// Package boot opens the volumes of a configuration when the system starts: it makes a
// plan from the configuration alone, and runs it directly or turns it into systemd units.
package boot

import (
	"fmt"
	"slices"
	"strings"

	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume/spec"
)

// Plan is the order in which volumes are opened and mounted.
type Plan struct {
	// Steps are sorted so that each comes after those it waits for.
	Steps []Step
}

// Step opens one volume and mounts it if it has a mount point.
type Step struct {
	Spec spec.Volume
	// AtBoot reports whether the volume is opened at boot.
	AtBoot bool
	// Required reports whether the boot fails if the volume cannot be opened.
	Required bool
	// After names the volumes that must be open first.
	After []string
	// Why has the reason for each volume in After.
	Why []string
}

// NewPlan orders the named volumes, or all volumes without names. It does not add volumes
// that the named ones need. If volumes need each other in a circle, the error has the
// code config-invalid.
func NewPlan(c *configs.Config, names ...string) (Plan, error) {
	var chosen []configs.Volume
	if len(names) == 0 {
		chosen = c.Volumes
	}
	for _, name := range names {
		v, err := c.Volume(name)
		if err != nil {
			return Plan{}, err
		}
		if !slices.ContainsFunc(chosen, func(o configs.Volume) bool { return o.Name == v.Name }) {
			chosen = append(chosen, v)
		}
	}
	steps := make([]Step, 0, len(chosen))
	for _, v := range chosen {
		steps = append(steps, Step{Spec: Spec(c, v), AtBoot: v.AtBoot, Required: v.Needed()})
	}
	for i := range steps {
		for j := range steps {
			if i == j {
				continue
			}
			if need := c.Need(&chosen[i], &chosen[j]); need != "" {
				steps[i].After = append(steps[i].After, chosen[j].Name)
				steps[i].Why = append(steps[i].Why, why(need, chosen[j].Name))
			}
		}
	}
	return sortSteps(steps)
}

// AtBoot returns the plan without the volumes that are neither opened at boot nor needed
// by one that is.
func (p Plan) AtBoot() Plan {
	needed := map[string]bool{}
	var kept []Step
	for _, s := range slices.Backward(p.Steps) {
		if !s.AtBoot && !needed[s.Spec.Name] {
			continue
		}
		for _, name := range s.After {
			needed[name] = true
		}
		kept = append(kept, s)
	}
	return Plan{Steps: kept}.Reverse()
}

// why returns the text for a need.
func why(need, name string) string {
	switch need {
	case configs.NeedsDevice:
		return "its device is in " + name
	case configs.NeedsMountPoint:
		return "its mount point is in " + name
	case configs.NeedsHeader:
		return "its header is in " + name
	case configs.NeedsRecord:
		return "the record that it was encrypted is in " + name
	default:
		return "its key file is in " + name
	}
}

// sortSteps puts each step after those it waits for, and otherwise keeps the order of the
// configuration.
func sortSteps(steps []Step) (Plan, error) {
	var p Plan
	done := map[string]bool{}
	for len(p.Steps) < len(steps) {
		next := slices.IndexFunc(steps, func(s Step) bool {
			return !done[s.Spec.Name] && !slices.ContainsFunc(s.After, func(n string) bool { return !done[n] })
		})
		if next < 0 {
			var circle []string
			for _, s := range steps {
				if !done[s.Spec.Name] {
					circle = append(circle, fmt.Sprintf("%s (%s)", s.Spec.Name, strings.Join(s.Why, ", ")))
				}
			}
			return Plan{}, fault.New(fault.ConfigInvalid, "volumes need each other: "+strings.Join(circle, "; "), nil)
		}
		done[steps[next].Spec.Name] = true
		p.Steps = append(p.Steps, steps[next])
	}
	return p, nil
}

// Reverse returns the plan in the order for locking: a volume comes before those it
// needs.
func (p Plan) Reverse() Plan {
	var reversed Plan
	for i := range p.Steps {
		reversed.Steps = append(reversed.Steps, p.Steps[len(p.Steps)-1-i])
	}
	return reversed
}
