// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"

	"imxcrypt/dmcrypt"
)

func (l *lazyMapper) Load(ctx context.Context, name string, t dmcrypt.Table, readOnly bool) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Load(ctx, name, t, readOnly)
}

func (l *lazyMapper) List(uuidPrefixes ...string) ([]dmcrypt.Info, error) {
	m, err := l.open()
	if err != nil {
		return nil, err
	}
	return m.List(uuidPrefixes...)
}

func (l *lazyMapper) Clear(name string) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Clear(name)
}

func (l *lazyMapper) Suspend(ctx context.Context, name string, flags dmcrypt.SuspendFlag) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Suspend(ctx, name, flags)
}

func (l *lazyMapper) Resume(name string, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Resume(name, v, flags)
}

func (l *lazyMapper) Swap(ctx context.Context, name string, t dmcrypt.Table, readOnly bool, v dmcrypt.Visibility, flags dmcrypt.SuspendFlag) error {
	m, err := l.open()
	if err != nil {
		return err
	}
	return m.Swap(ctx, name, t, readOnly, v, flags)
}
