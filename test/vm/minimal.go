// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"os"
	"path"
	"path/filepath"

	"imxcrypt/test/vm/initramfs"
)

// Minimal returns a tree of busybox alone, for a test's own initramfs or root
// filesystem: the applets, kernel modules with modprobe's indexes, and the simulated
// CAAM, which modprobe finds by its name.
func Minimal(t TB, arch Arch, modules ...string) initramfs.Tree {
	t.Helper()
	tree, err := minimal(context.Background(), arch, modules)
	if err != nil {
		t.Fatalf("vm: minimal tree: %v", err)
	}
	return tree
}

func minimal(ctx context.Context, arch Arch, modules []string) (initramfs.Tree, error) {
	p, err := arch.platform()
	if err != nil {
		return nil, err
	}
	im, err := prepare(ctx, arch, p)
	if err != nil {
		return nil, err
	}
	top, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	tree := initramfs.Tree{
		"/bin": {Link: "usr/bin"}, "/sbin": {Link: "usr/sbin"}, "/lib": {Link: "usr/lib"},
		"/usr/sbin/modprobe": {Link: "../bin/busybox"}, // the kernel calls it by this path
	}
	from := initramfs.Programs{Root: filepath.Join(top, "build/debian", string(arch), "root"), Triplet: p.triplet}
	if err := from.AddTo(tree, "busybox"); err != nil {
		return nil, err
	}
	applets, err := initramfs.BusyboxApplets(tree["/usr/bin/busybox"].Data)
	if err != nil {
		return nil, err
	}
	for _, name := range applets {
		if _, there := tree["/usr/bin/"+name]; !there {
			tree["/usr/bin/"+name] = initramfs.Entry{Link: "busybox"}
		}
	}
	if err := im.modules.AddTo(tree, modules...); err != nil {
		return nil, err
	}
	ko, err := simcaamModule(ctx, top, string(arch))
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(ko)
	if err != nil {
		return nil, err
	}
	const file = "extra/imxcrypt_simcaam.ko"
	tree[path.Join(im.modules.GuestDir(), file)] = initramfs.Entry{Data: data, Perm: 0o644}
	index := path.Join(im.modules.GuestDir(), "modules.dep")
	dep := tree[index]
	dep.Data = append(dep.Data, []byte(file+":\n")...)
	tree[index] = dep
	return tree, nil
}

// ModuleFiles returns the paths in the guest of modules and their dependencies, in the
// order in which to load them.
func ModuleFiles(t TB, arch Arch, modules ...string) []string {
	t.Helper()
	p, err := arch.platform()
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	im, err := prepare(context.Background(), arch, p)
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	order, err := im.modules.Order(modules...)
	if err != nil {
		t.Fatalf("vm: %v", err)
	}
	for i, file := range order {
		order[i] = path.Join(im.modules.GuestDir(), file)
	}
	return order
}

// SimCAAMModule builds the simulated CAAM's kernel module and returns its file.
func SimCAAMModule(t TB, arch Arch) string {
	t.Helper()
	top, err := moduleRoot()
	if err == nil {
		var ko string
		if ko, err = simcaamModule(context.Background(), top, string(arch)); err == nil {
			return ko
		}
	}
	t.Fatalf("vm: %v", err)
	return ""
}
