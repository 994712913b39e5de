// SPDX-License-Identifier: Apache-2.0

package dmtest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imxcrypt/dmcrypt"
)

// Activate is [dmcrypt.Mapper.Activate].
func (k *Kernel) Activate(ctx context.Context, name, uuid string, t dmcrypt.Table, readOnly bool) (n dmcrypt.Number, err error) {
	if err := dmcrypt.ValidateName(name); err != nil {
		return n, err
	}
	if err := dmcrypt.ValidateUUID(uuid); err != nil {
		return n, err
	}
	if err := t.Validate(); err != nil {
		return n, named(err, "load the table", name)
	}
	if err := ctx.Err(); err != nil {
		return n, &dmcrypt.Error{Op: "create the device", Name: name, Err: err}
	}
	if err := k.create(name, uuid); err != nil {
		return n, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Remove(context.WithoutCancel(ctx), name))
		}
	}()
	if err := k.Load(ctx, name, t, readOnly); err != nil {
		return n, err
	}
	if err := k.Resume(name, dmcrypt.Private, 0); err != nil {
		return n, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.number(k.mappings[name]), nil
}

// Announce is [dmcrypt.Mapper.Announce]; the node is there at once.
func (k *Kernel) Announce(ctx context.Context, name string) error {
	if err := k.Suspend(ctx, name, dmcrypt.SkipLockFS|dmcrypt.NoFlush); err != nil {
		return err
	}
	if err := k.Resume(name, dmcrypt.Public, dmcrypt.SkipLockFS|dmcrypt.NoFlush); err != nil {
		return err
	}
	return k.change("make the node", "node", name, func(m *mapping) error {
		k.nodes[name] = m.minor
		return nil
	})
}

// change does something to a mapping, after the step has been announced to the test. The
// lock is held meanwhile.
func (k *Kernel) change(op, step, name string, do func(*mapping) error) error {
	if err := k.before(op, step, name); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.find(op, name)
	if err != nil {
		return err
	}
	return do(m)
}

// Load is [dmcrypt.Mapper.Load]: it looks for keys as the calling thread.
func (k *Kernel) Load(ctx context.Context, name string, t dmcrypt.Table, readOnly bool) error {
	const op = "load the table"
	if err := t.Validate(); err != nil {
		return named(err, op, name)
	}
	if err := ctx.Err(); err != nil {
		return &dmcrypt.Error{Op: op, Name: name, Err: err}
	}
	return k.change(op, "load", name, func(m *mapping) error {
		loaded, err := k.build(t, m)
		if err != nil {
			return named(err, op, name)
		}
		k.drop(m.inactive)
		m.inactive, m.inactiveRO = loaded, readOnly
		return nil
	})
}

// Clear is [dmcrypt.Mapper.Clear].
func (k *Kernel) Clear(name string) error {
	const op = "drop the inactive table"
	return k.change(op, "clear", name, func(m *mapping) error {
		k.drop(m.inactive)
		m.inactive = nil
		return nil
	})
}

// Suspend is [dmcrypt.Mapper.Suspend]. It waits for requests in flight, including those
// that wait for a suspended mapping below.
func (k *Kernel) Suspend(ctx context.Context, name string, _ dmcrypt.SuspendFlag) error {
	const op = "suspend the device"
	if err := ctx.Err(); err != nil {
		return &dmcrypt.Error{Op: op, Name: name, Err: err}
	}
	return k.change(op, "suspend", name, func(m *mapping) error {
		if !m.suspended {
			k.stop(m)
		}
		return nil
	})
}

// stop suspends. The lock is held, but released while waiting.
func (k *Kernel) stop(m *mapping) {
	m.suspended = true
	for m.inFlight > 0 {
		k.changed.Wait()
	}
}

// Resume is [dmcrypt.Mapper.Resume].
func (k *Kernel) Resume(name string, v dmcrypt.Visibility, _ dmcrypt.SuspendFlag) error {
	const op = "resume the device"
	return k.change(op, "resume", name, func(m *mapping) error {
		if m.inactive == nil && m.live == nil {
			return &dmcrypt.Error{Op: op, Name: name, Err: unix.EINVAL}
		}
		quiet := m.inactive == nil && !m.suspended
		if m.inactive != nil {
			if !m.suspended {
				k.stop(m)
			}
			old := m.live
			m.live, m.liveRO, m.inactive = m.inactive, m.inactiveRO, nil
			k.drop(old)
		}
		m.suspended = false
		k.changed.Broadcast()
		if !quiet {
			k.event("change", name, v)
			if v == dmcrypt.Private {
				// udev's rules are disabled: they remove the node of a public device.
				delete(k.nodes, name)
			}
		}
		return nil
	})
}

// Swap is [dmcrypt.Mapper.Swap].
func (k *Kernel) Swap(ctx context.Context, name string, t dmcrypt.Table, readOnly bool, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error {
	if err := k.Load(ctx, name, t, readOnly); err != nil {
		return err
	}
	if err := k.Suspend(ctx, name, flags); err != nil {
		return errors.Join(err, k.Clear(name))
	}
	if err := k.Resume(name, v, flags); err != nil {
		return errors.Join(err, k.Clear(name), k.Resume(name, v, flags))
	}
	return nil
}

// Remove is [dmcrypt.Mapper.Remove], without waiting: nothing probes here.
func (k *Kernel) Remove(ctx context.Context, name string) error {
	const op = "remove the device"
	if err := ctx.Err(); err != nil {
		return &dmcrypt.Error{Op: op, Name: name, Err: err}
	}
	return k.change(op, "remove", name, func(m *mapping) error {
		if m.opens > 0 {
			return &dmcrypt.Error{Op: op, Name: name, Kind: dmcrypt.ErrBusy, Opens: m.opens,
				Detail: fmt.Sprintf("open %d times", m.opens), Err: unix.EBUSY}
		}
		k.destroy(m)
		return nil
	})
}

// RemoveLater is [dmcrypt.Mapper.RemoveLater].
func (k *Kernel) RemoveLater(name string) error {
	const op = "remove the device later"
	return k.change(op, "remove", name, func(m *mapping) error {
		if m.opens > 0 {
			m.removing = true
			return nil
		}
		k.destroy(m)
		return nil
	})
}

// destroy ends a mapping that nothing has open; the lock is held.
func (k *Kernel) destroy(m *mapping) {
	delete(k.mappings, m.name)
	if minor, ok := k.nodes[m.name]; ok && minor == m.minor {
		delete(k.nodes, m.name)
	}
	m.gone = true
	k.event("remove", m.name, dmcrypt.Public)
	k.changed.Broadcast()
	k.drop(m.live)
	k.drop(m.inactive)
	m.live, m.inactive = nil, nil
}

// Rename is [dmcrypt.Mapper.Rename].
func (k *Kernel) Rename(name, newName string, v dmcrypt.Visibility) error {
	const op = "rename the device"
	if err := dmcrypt.ValidateName(newName); err != nil {
		return named(err, op, name)
	}
	return k.change(op, "rename", name, func(m *mapping) error {
		if k.mappings[newName] != nil {
			return &dmcrypt.Error{Op: op, Name: name, Kind: dmcrypt.ErrBusy, Err: unix.EBUSY}
		}
		delete(k.mappings, name)
		delete(k.nodes, name)
		m.name = newName
		k.mappings[newName] = m
		k.event("change", newName, v)
		return nil
	})
}

// SetUUID is [dmcrypt.Mapper.SetUUID].
func (k *Kernel) SetUUID(name, uuid string) error {
	const op = "set the uuid"
	if err := dmcrypt.ValidateUUID(uuid); err != nil {
		return named(err, op, name)
	}
	return k.change(op, "uuid", name, func(m *mapping) error {
		if m.uuid != "" {
			return &dmcrypt.Error{Op: op, Name: name, Err: unix.EINVAL}
		}
		m.uuid = uuid
		return nil
	})
}

// Info is [dmcrypt.Mapper.Info].
func (k *Kernel) Info(name string) (dmcrypt.Info, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.find("ask the state", name)
	if err != nil {
		return dmcrypt.Info{}, err
	}
	return k.info(m), nil
}

func (k *Kernel) info(m *mapping) dmcrypt.Info {
	i := dmcrypt.Info{
		Name: m.name, UUID: m.uuid, Number: k.number(m), Opens: m.opens,
		Suspended: m.suspended, Live: m.live != nil, Inactive: m.inactive != nil,
		ReadOnly: m.liveRO, Removing: m.removing,
	}
	if m.live != nil {
		i.Targets = len(m.live.text)
	}
	return i
}

// ByNumber is [dmcrypt.Mapper.ByNumber].
func (k *Kernel) ByNumber(n dmcrypt.Number) (dmcrypt.Info, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m := k.byMinor(n.Minor); m != nil && n.Major == k.o.Major {
		return k.info(m), nil
	}
	return dmcrypt.Info{}, &dmcrypt.Error{Op: "look up the device " + n.String(), Kind: dmcrypt.ErrNotFound, Err: unix.ENXIO}
}

// List is [dmcrypt.Mapper.List].
func (k *Kernel) List(uuidPrefixes ...string) ([]dmcrypt.Info, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []dmcrypt.Info
	for _, m := range k.sorted() {
		if len(uuidPrefixes) == 0 || slices.ContainsFunc(uuidPrefixes, func(p string) bool { return strings.HasPrefix(m.uuid, p) }) {
			all = append(all, k.info(m))
		}
	}
	return all, nil
}

// Table is [dmcrypt.Mapper.Table].
func (k *Kernel) Table(name string) (dmcrypt.Table, error) {
	return k.readBack(name, func(m *mapping) *table { return m.live })
}

// InactiveTable is [dmcrypt.Mapper.InactiveTable].
func (k *Kernel) InactiveTable(name string) (dmcrypt.Table, error) {
	return k.readBack(name, func(m *mapping) *table { return m.inactive })
}

func (k *Kernel) readBack(name string, which func(*mapping) *table) (dmcrypt.Table, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.find("read the table", name)
	if err != nil {
		return nil, err
	}
	t := which(m)
	if t == nil {
		return nil, nil
	}
	// Go through the text, as from the kernel.
	return dmcrypt.ParseTable(t.text.String())
}

// Devices is [dmcrypt.Mapper.Devices].
func (k *Kernel) Devices(name string) ([]dmcrypt.Number, error) {
	t, err := k.Table(name)
	if err != nil {
		return nil, err
	}
	return t.Devices(), nil
}

// Verify is [dmcrypt.Mapper.Verify].
func (k *Kernel) Verify(name, uuid string, want dmcrypt.Table, readOnly bool) (dmcrypt.Info, error) {
	i, err := k.Info(name)
	if err != nil {
		return i, err
	}
	live, err := k.Table(name)
	if err != nil {
		return i, err
	}
	if d := dmcrypt.Compare(i, live, uuid, want, readOnly); len(d) > 0 {
		return i, &dmcrypt.Error{Op: "compare the table", Name: name, Kind: dmcrypt.ErrMismatch, Differences: d}
	}
	return i, nil
}

// targets are those of Debian 12's kernel 6.1, with the versions that it reports.
func targets() map[string]dmcrypt.Version {
	return map[string]dmcrypt.Version{
		"crypt": {Major: 1, Minor: 24}, "linear": {Major: 1, Minor: 4}, "error": {Major: 1, Minor: 5},
		"zero": {Major: 1, Minor: 1}, "flakey": {Major: 1, Minor: 5}, "delay": {Major: 1, Minor: 3},
	}
}

func (k *Kernel) lacks(target string) bool {
	return k.o.NoTargets != nil && slices.Contains(k.o.NoTargets(), target)
}

// TargetVersion is [dmcrypt.Mapper.TargetVersion].
func (k *Kernel) TargetVersion(target string) (dmcrypt.Version, error) {
	v, ok := targets()[target]
	if !ok || k.lacks(target) {
		return v, &dmcrypt.Error{Op: "ask for the target", Kind: dmcrypt.ErrNoTarget, Detail: target, Err: unix.EINVAL}
	}
	return v, nil
}

// Version is [dmcrypt.Mapper.Version].
func (k *Kernel) Version() (dmcrypt.Version, error) { return dmcrypt.Version{Major: 4, Minor: 47}, nil }

// Node is [dmcrypt.Mapper.Node].
func (k *Kernel) Node(name string) string { return path.Join("/dev/mapper", name) }

// DevicePath is [dmcrypt.Mapper.DevicePath].
func (k *Kernel) DevicePath(_ string, n dmcrypt.Number) (string, error) {
	return fmt.Sprintf("/dev/dm-%d", n.Minor), nil
}

// Close does nothing.
func (k *Kernel) Close() error { return nil }

func named(err error, op, name string) error {
	var e *dmcrypt.Error
	if errors.As(err, &e) {
		c := *e
		c.Op, c.Name = op, name
		return &c
	}
	return &dmcrypt.Error{Op: op, Name: name, Err: err}
}
