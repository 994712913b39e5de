// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"slices"
	"strings"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// msNoSymFollow is MS_NOSYMFOLLOW of linux/mount.h (Linux 5.10), which x/sys
// does not name.
const msNoSymFollow = 0x100

// flagWord is an option that the kernel takes as a flag (mount(2), mount(8)).
type flagWord struct {
	word       string
	set, clear uintptr
}

// flagWords is a list because a map would be filled at each start of the program.
var flagWords = [...]flagWord{
	{word: "ro", set: unix.MS_RDONLY},
	{word: "rw", clear: unix.MS_RDONLY},
	{word: "nosuid", set: unix.MS_NOSUID},
	{word: "suid", clear: unix.MS_NOSUID},
	{word: "nodev", set: unix.MS_NODEV},
	{word: "dev", clear: unix.MS_NODEV},
	{word: "noexec", set: unix.MS_NOEXEC},
	{word: "exec", clear: unix.MS_NOEXEC},
	{word: "sync", set: unix.MS_SYNCHRONOUS},
	{word: "async", clear: unix.MS_SYNCHRONOUS},
	{word: "dirsync", set: unix.MS_DIRSYNC},
	{word: "noatime", set: unix.MS_NOATIME, clear: unix.MS_RELATIME | unix.MS_STRICTATIME},
	{word: "atime", clear: unix.MS_NOATIME},
	{word: "nodiratime", set: unix.MS_NODIRATIME},
	{word: "diratime", clear: unix.MS_NODIRATIME},
	{word: "relatime", set: unix.MS_RELATIME, clear: unix.MS_NOATIME | unix.MS_STRICTATIME},
	{word: "norelatime", clear: unix.MS_RELATIME},
	{word: "strictatime", set: unix.MS_STRICTATIME, clear: unix.MS_NOATIME | unix.MS_RELATIME},
	{word: "nostrictatime", clear: unix.MS_STRICTATIME},
	{word: "lazytime", set: unix.MS_LAZYTIME},
	{word: "nolazytime", clear: unix.MS_LAZYTIME},
	{word: "iversion", set: unix.MS_I_VERSION},
	{word: "noiversion", clear: unix.MS_I_VERSION},
	{word: "mand", set: unix.MS_MANDLOCK},
	{word: "nomand", clear: unix.MS_MANDLOCK},
	{word: "silent", set: unix.MS_SILENT},
	{word: "loud", clear: unix.MS_SILENT},
	{word: "nosymfollow", set: msNoSymFollow},
	{word: "symfollow", clear: msNoSymFollow},
	// Options that mount(8) or systemd evaluates and the kernel never sees. They are
	// accepted so that an fstab's options can be reused.
	{word: "defaults", clear: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS},
	{word: "auto"},
	{word: "noauto"},
	{word: "nofail"},
	{word: "_netdev"},
	{word: "nouser"},
}

// refusal says why a word is refused because it asks for something other than mounting a
// device on a folder.
func refusal(word string) (why string, refused bool) {
	switch word {
	case "bind", "rbind", "move", "remount",
		"shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable":
		return "asks for another kind of mount", true
	case "loop":
		return "the device is mounted, not a file", true
	case "user", "users", "owner", "group":
		return "mounting is for root", true
	}
	return "", false
}

// maxData is the size in bytes of the page that mount(2) takes the
// filesystem's own options in, with its NUL.
const maxData = 4096

// OptionError means that a mount option cannot be used.
type OptionError struct{ Option, Reason string }

func (e *OptionError) Error() string {
	return fmt.Sprintf("mount option %q: %s", e.Option, e.Reason)
}

// FaultCode implements fault.Coder.
func (e *OptionError) FaultCode() fault.Code { return fault.ConfigInvalid }

// ParseOptions converts option words, as in fstab, to the flags and the data of mount(2).
// A later word overrides an earlier one. A word that is not a flag is passed to the
// filesystem, which alone knows whether it exists. Errors are *OptionError.
func ParseOptions(words []string) (flags uintptr, data string, err error) {
	var own []string
	for _, w := range words {
		reason, refused := refusal(w)
		flag := slices.IndexFunc(flagWords[:], func(f flagWord) bool { return f.word == w })
		switch {
		case w == "":
			return 0, "", &OptionError{Option: w, Reason: "is empty"}
		case strings.ContainsAny(w, ",\x00\n"):
			return 0, "", &OptionError{Option: w, Reason: "contains a comma or control character; each option is an entry of its own"}
		case refused:
			return 0, "", &OptionError{Option: w, Reason: reason}
		case flag >= 0:
			flags = flags&^flagWords[flag].clear | flagWords[flag].set
		case strings.HasPrefix(w, "x-"), strings.HasPrefix(w, "X-"), strings.HasPrefix(w, "comment="):
			// For mount(8), systemd and people.
		default:
			own = append(own, w)
		}
	}
	data = strings.Join(own, ",")
	if len(data) >= maxData {
		return 0, "", &OptionError{Option: own[0] + ",…", Reason: fmt.Sprintf("%d bytes of options, the kernel takes %d", len(data), maxData-1)}
	}
	return flags, data, nil
}
