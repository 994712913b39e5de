// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"imxcrypt/configs"
	"imxcrypt/internal/mount"
	"imxcrypt/volume/spec"
)

// Unit is a file or a link that the generator writes for systemd.
type Unit struct {
	// Path is relative to the generator's directory.
	Path string
	// Text is a file's content; empty for a link.
	Text string
	// Link is a link's target.
	Link string
}

// UnitOptions are what the units depend on besides the configuration.
type UnitOptions struct {
	// Program is the path of imxcrypt.
	Program string
	// Fstab lists the entries of fstab: no mount unit is made for their mount points. An
	// entry that names the mapping pulls in the volume by its device; an entry that names
	// its source in another way, such as UUID=, does not.
	Fstab []mount.FstabEntry
	// FromInitramfs reports whether an initramfs opened a mapping; nil means none. The
	// system may depend on such a mapping, so it stays until the very end of a shutdown,
	// when systemd-shutdown(8) takes down whatever is left.
	FromInitramfs func(mapping string) bool
	// Canonical resolves the symbolic links of a path, which systemd refuses in mount
	// points, as they will be at boot; nil means that paths have none.
	Canonical func(path string) string
	// Debug makes the services log every step (imxcrypt.debug).
	Debug bool
}

// Units turns a configuration into units: for each volume a service that unlocks it and,
// if it has a mount point, a mount unit. The service does not mount, because a mount made
// inside a sandboxed service is invisible outside. Units depends only on its arguments,
// so that the result can be tested.
//
// local-fs.target requires a required volume, like a line in fstab: if the volume cannot
// be opened, the target fails, and systemd goes to emergency.target. Other volumes are
// only wanted, and are waited for in the background.
func Units(c *configs.Config, o UnitOptions) ([]Unit, error) {
	plan, err := NewPlan(c)
	if err != nil {
		return nil, err
	}
	var units []Unit
	for _, step := range plan.Steps {
		step.Spec.Mount.Path = o.canonical(step.Spec.Mount.Path)
		units = append(units, volumeUnits(c, step, o)...)
	}
	sort.Slice(units, func(i, j int) bool { return units[i].Path < units[j].Path })
	return units, nil
}

func (o UnitOptions) canonical(p string) string {
	if o.Canonical == nil || p == "" {
		return p
	}
	return o.Canonical(p)
}

func volumeUnits(c *configs.Config, step Step, o UnitOptions) []Unit {
	service := ServiceName(step.Spec.Name)
	units := []Unit{{Path: service, Text: serviceText(c, step, o)}}
	if c.File() != configs.DefaultPath && !step.Spec.Ephemeral() {
		units = append(units, Unit{Path: RotateServiceName(step.Spec.Name) + ".d/40-imxcrypt-config.conf", Text: rotateDropIn(c, step, o)})
	}
	node := mappingPath(step.Spec)
	nodeUnit := deviceUnit(node)
	// Whatever needs the device by its name, such as fstab, pulls in the service and
	// fails with it at once. The timeout counts from the start of the boot, and in the
	// first boot the volume may still have to be made. There is no After=: when the
	// service is stopped, systemd stops the device too, that is, waits until it is gone,
	// and the service must not be stopped after that.
	units = append(units,
		Unit{Path: nodeUnit + ".d/40-imxcrypt.conf", Text: fmt.Sprintf(
			"%s[Unit]\nRequires=%s\nJobTimeoutSec=%s\n", generated, service, seconds(step.Spec.Timeout+earlyBoot+openTime(step.Spec)+provisionTime))})
	if backing := backingPath(step.Spec.Device); backing != "" {
		units = append(units, Unit{Path: deviceUnit(backing) + ".d/40-imxcrypt-backing.conf", Text: fmt.Sprintf(
			"%s[Unit]\nJobRunningTimeoutSec=%s\n", generated, seconds(step.Spec.Timeout+earlyBoot))},
			missingService(c, step, o, backing))
	}
	fromInitramfs := o.FromInitramfs != nil && o.FromInitramfs(step.Spec.Mapping)
	mountUnit := EscapePath(step.Spec.Mount.Path) + ".mount"
	if step.Spec.Mount.Path != "" && !fromInitramfs && spec.Sealed(step.Spec.Source) && !step.Spec.Ephemeral() {
		units = append(units, keyService(c, step, o, mountUnit),
			Unit{Path: mountUnit + ".d/40-imxcrypt-key.conf", Text: fmt.Sprintf("%s[Unit]\nWants=%s\n", generated, keyServiceName(step.Spec.Name))})
	}
	if step.Spec.Swap() {
		return append(units, swapUnits(c, step, o, node)...)
	}
	claim := slices.IndexFunc(o.Fstab, func(e mount.FstabEntry) bool { return o.canonical(path.Clean(e.Target)) == step.Spec.Mount.Path })
	if claim >= 0 && path.Clean(o.Fstab[claim].Source) == node {
		return units // fstab's mount pulls in the device, and the device the service
	}
	if step.Spec.Mount.Path == "" || claim >= 0 {
		// Nothing pulls in the device by the mapping's name: what fstab waits for
		// instead, such as a link by the filesystem's UUID, appears only after the
		// service has run.
		if !step.AtBoot {
			return units
		}
		// cryptsetup.target is not enough: nothing fails with it, and systemd without
		// libcryptsetup, as in Yocto and Buildroot, does not have it.
		return append(units, hook("local-fs.target", step.Required, service), hook("cryptsetup.target", false, service))
	}
	units = append(units, Unit{Path: mountUnit, Text: mountText(c, step, node)})
	if !step.AtBoot {
		return units
	}
	return append(units, hook("local-fs.target", step.Required, mountUnit))
}

// swapUnits returns the units that swap a volume on, unless fstab does, and that keep
// systemd from a suspend-to-disk.
func swapUnits(c *configs.Config, step Step, o UnitOptions, node string) (units []Unit) {
	if !slices.ContainsFunc(o.Fstab, func(e mount.FstabEntry) bool { return path.Clean(e.Source) == node }) {
		units = swapUnit(c, step, node)
	}
	// What is written to it is lost at power-off, and a suspend-to-disk uses any swap.
	for _, sleep := range []string{"hibernate", "hybrid-sleep", "suspend-then-hibernate"} {
		units = append(units, Unit{Path: "systemd-" + sleep + ".service.d/40-imxcrypt-" + EscapePath(node) + ".conf", Text: generated +
			"# Swap whose key is thrown away cannot be resumed from.\n[Unit]\nAssertPathExists=!" + quoteSpecifiers(node) + "\n"})
	}
	return units
}

func swapUnit(c *configs.Config, step Step, node string) []Unit {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	swap, service := EscapePath(node)+".swap", ServiceName(step.Spec.Name)
	b.WriteString(generated)
	line("[Unit]")
	line("Description=Swap on encrypted volume %s", strings.ReplaceAll(step.Spec.Name, "%", "%%"))
	line("Documentation=man:imxcrypt(1) man:imxcrypt.yaml(5)")
	line("SourcePath=%s", quoteSpecifiers(c.FileOf(step.Spec.Name)))
	line("Requires=%s", service)
	line("After=%s", service)
	line("")
	line("[Swap]")
	line("What=%s", quoteSpecifiers(node))
	if step.Spec.AllowDiscards {
		line("Options=discard")
	}
	units := []Unit{{Path: swap, Text: b.String()}}
	if step.AtBoot {
		units = append(units, hook("swap.target", step.Required, swap))
	}
	return units
}

// unlockTime is the time allowed for unlocking once the device is there.
const unlockTime = 30 * time.Second

// provisionTime is the TimeoutStartSec of imxcrypt-provision@.service.
const provisionTime = 10 * time.Minute

// openTime returns the time allowed for opening a volume. A volume that is formatted
// writes a journal; before an encryption the filesystem may have to be checked, and made
// smaller for a header on the device.
func openTime(s spec.Volume) time.Duration {
	switch {
	case s.Ephemeral() && !s.Swap():
		return unlockTime + 2*time.Minute
	case s.EncryptPlain && s.Detached():
		return unlockTime + 5*time.Minute
	case s.EncryptPlain:
		return unlockTime + 15*time.Minute
	}
	return unlockTime
}

// earlyBoot is added to the volume's timeout for systemd's wait for a device, which
// counts from the start of the boot, before udev is up.
const earlyBoot = 30 * time.Second

const generated = "# Automatically generated by imxcrypt-generator\n\n"

// hook returns the link by which a target pulls in a unit.
func hook(target string, required bool, unit string) Unit {
	kind := ".wants/"
	if required {
		kind = ".requires/"
	}
	return Unit{Path: target + kind + unit, Link: "../" + unit}
}

// FailureUnits returns the units for a system whose units could not be made for the given
// reasons, each one line: a service that prints them and fails, so that local-fs.target
// fails too, as for a required volume. Otherwise the system would come up without its
// volumes, and write into the empty mount points.
func FailureUnits(program string, reasons []string) []Unit {
	const service = "imxcrypt-generator-failed.service"
	var b strings.Builder
	b.WriteString(generated)
	b.WriteString("[Unit]\nDescription=Units of the encrypted volumes\nDocumentation=man:imxcrypt-config-check(1) man:imxcrypt.yaml(5)\n" +
		"DefaultDependencies=no\nBefore=local-fs.target\n" +
		// packaging/systemd has a unit of this name, with which systemd forgets the
		// failure once the configuration is repaired.
		"\n[Service]\nType=oneshot\nStandardError=journal+console\n")
	fmt.Fprintf(&b, "ExecStart=%s generator", program)
	for _, r := range reasons {
		b.WriteString(" " + quoteArgument("--failed="+r))
	}
	b.WriteString("\n")
	return []Unit{{Path: service, Text: b.String()}, hook("local-fs.target", true, service)}
}

// ServiceName returns the name of a volume's service.
func ServiceName(name string) string { return "imxcrypt@" + escape(name) + ".service" }

// RotateServiceName returns the name of the unit that continues a volume's rotation.
func RotateServiceName(name string) string { return "imxcrypt-rotate@" + escape(name) + ".service" }

func mappingPath(s spec.Volume) string { return "/dev/mapper/" + s.Mapping }

// backingPath returns udev's path for a device specification. It is empty if no udev link
// is certain to lead to that device, as when it is looked for on one controller: unlock
// then waits for the device itself.
func backingPath(spec string) string {
	for tag, dir := range map[string]string{
		"PARTLABEL=": "by-partlabel", "PARTUUID=": "by-partuuid", "LABEL=": "by-label", "UUID=": "by-uuid",
	} {
		if value, ok := strings.CutPrefix(spec, tag); ok {
			if strings.HasSuffix(tag, "UUID=") {
				value = strings.ToLower(value)
			}
			return "/dev/disk/" + dir + "/" + udevEncode(value)
		}
	}
	if strings.HasPrefix(spec, "/dev/") {
		return path.Clean(spec)
	}
	return "" // an image file: no unit to wait for
}

func deviceUnit(p string) string { return EscapePath(p) + ".device" }

func serviceText(c *configs.Config, step Step, o UnitOptions) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s := step.Spec
	b.WriteString(generated)
	line("[Unit]")
	line("Description=Encrypted volume %s", strings.ReplaceAll(s.Name, "%", "%%"))
	line("Documentation=man:imxcrypt(1) man:imxcrypt-boot(1) man:imxcrypt.yaml(5)")
	line("SourcePath=%s", quoteSpecifiers(c.FileOf(step.Spec.Name)))
	line("DefaultDependencies=no")
	// Isolating rescue.target must not lock volumes.
	line("IgnoreOnIsolate=true")
	line("After=systemd-modules-load.service systemd-udevd-kernel.socket cryptsetup-pre.target")
	fromInitramfs := o.FromInitramfs != nil && o.FromInitramfs(s.Mapping)
	before := "blockdev@" + EscapePath(mappingPath(s)) + ".target"
	if step.Required {
		// The boot does not wait for volumes that are not required, though the targets
		// want them.
		before = "cryptsetup.target local-fs.target " + before
		if s.Swap() {
			before = strings.Replace(before, "local-fs.target", "swap.target", 1)
		}
	}
	line("Before=%s", before)
	line("Wants=cryptsetup-pre.target blockdev@%s.target", EscapePath(mappingPath(s)))
	if !fromInitramfs {
		line("Before=umount.target")
		line("Conflicts=umount.target")
	}
	if backing := backingPath(s.Device); backing != "" {
		line("BindsTo=%s", deviceUnit(backing))
		line("After=%s", deviceUnit(backing))
		line("OnFailure=%s", missingServiceName(s.Name))
	}
	if strings.HasPrefix(s.Device, "/") && !strings.HasPrefix(path.Clean(s.Device), "/dev/") {
		line("RequiresMountsFor=%s", quoteWord(o.canonical(path.Clean(s.Device))))
	}
	for _, name := range step.After {
		line("Requires=%s", ServiceName(name))
		line("After=%s", ServiceName(name))
	}
	if s.Detached() {
		line("RequiresMountsFor=%s", quoteWord(o.canonical(s.Header)))
	}
	if s.Source == spec.SourceDev || s.EncryptPlain {
		line("RequiresMountsFor=%s", quoteWord(o.canonical(s.StateDir)))
	}
	if s.EncryptPlain {
		// unlock writes a record.
		line("After=systemd-remount-fs.service")
	}
	line("")
	line("[Service]")
	line("Type=oneshot")
	line("RemainAfterExit=yes")
	command := commandLine(c, o)
	if o.Debug {
		command += " --verbose --log-level debug"
	}
	line("ExecStart=%s unlock %s", command, quoteArgument(s.Name))
	if !fromInitramfs {
		line("ExecStop=%s lock %s", command, quoteArgument(s.Name))
	}
	// The console shows why a boot ended in emergency mode.
	line("StandardError=journal+console")
	line("TimeoutStartSec=%s", seconds(s.Timeout+openTime(s)))
	line("TimeoutStopSec=30s")
	// The key is in the keyring of one thread; a private session keyring also keeps
	// everything else away from it.
	line("KeyringMode=private")
	for _, l := range sandbox() {
		line("%s", l)
	}
	return b.String()
}

// rotateDropIn makes the packaged unit of a volume's rotation use the configuration that
// the volume was opened with.
func rotateDropIn(c *configs.Config, step Step, o UnitOptions) string {
	return generated + "[Unit]\nConditionPathExists=\nConditionPathExists=" + quoteSpecifiers(c.FileOf(step.Spec.Name)) + "\n\n[Service]\nExecStart=\nExecStart=" +
		commandLine(c, o) + " rotate --resume-only " + quoteArgument(step.Spec.Name) + "\n"
}

// commandLine returns the command line of the program with the configuration that the
// units are made from.
func commandLine(c *configs.Config, o UnitOptions) string {
	return o.Program + " --config " + quoteArgument(c.File())
}

// sandbox returns the sandbox options that were found to be harmless. Options that give
// the service a mount namespace are omitted, because what it makes must be visible
// outside.
func sandbox() []string {
	return []string{
		"NoNewPrivileges=yes",
		"MemoryDenyWriteExecute=yes",
		"LockPersonality=yes",
		"ProtectClock=yes",
		"ProtectHostname=yes",
		"RestrictNamespaces=mnt",
		"RestrictSUIDSGID=yes",
		"RestrictRealtime=yes",
		"RestrictAddressFamilies=AF_UNIX AF_NETLINK",
		"SystemCallArchitectures=native",
		"SystemCallFilter=~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap",
		"SystemCallErrorNumber=EPERM",
		"LimitMEMLOCK=infinity",
		"LimitCORE=0",
	}
}

func mountText(c *configs.Config, step Step, node string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s := step.Spec
	service := ServiceName(s.Name)
	b.WriteString(generated)
	line("[Unit]")
	line("Description=%s on encrypted volume %s", quoteSpecifiers(s.Mount.Path), strings.ReplaceAll(s.Name, "%", "%%"))
	line("Documentation=man:imxcrypt(1) man:imxcrypt-boot(1) man:imxcrypt.yaml(5)")
	line("SourcePath=%s", quoteSpecifiers(c.FileOf(step.Spec.Name)))
	line("Requires=%s", service)
	line("After=%s", service)
	switch {
	case s.Ephemeral(): // just made
	case slices.Contains([]string{"ext4", "f2fs", "vfat"}, s.Filesystem.Type):
		line("Requires=systemd-fsck@%s.service", EscapePath(node))
		line("After=systemd-fsck@%s.service", EscapePath(node))
	}
	if s.Grow {
		line("Wants=systemd-growfs@%s.service", EscapePath(s.Mount.Path))
	}
	line("")
	line("[Mount]")
	line("What=%s", quoteSpecifiers(node))
	line("Where=%s", quoteSpecifiers(s.Mount.Path))
	line("Type=%s", s.Filesystem.Type)
	options := s.Mount.Options
	if !step.Required {
		// systemd orders a mount before local-fs.target, wanted or not, unless its
		// options have nofail.
		options = append(slices.Clone(options), "nofail")
	}
	if len(options) > 0 {
		line("Options=%s", quoteSpecifiers(strings.Join(options, ",")))
	}
	return b.String()
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
