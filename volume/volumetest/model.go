// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/volume/header"
)

// Model is what must be true of a volume when commands are given in any order. The same
// model checks the fake board and real kernels.
type Model struct {
	// Mounts reports whether the configuration has a mount point.
	Mounts bool
	// Recipe reports whether there is a volume made by hand. With an empty Phase, adopt
	// has not taken it over yet.
	Recipe bool

	// Phase is empty if there is no volume.
	Phase header.Phase
	// Live reports whether it is unlocked.
	Live, Mounted bool
	// UUID and Generation are as last seen.
	UUID       string
	Generation int
	// Rotating reports whether a rotation is under way.
	Rotating bool
}

// Commands of the model. Those that rotate take long, and those that erase end what was
// interesting, so callers choose them less often.
const (
	Provision        = "provision"
	ProvisionNoMount = "provision without mounting"
	Unlock           = "unlock"
	UnlockAndMount   = "unlock and mount"
	Lock             = "lock"
	Verify           = "verify"
	Rotate           = "rotate"
	RotateKeyOnly    = "rotate, the key only"
	RotateResume     = "rotate, what was begun"
	Adopt            = "adopt"
	Erase            = "erase"
)

// Command is a command and what the model says about it.
type Command struct {
	Name string
	// Want are the codes that it may end with; the empty one is success.
	Want []fault.Code
	// Done changes the model after success.
	Done func()
}

// Commands returns those that make sense now, always in the same order.
func (m *Model) Commands() []Command {
	absent := []fault.Code{fault.NotProvisioned, fault.ProvisioningStarted}
	whole := absent
	provision := []fault.Code{""}
	switch {
	case m.Phase == header.PhaseReady:
		whole = []fault.Code{""}
	case m.Phase == header.PhaseProvisioning:
		whole = []fault.Code{fault.ProvisioningStarted}
	case m.Phase == header.PhaseErasing:
		whole, provision = []fault.Code{fault.EraseStarted}, []fault.Code{fault.EraseStarted}
	case m.Recipe:
		absent = append(absent, fault.HeaderMissing)
		whole = absent
		provision = []fault.Code{fault.NotEmpty, fault.PlaintextFound, fault.ForeignHeader}
	}
	nothing := func() {}
	list := []Command{
		{Provision, provision, func() { m.Phase, m.Live, m.Mounted = header.PhaseReady, true, m.Mounts }},
		{ProvisionNoMount, provision, func() { m.Phase = header.PhaseReady }},
		{Unlock, whole, func() { m.Live = true }},
		{UnlockAndMount, whole, func() { m.Live, m.Mounted = true, m.Mounts }},
		{Lock, []fault.Code{""}, func() { m.Live, m.Mounted = false, false }},
		{Verify, whole, nothing},
		{Rotate, whole, nothing},
		{RotateKeyOnly, whole, nothing},
		{RotateResume, whole, nothing},
	}
	if m.Recipe {
		want := []fault.Code{""}
		if m.Generation > 1 || m.Rotating {
			want = append(want, fault.FileExists) // the blob is no longer the volume's
		}
		list = append(list, Command{Adopt, want, func() { m.Phase = header.PhaseReady }})
	}
	if !m.Untouched() {
		want := []fault.Code{""}
		if m.Phase == "" {
			want = append(want, absent...)
		}
		list = append(list, Command{Erase, want, func() { m.Gone(); m.Live, m.Mounted = false, false }})
	}
	return list
}

// Untouched reports whether there is a volume made by hand that is not ours yet.
func (m *Model) Untouched() bool { return m.Recipe && m.Phase == "" }

// Precious reports whether nothing may make a filesystem there.
func (m *Model) Precious() bool { return m.Recipe || m.Phase == header.PhaseReady }

// Gone forgets the volume.
func (m *Model) Gone() { m.Phase, m.UUID, m.Generation, m.Recipe, m.Rotating = "", "", 0, false, false }

// Interrupted takes over the phase found after a command was killed or its power was cut.
// It returns an error if the phase is not a possible one.
func (m *Model) Interrupted(name string, now header.Phase) error {
	was := m.Phase
	possible := []header.Phase{was}
	switch {
	case was == header.PhaseReady && name != Erase:
	case strings.HasPrefix(name, Provision) && was != header.PhaseErasing && !m.Untouched():
		possible = append(possible, header.PhaseProvisioning, header.PhaseReady)
	case name == Adopt:
		possible = append(possible, header.PhaseReady)
	case name == Erase:
		possible = append(possible, header.PhaseErasing, "")
	}
	if !slices.Contains(possible, now) {
		return fmt.Errorf("%s was interrupted in phase %q and left phase %q", name, was, now)
	}
	if name == Erase && now != was {
		m.Gone()
	}
	m.Phase = now
	return nil
}

// Seen compares what status says with the model.
func (m *Model) Seen(phase header.Phase, uuid string, generation int, rotating, mounted bool) error {
	switch {
	case mounted != m.Mounted:
		return fmt.Errorf("mounted: %v", mounted)
	case m.Phase != header.PhaseReady:
		return nil
	case phase != header.PhaseReady && phase != header.PhaseRotating:
		return fmt.Errorf("a volume that was ready is in phase %q", phase)
	case m.UUID != "" && uuid != m.UUID:
		return fmt.Errorf("another volume: %s, not %s", uuid, m.UUID)
	case generation < m.Generation:
		return fmt.Errorf("generation %d after %d", generation, m.Generation)
	}
	m.UUID, m.Generation, m.Rotating = uuid, generation, rotating
	return nil
}
