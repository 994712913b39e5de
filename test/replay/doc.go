// SPDX-License-Identifier: Apache-2.0

// Package replay makes the disks that power cuts leave behind, from a record of
// what a real kernel wrote.
//
// A virtual machine writes to a [vm.Disk] whose LogWrites is set; QEMU logs each
// write, discard and flush in the format of the kernel's dm-log-writes. The log
// goes into the model of package crashtest, which knows what is durable at each
// flush and what of the rest may be there, missing or torn. Each state is laid
// onto a disk and opened again: merely killing a machine loses nothing that was
// written, and so proves nothing about flushes.
//
// The use, in a test with the tag vmhost:
//
//	recorded, bench := vm.NewDisk(t, 16<<20), vm.NewDisk(t, 16<<20)
//	recorded.LogWrites = recorded.Path + ".log"
//	tape := replay.Load(t, recorded)   // the disk as it is before it is recorded
//	m := vm.Start(t, vm.Config{…, Disks: []*vm.Disk{recorded, bench}})
//	begin := tape.Now(t)               // a place in the log
//	m.MustRun("imxcrypt", "rotate", "data") // of /dev/vda
//	end := tape.Now(t)
//	run := tape.Run(t)
//	for _, s := range run.Distinct(run.Sample(replay.Options{From: begin, To: end, PerCut: 3, Seed: 1})) {
//		run.Lay(t, bench, s)           // while nothing has /dev/vdb open
//		m.MustRun("imxcrypt", "unlock", "--mount", "data") // now of /dev/vdb
//		…
//		m.MustRun("imxcrypt", "lock", "data")
//	}
//
// One machine takes all the images, the one that is recorded or another: the
// host rewrites the file under the virtual disk between two runs, and the guest's
// kernel drops what it has cached of a device when the last who had it open
// closes it. [Run.Durable] reports whether a state must hold what was recorded at a
// place.
//
// What an image costs is what the guest does with it, a third of a second of an
// emulated processor and more; choosing and laying one takes the host some
// milliseconds. So images that are the same are opened once, and what checks them
// starts as few programs as it can.
//
// Where one command writes to two disks, each has its own log, and nothing shows
// their order. Two partitions of one disk have one log; a flush of one is then a flush of
// both. [Tape.Changes] finds writes to a disk that should have none.
//
// # What QEMU's log cannot show
//
// QEMU logs an operation when it has completed. A write that was begun after a
// flush and completed before it comes first in the log, and is then taken for
// durable, though the guest could not know that. All writes that the guest knew
// to be complete when it asked for the flush come first, too: nothing that was
// promised is taken for lost.
package replay
