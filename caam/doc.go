// SPDX-License-Identifier: Apache-2.0

// Package caam talks to the CAAM of an i.MX chip through NXP's BSP kernels: the
// hardware creates and opens keys. The package is byte-compatible with the files of
// NXP's caam-keygen program.
//
// A key exists in two forms. The blob is what is stored; it opens only on the chip, and
// in the security state, that made it. The black key is what the kernel's tk() ciphers
// take; it is valid until power-off, and is only ever in locked memory ([BlackKey]). The
// red key never appears here, except as the argument of [Ioctl.CreateFrom].
//
// Two engines create and open keys: [Ioctl], directly through /dev/caam-keygen, and
// [Program], which runs NXP's program for BSPs whose ABI differs. Both give the same
// results and errors ([Error]).
package caam
