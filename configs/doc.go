// SPDX-License-Identifier: Apache-2.0

// Package configs is the configuration: its types, how the file is read, what
// is accepted in it, and examples that are known to load.
//
// The configuration is the authority over what a volume may be, because the
// header on the device is not authenticated. So it is read strictly: a field
// that is not known, a value of another type, a number without its unit, a
// name given twice is an error with its place in the file, what is wrong and
// what to write instead. Nothing is guessed, and nothing is taken from the
// environment or from other places than the one file. All that is wrong is
// told at once.
//
// A file that loads today loads with later versions too: fields are added,
// never renamed, and defaults that end up on a disk do not change.
package configs
