// SPDX-License-Identifier: Apache-2.0

package volumetest

import "context"

// Machine is what package sleep puts to sleep. The chip loses its keys in a sleep.
type Machine struct {
	Board *Board
	// Frozen, Thawed and Slept count.
	Frozen, Thawed, Slept int
	Alarms                []string
	// During runs while the system sleeps.
	During    func() error
	FreezeErr error
}

func (m *Machine) Freeze(context.Context) error {
	if m.FreezeErr != nil {
		return m.FreezeErr
	}
	m.Frozen++
	return nil
}

func (m *Machine) Thaw() error       { m.Thawed++; return nil }
func (m *Machine) Sync()             { m.Board.Sync() }
func (m *Machine) Alarm(text string) { m.Alarms = append(m.Alarms, text) }

func (m *Machine) Sleep() error {
	m.Board.Chip.PowerCycle()
	m.Slept++
	if m.During != nil {
		return m.During()
	}
	return nil
}
