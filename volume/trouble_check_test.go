// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"imxcrypt/internal/fault"
	"imxcrypt/volume"
	"imxcrypt/volume/volumetest"
)

// opens returns an error unless unlock opens a board's volume with the data in it.
func (l *trouble) opens(b *volumetest.Board) error {
	if _, err := b.Manager().Unlock(context.Background(), l.s, volume.UnlockOptions{}); err != nil {
		return err
	}
	got, err := l.read(b, l.s.Mapping)
	if err == nil && got != l.text {
		err = fmt.Errorf("%q in it, not %q", got, l.text)
	}
	return err
}

// salvage returns how what is stored can be opened with the data in it; empty if it
// cannot.
func (l *trouble) salvage(stored map[string]string, backups bool) (how string, err error) {
	l.t.Helper()
	ctx := context.Background()
	if how, err := l.repairs(stored); how != "" || !backups {
		return how, err
	}
	for name, area := range stored {
		if !strings.HasPrefix(name, "/kept-") && !strings.Contains(name, "/headers/") {
			continue
		}
		// What was replaced is put back in its place.
		back := maps.Clone(stored)
		if l.s.Detached() {
			back[l.s.Header] = area
		} else {
			back["the device"] = area + stored["the device"][len(area):]
		}
		if how, _ := l.repairs(back); how != "" {
			return "what was kept", nil
		}
	}
	for _, file := range l.backups {
		b := l.fork(stored)
		_, failed := b.Manager().RestoreHeader(ctx, l.s, file, volume.RestoreOptions{Confirm: confirmed})
		if failed == nil {
			failed = l.opens(b)
			if failed != nil {
				return "", fmt.Errorf("header restore of %s succeeds, then: %w", file, failed)
			}
			return "header restore", nil
		}
		err = errors.Join(err, failed)
	}
	return "", err
}

// repairs is salvage without other files than the volume's own.
func (l *trouble) repairs(stored map[string]string) (how string, err error) {
	l.t.Helper()
	ctx := context.Background()
	if err = l.opens(l.fork(stored)); err == nil {
		return "unlock", nil
	}
	b := l.fork(stored)
	if _, failed := b.Manager().RepairHeader(ctx, l.s, volume.RepairOptions{}); failed == nil {
		if err := l.opens(b); err != nil {
			return "", fmt.Errorf("header repair succeeds, then: %w", err)
		}
		return "header repair", nil
	}
	return "", err
}

// command runs a command and checks what it says and what it did.
func (l *trouble) command(c move) {
	l.t.Helper()
	before, erased := l.stored(), l.erased
	err := c.run(context.Background(), l.manager())
	l.checkResult(c, err, before, erased)
}

func (l *trouble) checkResult(c move, err error, before map[string]string, erased bool) {
	l.t.Helper()
	n := l.tallyOf(c.name)
	after, code := l.stored(), fault.CodeOf(err)
	changed := differs(before, after)
	switch {
	case len(changed) > 0 && c.looks:
		l.fail("%s (%v) looks, and changed %q", c.name, err, changed)
	case len(changed) > 0 && err != nil && code != fault.Interrupted:
		l.fail("%s was refused (%s, exit code %d: %v), and changed %q", c.name, code, fault.ExitOf(err), err, changed)
	case l.full && code == fault.StorageFull && l.board.Files.Err == nil:
		l.fail("%s is refused for a full /run: %v", c.name, err)
	case l.board.Ring.Left() > 0:
		l.fail("%s left a key in a keyring", c.name)
	}
	if err != nil {
		n.refused++
		l.note("  … %s", code)
		l.hint(err)
	} else {
		n.done++
		c.claims(after)
		if erased && l.erased && !c.looks && (strings.HasPrefix(c.name, "unlock") || strings.HasPrefix(c.name, "rotate")) {
			l.fail("%s succeeds after the volume was erased", c.name)
		}
	}
	if len(changed) > 0 {
		l.lost(c.name)
	}
}

// lost fails if what is stored can no longer be opened with the data.
func (l *trouble) lost(what string) {
	l.t.Helper()
	if l.erased || l.text == "" {
		return
	}
	if how, err := l.salvage(l.stored(), true); how == "" {
		l.fail("%s has lost the data: %v", what, err)
	}
}

var advice = regexp.MustCompile("`imxcrypt ([^`]*)`")

// hint checks what a person is advised to do after an error, and remembers it.
func (l *trouble) hint(err error) {
	l.t.Helper()
	f, ok := fault.Lookup(fault.CodeOf(err))
	if !ok || f.Code == fault.Failed {
		l.fail("an error without a remedy of its own: %v", err)
	}
	if l.erased || l.text == "" {
		return
	}
	first, _, _ := strings.Cut(f.Hint, ". ")
	for _, destroys := range []string{"imxcrypt erase", "--wipe", "wipe_table"} {
		if strings.Contains(first, destroys) {
			l.fail("%v: the data is there, and the advice is: %s", err, first)
		}
	}
	// What these say is that there is nothing to lose.
	if f.Code == fault.ProvisioningStarted || f.Code == fault.EraseStarted {
		l.fail("%v (%s), and the data is there", err, f.Code)
	}
	l.advised = nil
	for _, found := range advice.FindAllStringSubmatch(first, -1) {
		l.advised = append(l.advised, strings.TrimSuffix(found[1], " NAME"))
	}
}

// killed kills a command at a random change; the system runs on.
func (l *trouble) killed(c move) {
	l.t.Helper()
	before, erased := l.stored(), l.erased
	var err error
	n := 1 + l.rng.IntN(14)
	if !kill(l.board, n, func() { err = c.run(context.Background(), l.manager()) }) {
		l.checkResult(c, err, before, erased)
		return
	}
	l.note("  … killed at change %d", n)
	l.tallyOf("killed").done++
	if c.name == "erase" {
		if how, _ := l.salvage(l.stored(), false); how == "" {
			l.erased = true
		}
		return
	}
	l.lost(c.name + ", killed,")
}
