// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"imxcrypt/test/guest/wire"
	"imxcrypt/test/vm/initramfs"
)

// simcaamPath is the path of the simulated CAAM in the guest.
const simcaamPath = "/usr/lib/modules/imxcrypt_simcaam.ko"

// writeInitramfs writes the base image followed by this machine's own files.
func writeInitramfs(ctx context.Context, file string, cfg Config, im *image) error {
	tree, err := overlay(ctx, cfg, im)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// A complete system brings its own programs.
	if cfg.Root == "" {
		base, err := os.Open(im.base)
		if err != nil {
			return err
		}
		defer base.Close()
		if _, err := io.Copy(out, base); err != nil {
			return err
		}
	}
	if _, err := tree.WriteTo(out); err != nil {
		return err
	}
	return out.Close()
}

func overlay(ctx context.Context, cfg Config, im *image) (initramfs.Tree, error) {
	top, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	tree := initramfs.Tree{}
	if cfg.Root != "" {
		if err := im.modules.AddTo(tree, loadedFirst(cfg)...); err != nil {
			return nil, err
		}
	}
	add := func(name string, f File) error {
		e := initramfs.Entry{Data: f.Data, Perm: f.Mode, Link: f.Link}
		if f.Host != "" {
			if e.Data, err = os.ReadFile(f.Host); err != nil {
				return err
			}
		}
		if e.Perm == 0 {
			e.Perm = map[bool]fs.FileMode{true: 0o755, false: 0o644}[f.Host != ""]
		}
		tree[guestPath(name)] = e
		return nil
	}
	agent, err := buildAgent(ctx, top, cfg.Arch)
	if err != nil {
		return nil, err
	}
	files := map[string]File{"/init": {Host: agent}}
	if cfg.Imxcrypt != "" {
		files["/usr/bin/imxcrypt"] = File{Host: cfg.Imxcrypt}
	}
	settings, err := guestSettings(cfg, im)
	if err != nil {
		return nil, err
	}
	settings.Root = cfg.Root
	if cfg.SimCAAM != nil {
		ko, err := simcaamModule(ctx, top, cfg.kernelFlavour())
		if err != nil {
			return nil, err
		}
		files[simcaamPath] = File{Host: ko, Mode: 0o644}
		params := cfg.SimCAAM.params()
		if cfg.Mainline != nil {
			params = "soc=none " + params // that kernel has no nvmem for fuses
		}
		settings.Modules = append(settings.Modules, wire.Module{Path: simcaamPath, Params: params})
	}
	text, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	files[wire.SettingsPath] = File{Data: text}
	for _, set := range []map[string]File{files, cfg.ExtraFiles} {
		for name, f := range set {
			if err := add(name, f); err != nil {
				return nil, err
			}
		}
	}
	return tree, nil
}

// guestPath follows the guest's links of the merged /usr, because the kernel does not
// when it unpacks: it would replace a link with a directory.
func guestPath(name string) string {
	name = path.Clean("/" + name)
	first, rest, _ := strings.Cut(name[1:], "/")
	if rest != "" && slices.Contains([]string{"bin", "sbin", "lib", "lib64"}, first) {
		return "/usr" + name
	}
	return name
}

// loadedFirst returns the modules that the agent loads.
func loadedFirst(cfg Config) []string {
	modules := bootModules
	if b := cfg.Mainline; b != nil {
		modules = slices.Concat(mainlineDrivers, modules)
		if b.Keys == TEE {
			modules = slices.Concat([]string{"optee"}, modules)
		}
		if b.Keygen {
			modules = append(modules, "imxcrypt_jobcaam")
		}
		if b.Manual {
			modules = slices.DeleteFunc(modules, func(name string) bool { return name == "dm-crypt" })
		}
	}
	if cfg.Root == "" {
		return modules
	}
	// The kernel asks modprobe for ext4's checksum module, and modprobe does not exist
	// yet.
	return slices.Concat([]string{"crc32c_generic"}, modules)
}

func guestSettings(cfg Config, im *image) (wire.Settings, error) {
	var s wire.Settings
	order, err := im.modules.Order(loadedFirst(cfg)...)
	if err != nil {
		return s, err
	}
	withheld := map[string]bool{}
	for _, name := range cfg.Withhold {
		own, err := im.modules.Order(name)
		if err != nil {
			return s, fmt.Errorf("withhold: %w", err)
		}
		if len(own) == 0 {
			return s, fmt.Errorf("withhold: %s is built into the kernel", name)
		}
		withheld[own[len(own)-1]] = true
	}
	for file := range withheld {
		s.Withheld = append(s.Withheld, path.Join(im.modules.GuestDir(), file))
	}
	for _, file := range order {
		needs, err := im.modules.Order(file)
		if err != nil {
			return s, err
		}
		if !slices.ContainsFunc(needs, func(n string) bool { return withheld[n] }) {
			m := wire.Module{Path: path.Join(im.modules.GuestDir(), file)}
			if cfg.Mainline != nil && initramfs.ModuleName(file) == "trusted" {
				m.Params = cfg.Mainline.source()
			}
			s.Modules = append(s.Modules, m)
		}
	}
	return s, nil
}

func (s SimCAAM) params() string {
	var words []string
	if s.OTPMK != "" {
		words = append(words, "otpmk="+s.OTPMK)
	}
	closed := 0
	if s.Closed {
		closed = 1
	}
	words = append(words, fmt.Sprintf("closed=%d", closed))
	if s.Latency > 0 {
		words = append(words, fmt.Sprintf("latency_us=%d", s.Latency.Microseconds()))
	}
	if s.Params != "" {
		words = append(words, s.Params)
	}
	return strings.Join(words, " ")
}
