// SPDX-License-Identifier: Apache-2.0

// Package dmcrypt loads dm-crypt tables into the kernel's device-mapper, reads back
// live ones, and maintains the nodes in /dev/mapper.
//
// Tables are values, formatted and parsed in dmsetup's notation. Keys are passed only by
// reference: there is no way to pass a key itself, and a plain key in someone else's
// table is not kept when that table is read.
//
// Loading a table resolves the reference in the calling thread's keyrings:
// [Mapper.Activate] and [Mapper.Load] run entirely on the caller's thread, which the
// caller locks to its goroutine.
//
// A mapping starts private: flags keep udev from it, so that nothing probes or
// mounts a device whose key has not been proved. [Mapper.Announce] makes it public.
//
// Creating, loading and removing use github.com/anatol/devmapper.go. What that lacks
// (suspend with flags, event numbers for udev, table read-back, dependencies, versions,
// renaming) is done with our own ioctls, after include/uapi/linux/dm-ioctl.h.
package dmcrypt
