// SPDX-License-Identifier: Apache-2.0

// Package replay makes the disks that power cuts leave behind, from a record of what a
// real kernel wrote.
//
// A virtual machine writes to a [vm.Disk] whose LogWrites is set. QEMU logs each write,
// discard and flush in the format of the kernel's dm-log-writes. The log is loaded into
// the model of package crashtest, which knows what is durable at each flush, and which
// other writes may be present, missing or torn. Each state is written to a disk and
// opened again. Merely killing a machine loses nothing that was written, and so proves
// nothing about flushes.
//
// To use it, in a test with the tag vmhost:
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
// One machine opens all the images, either the recorded one or another. The host
// rewrites the file of the virtual disk between two runs, and the guest's kernel drops
// its cache of a device when the last program that had it open closes it. [Run.Durable]
// reports whether a state must hold what was recorded at a place.
//
// The cost of an image is the guest's work on it, a third of a second of an emulated
// processor and more; choosing and writing an image takes the host some milliseconds.
// So identical images are opened only once, and the check of an image starts as few
// programs as possible.
//
// If one command writes to two disks, each has its own log, and nothing shows their
// relative order. Two partitions of one disk have one log; a flush of one is then a
// flush of both. [Tape.Changes] finds writes to a disk that should have none.
//
// # What QEMU's log cannot show
//
// QEMU logs an operation when it has completed. A write that began after a flush and
// completed before it comes first in the log, and is then considered durable, though
// the guest could not know that. All writes that the guest knew to be complete when it
// requested the flush also come first, so nothing that was promised is considered lost.
package replay
