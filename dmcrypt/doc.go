// SPDX-License-Identifier: Apache-2.0

// Package dmcrypt loads dm-crypt's tables into the kernel's device-mapper,
// reads back what is live, and looks after the nodes in /dev/mapper.
//
// Tables are values, written and parsed in dmsetup's notation. Keys are given
// by reference only: there is no way to pass a key itself, and a key that
// stands in the clear in somebody else's table is not kept when that is read.
//
// A reference is resolved while the table is loaded, in the keyrings of the
// calling thread: [Mapper.Activate] and [Mapper.Load] run on the caller's
// thread from beginning to end, and the caller locks it to its goroutine.
//
// A mapping begins in private: udev is told to leave it alone, so that nothing
// probes or mounts a device whose key has not been proved. [Mapper.Announce]
// makes it public.
//
// Creating, loading and removing go through github.com/anatol/devmapper.go.
// What that does not do (suspend with flags, event numbers for udev, table
// read-back, dependencies, versions, renaming) are ioctls of our own, after
// include/uapi/linux/dm-ioctl.h.
package dmcrypt
