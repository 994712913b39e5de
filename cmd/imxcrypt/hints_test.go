// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"imxcrypt/boot"
	"imxcrypt/configs"
	"imxcrypt/internal/fault"
	"imxcrypt/volume"
)

var placeholder = regexp.MustCompile(`NAME|MAPPING|COMMAND|VOLUME`)

// No placeholder of the table is shown to the user, and there is always advice, with or
// without a volume.
func TestHintsAreFilledIn(t *testing.T) {
	t.Parallel()
	c, err := configs.Parse("test", []byte("mapping_prefix: x-\nvolumes: [{name: data, device: /dev/a, filesystem: none}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fault.Table() {
		bare := fault.New(f.Code, "what", nil)
		for what, text := range map[string]string{
			"without a volume":              (&app{}).hint(bare),
			"for the command's volume":      (&app{volume: "data", config: c, command: "imxcrypt rotate"}).hint(bare),
			"for a volume of the error":     (&app{config: c}).hint(&volume.Error{Op: "unlock", Volume: "data", Err: bare}),
			"for a volume among the others": (&app{config: c}).hintFor("data", bare),
		} {
			if text == "" {
				t.Errorf("%s: no hint %s", f.Code, what)
			}
			if placeholder.MatchString(text) {
				t.Errorf("%s: %s a person reads %q", f.Code, what, text)
			}
		}
	}
}

func TestHintNamesVolumeAndMapping(t *testing.T) {
	t.Parallel()
	c, err := configs.Parse("test", []byte("mapping_prefix: x-\nvolumes: [{name: data, device: /dev/a, filesystem: none}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{config: c}
	if got := a.hintFor("data", fault.New(fault.FilesystemMissing, "what", nil)); !strings.Contains(got, "`imxcrypt unlock --for-repair data`") || !strings.Contains(got, "/dev/mapper/x-data") {
		t.Error(got)
	}
	if got := (&app{command: "imxcrypt key create"}).hint(fault.New(fault.Usage, "what", nil)); got != "see `imxcrypt key create --help`" {
		t.Error(got)
	}
	// The error's own volume takes precedence.
	if got := (&app{volume: "data"}).hint(&volume.Error{Volume: "root", Err: fault.New(fault.NotEmpty, "what", nil)}); !strings.Contains(got, "--wipe root") {
		t.Error(got)
	}
	if got := a.hint(errors.New("anything")); got == "" {
		t.Error("an error without a code has no hint")
	}
	if got := a.hint(&configs.Error{Reason: "wrong", Remedy: "correct it"}); got != "" {
		t.Errorf("two remedies: %q", got)
	}
}

// What a rotation prevents has to wait for it: no other process uses the volume.
func TestHintForAVolumeWithTwoKeys(t *testing.T) {
	t.Parallel()
	b := newRig(t, threeVolumes, "/dev/mmcblk2p3")
	b.must(t, exitDone, "provision", "data")
	c, err := configs.Options{AllowAnyOwner: true}.Load(b.config)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Volume("data")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.board.Manager().Rotate(t.Context(), boot.Spec(c, v), volume.RotateOptions{InitOnly: true}); err != nil {
		t.Fatal(err)
	}
	_, stderr := b.must(t, exitBusy, "header", "backup", "data", "/backup")
	if !strings.Contains(stderr, "`imxcrypt rotate --resume-only data` finishes it") {
		t.Error(stderr)
	}
}
