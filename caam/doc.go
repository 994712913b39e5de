// SPDX-License-Identifier: Apache-2.0

// Package caam talks to the CAAM of an i.MX chip as NXP's BSP kernels offer
// it: it has keys made and opened by the hardware, and knows the files that
// NXP's caam-keygen program writes, byte for byte.
//
// A key exists in two shapes. The blob is what is stored; it opens only on
// the chip, and in the security state, that made it. The black key is what
// the kernel's tk() ciphers take; it is good until power goes off, and lives
// in locked memory only ([BlackKey]). The red key is never seen here, except
// where [Ioctl.CreateFrom] is handed one on purpose.
//
// Two engines make and open keys: [Ioctl], straight over /dev/caam-keygen,
// and [Program], which drives NXP's program for BSPs whose ABI differs. Both
// give the same results and the same errors ([Error]).
package caam
