// SPDX-License-Identifier: Apache-2.0

// Package vm boots virtual machines for tests. They run Debian 12's stock kernel for
// amd64 or arm64 under QEMU, without KVM, with a small initramfs whose /init is our
// agent (test/guest). A test runs programs in a machine, cuts its power and boots it
// again with the same disks.
//
//	m := vm.Start(t, vm.Config{Arch: vm.ARM64, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20)}})
//	m.MustRun("mkfs.ext4", "-q", "/dev/vda")
//	m.Restart() // power cut, and on again
//	m.MustSh("mount /dev/vda /mnt && ls /mnt")
//
// Go tests that must run as root on a real kernel, inside their own package, are in
// files *_vm_test.go with the build tag vm. TestPackages finds them by the tag and runs
// them in the guest. Code that drives machines from the host has the build tag vmhost,
// so that a plain `go test ./...` boots nothing.
//
// We looked at github.com/anatol/vmtest. It provides a QEMU process and a serial
// console on which to expect text. We would have had to build exit codes, separate
// streams, signals, files, power cuts, late disks and an initramfs on top of a console
// to which the kernel writes as well. With our own port and agent this layer is
// smaller, and vmtest has nothing to add to it.
package vm
