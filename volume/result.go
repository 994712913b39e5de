// SPDX-License-Identifier: Apache-2.0

package volume

import "time"

// Result is what an operation did.
type Result struct {
	Volume     string `json:"volume"`
	Device     string `json:"device,omitempty"`
	UUID       string `json:"uuid,omitempty"`
	Generation int    `json:"generation,omitempty"`
	// SecurityState is the chip's when the key was made.
	SecurityState string `json:"security_state,omitempty"`
	// Mapping is the device that is there now, /dev/mapper/…; empty if none is.
	Mapping string `json:"mapping,omitempty"`
	// Mounted is the mount point in use now.
	Mounted string `json:"mounted,omitempty"`
	// Already is true when there was nothing left to do.
	Already bool `json:"already"`
	// Rotating: the volume was opened half-way through a rotation, which goes on
	// when somebody asks for it.
	Rotating bool `json:"rotating,omitempty"`
	// Steps are what was done, or would be by a dry run, in order.
	Steps []Step `json:"steps,omitempty"`
	// Warnings are for a person.
	Warnings []string `json:"warnings,omitempty"`

	// opened: this operation made the volume's mapping.
	opened bool
}

// Step is one thing done.
type Step struct {
	What string `json:"what"`
	// Took is zero in a dry run.
	Took time.Duration `json:"took_ns,omitempty"`
}

// journey records the steps of one operation.
type journey struct {
	result   Result
	now      func() time.Time
	last     time.Time
	progress func(Step)
	// dry: the steps are those that would be done.
	dry bool
}

func (m *Manager) begin(s Spec, progress func(Step)) *journey {
	return &journey{result: Result{Volume: s.Name}, now: m.sys.Now, last: m.sys.Now(), progress: progress}
}

// did notes that what has just been finished.
func (j *journey) did(what string) {
	t := j.now()
	j.add(Step{What: what, Took: t.Sub(j.last)})
	j.last = t
}

// would notes a step of a dry run. What was done to find it out is none.
func (j *journey) would(what string) {
	if !j.dry {
		j.dry, j.result.Steps = true, nil
	}
	j.add(Step{What: what})
}

func (j *journey) add(s Step) {
	j.result.Steps = append(j.result.Steps, s)
	if j.progress != nil {
		j.progress(s)
	}
}

func (j *journey) of(h *header, device string) {
	j.result.Device, j.result.UUID = device, h.luks.UUID
	j.result.Generation, j.result.SecurityState = h.token.Generation, string(h.token.State)
}

func (j *journey) warn(text string) { j.result.Warnings = append(j.result.Warnings, text) }
