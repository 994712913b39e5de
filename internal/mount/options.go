// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"strings"

	"imxcrypt/internal/fault"

	"golang.org/x/sys/unix"
)

// msNoSymFollow is MS_NOSYMFOLLOW of linux/mount.h (Linux 5.10), which x/sys
// does not name.
const msNoSymFollow = 0x100

// flagWord is an option that the kernel takes as a flag (mount(2), mount(8)).
type flagWord struct {
	set, clear uintptr
}

var flagWords = map[string]flagWord{
	"ro":            {set: unix.MS_RDONLY},
	"rw":            {clear: unix.MS_RDONLY},
	"nosuid":        {set: unix.MS_NOSUID},
	"suid":          {clear: unix.MS_NOSUID},
	"nodev":         {set: unix.MS_NODEV},
	"dev":           {clear: unix.MS_NODEV},
	"noexec":        {set: unix.MS_NOEXEC},
	"exec":          {clear: unix.MS_NOEXEC},
	"sync":          {set: unix.MS_SYNCHRONOUS},
	"async":         {clear: unix.MS_SYNCHRONOUS},
	"dirsync":       {set: unix.MS_DIRSYNC},
	"noatime":       {set: unix.MS_NOATIME, clear: unix.MS_RELATIME | unix.MS_STRICTATIME},
	"atime":         {clear: unix.MS_NOATIME},
	"nodiratime":    {set: unix.MS_NODIRATIME},
	"diratime":      {clear: unix.MS_NODIRATIME},
	"relatime":      {set: unix.MS_RELATIME, clear: unix.MS_NOATIME | unix.MS_STRICTATIME},
	"norelatime":    {clear: unix.MS_RELATIME},
	"strictatime":   {set: unix.MS_STRICTATIME, clear: unix.MS_NOATIME | unix.MS_RELATIME},
	"nostrictatime": {clear: unix.MS_STRICTATIME},
	"lazytime":      {set: unix.MS_LAZYTIME},
	"nolazytime":    {clear: unix.MS_LAZYTIME},
	"iversion":      {set: unix.MS_I_VERSION},
	"noiversion":    {clear: unix.MS_I_VERSION},
	"mand":          {set: unix.MS_MANDLOCK},
	"nomand":        {clear: unix.MS_MANDLOCK},
	"silent":        {set: unix.MS_SILENT},
	"loud":          {clear: unix.MS_SILENT},
	"nosymfollow":   {set: msNoSymFollow},
	"symfollow":     {clear: msNoSymFollow},
	// What mount(8) or systemd evaluates and the kernel never sees, so
	// that an fstab's options can be taken over.
	"defaults": {clear: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS},
	"auto":     {},
	"noauto":   {},
	"nofail":   {},
	"_netdev":  {},
	"nouser":   {},
}

// refusedWords ask for something other than mounting a device on a folder.
var refusedWords = map[string]string{
	"bind": "", "rbind": "", "move": "", "remount": "",
	"shared": "", "rshared": "", "private": "", "rprivate": "", "slave": "", "rslave": "", "unbindable": "", "runbindable": "",
	"loop":  "the device is mounted, not a file",
	"user":  "mounting is for root",
	"users": "mounting is for root",
	"owner": "mounting is for root",
	"group": "mounting is for root",
}

// maxData is the size in bytes of the page that mount(2) takes the
// filesystem's own options in, with its NUL.
const maxData = 4096

// OptionError is a mount option that cannot be used.
type OptionError struct{ Option, Reason string }

func (e *OptionError) Error() string {
	return fmt.Sprintf("mount option %q: %s", e.Option, e.Reason)
}

// FaultCode implements fault.Coder.
func (e *OptionError) FaultCode() fault.Code { return fault.ConfigInvalid }

// ParseOptions turns option words, as they stand in fstab, into the flags and
// the data of mount(2). A later word wins over an earlier one. A word that is not a
// flag is passed to the filesystem, which alone knows whether it exists. Errors are
// *OptionError.
func ParseOptions(words []string) (flags uintptr, data string, err error) {
	var own []string
	for _, w := range words {
		reason, refused := refusedWords[w]
		switch f, known := flagWords[w]; {
		case w == "":
			return 0, "", &OptionError{Option: w, Reason: "is empty"}
		case strings.ContainsAny(w, ",\x00\n"):
			return 0, "", &OptionError{Option: w, Reason: "contains a comma or control character; each option is an entry of its own"}
		case refused && reason == "":
			return 0, "", &OptionError{Option: w, Reason: "asks for another kind of mount"}
		case refused:
			return 0, "", &OptionError{Option: w, Reason: reason}
		case known:
			flags = flags&^f.clear | f.set
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
