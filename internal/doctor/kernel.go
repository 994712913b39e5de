// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"compress/gzip"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// kernel is what is known about the running kernel.
type kernel struct {
	release string
	// options maps CONFIG_… to y, m or a value; nil if there is no record.
	options map[string]string
	// recorded is the file that the options come from.
	recorded string
	// modules is the folder of its modules.
	modules string
	// builtin holds the modules that are part of the kernel, loadable those that are
	// installed beside it, by file name without .ko.
	builtin, loadable map[string]bool
}

func (x *examination) readKernel() {
	k := &x.kernel
	k.release = x.text("/proc/sys/kernel/osrelease")
	modules := "/lib/modules/" + k.release
	k.modules = modules
	for _, name := range []string{"/proc/config.gz", "/boot/config-" + k.release, modules + "/config", modules + "/build/.config"} {
		b, err := x.bytes(name)
		if err == nil && strings.HasSuffix(name, ".gz") {
			b, err = gunzip(b)
		}
		if err == nil {
			k.options, k.recorded = parseOptions(b), name
			break
		}
	}
	k.builtin = moduleNames(x.text(modules + "/modules.builtin"))
	k.loadable = moduleNames(x.text(modules + "/modules.dep"))
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxFile))
}

// parseOptions reads a kernel's .config: lines of CONFIG_X=value. Options that are not
// set are in comments.
func parseOptions(b []byte) map[string]string {
	options := map[string]string{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			options[name] = value
		}
	}
	return options
}

// moduleNames reads modules.builtin or modules.dep: the first path of each line
// is a module's file.
func moduleNames(text string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _, ok := strings.Cut(filepath.Base(file), ".ko")
		if ok {
			names[strings.ReplaceAll(name, "_", "-")] = true
		}
	}
	return names
}

// has reports whether a module's code is in the kernel now: loaded, or built in.
func (x *examination) has(module string) bool {
	return x.exists("/sys/module/"+strings.ReplaceAll(module, "-", "_")) || x.kernel.builtin[module]
}

// there reports whether a module's code is in the kernel or can be loaded.
func (x *examination) there(module string) bool {
	return x.has(module) || x.kernel.loadable[module]
}

// algorithm is one entry of /proc/crypto.
type algorithm struct {
	name, driver, selftest string
	priority               int
}

// algorithms reads /proc/crypto: blocks of "key : value" lines.
func algorithms(text string) []algorithm {
	var all []algorithm
	for block := range strings.SplitSeq(text, "\n\n") {
		var a algorithm
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch strings.TrimSpace(key) {
			case "name":
				a.name = value
			case "driver":
				a.driver = value
			case "selftest":
				a.selftest = value
			case "priority":
				a.priority, _ = strconv.Atoi(value) // only shown
			}
		}
		if a.name != "" {
			all = append(all, a)
		}
	}
	return all
}

// best returns the algorithm that the kernel would choose for a name.
func best(all []algorithm, name string) (a algorithm, ok bool) {
	for _, c := range all {
		if c.name == name && (!ok || c.priority > a.priority) {
			a, ok = c, true
		}
	}
	return a, ok
}
