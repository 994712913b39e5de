// SPDX-License-Identifier: Apache-2.0

// Package vm boots virtual machines for tests: Debian 12's stock kernel for
// amd64 or arm64 under QEMU, without KVM, with a small initramfs whose /init is
// an agent of ours (test/guest). A test runs programs in it, cuts its power
// and boots it again over the same disks.
//
//	m := vm.Start(t, vm.Config{Arch: vm.ARM64, Disks: []*vm.Disk{vm.NewDisk(t, 64<<20)}})
//	m.MustRun("mkfs.ext4", "-q", "/dev/vda")
//	m.Restart() // power cut, and on again
//	m.MustSh("mount /dev/vda /mnt && ls /mnt")
//
// What must run as root on a real kernel as a Go test of its own package goes
// into files *_vm_test.go with the build tag vm; TestPackages finds them by
// the tag, and runs them in the guest. What drives machines from the host has
// the build tag vmhost, so that a plain `go test ./...` boots nothing.
//
// github.com/anatol/vmtest was looked at. It gives a QEMU process and a serial
// console to expect text on: exit codes, separate streams, signals, files,
// power cuts, late disks and an initramfs would all have been ours to build on
// top of a console that the kernel writes to as well. With a port and an agent
// of our own that layer is smaller, and there is nothing left for it to do.
package vm
